"""What the tests of the sources share: numbered clips, real ones, no thread left behind."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.video.sources.open import open_source
from tests.conftest import SHARED

MEDIA = SHARED / "media"


def write_clip(path: Path, frames: int = 60, fps: float = 25.0) -> Path:
    """Write a clip that is red above, and below shows the frame's number in six black or white
    squares, the lowest bit on the left."""
    coding = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*coding), fps, (96, 64))
    assert writer.isOpened()
    for i in range(frames):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:32] = (0, 0, 255)  # red, in OpenCV's order
        image[32:] = np.repeat([255 * (i >> bit & 1) for bit in range(6)], 16)[None, :, None]
        writer.write(image)
    writer.release()
    return path


def number(image: np.ndarray) -> int:
    """Return which frame of :func:`write_clip` this is."""
    bits = image[36:60].mean((0, 2)).reshape(6, 16)[:, 4:12].mean(1) > 128
    return int(bits @ (1 << np.arange(6)))


def capture_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("capture")]


@contextlib.contextmanager
def threads_end() -> Iterator[None]:
    """Fail if a thread of a source is left at the end."""
    yield
    gc.collect()
    assert capture_threads() == []


def only(cfg: dict[str, Any]) -> np.ndarray:
    """Return the one image of a source."""
    with open_source(cfg) as source:
        (frame,) = source
        assert source.stills and source.count == 1 and not source.live
        assert source.size == frame.image.shape[1::-1]
    assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3
    return frame.image


def media(name: str) -> Path:
    path = MEDIA / name
    if not path.is_file():
        pytest.skip(f"the shared {name} is not here")
    return path
