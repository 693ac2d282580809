"""Display metadata of clips: pictures as a player shows them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.video.sinks.video import VideoSink
from emotion_lab.video.sources import display
from emotion_lab.video.sources.display import DisplayTransform
from emotion_lab.video.sources.open import open_source
from tests.helpers_sinks import result, write_media


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
@pytest.mark.parametrize(
    ("sar", "shown"), [((64, 45), (137, 64)), ((8, 15), (96, 120)), ((1, 1), (96, 64))]
)
def test_pixels_become_square_and_the_saved_video_keeps_the_shape(
    tmp_path: Path, name: str, sar: tuple[int, int], shown: tuple[int, int]
) -> None:
    """A PAL 16:9 clip was classified in its stored shape, where faces are too narrow."""
    clip = write_media(tmp_path / name, [0, 0.1, 0.2], sar=Fraction(*sar))
    source = open_source({"source": str(clip), "loop": True, "max_frames": 5})
    with source, VideoSink(tmp_path / "out.mp4", source.fps) as sink:
        assert source.size == shown
        for frame in source:
            assert frame.image.shape == (shown[1], shown[0], 3)
            sink.write(frame, result(frame.index, frame.time_s), frame.image)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_SAR_NUM) in (0, 1)  # not stored, or square
    assert capture.get(cv2.CAP_PROP_FRAME_WIDTH) == shown[0] + shown[0] % 2


def shown(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Apply a display matrix pixel by pixel: x' = a x + c y, y' = b x + d y."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    out = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    out[y, x] = image
    return out


@pytest.mark.parametrize("a", [-1, 0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("other", [-1, 1])
def test_every_display_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: int, sign: int, other: int
) -> None:
    """OpenCV turned a mirrored clip upside down."""
    matrix = (a, 0, 0, other) if a else (0, sign, other, 0)
    clip = write_media(tmp_path / "clip.mp4", [0, 0.1])
    capture = cv2.VideoCapture(str(clip))
    monkeypatch.setattr(display, "_matrix", lambda path: tuple(65536 * v for v in matrix))
    transform = display.display_transform(capture, str(clip))
    assert capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) == 0
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    assert (transform(image) == shown(image, *matrix)).all()


def test_rotated_pixels_are_stretched_before_they_are_turned() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    assert DisplayTransform(transposed=True, aspect=2.0)(image).shape == (120, 40, 3)
    assert DisplayTransform(aspect=0.5)(image).shape == (80, 60, 3)
