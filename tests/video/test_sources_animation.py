"""Animated images are clips; of other files with several pictures the first one is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from emotion_lab.video.sources.open import open_source
from tests.conftest import command
from tests.helpers_sinks import frame_times, lines

SHADES, DURATIONS_MS = (40, 100, 160, 220), (200, 100, 400, 100)


def write_animation(path: Path, size: tuple[int, int] = (60, 40)) -> Path:
    pictures = [Image.new("RGB", size, (shade, shade, shade)) for shade in SHADES]
    options = {} if path.suffix == ".tif" else {"duration": list(DURATIONS_MS), "lossless": True}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng", ".avif"])
def test_every_frame_of_an_animation_at_its_time(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    clip = write_animation(tmp_path / f"clip{suffix}")
    with open_source({"source": str(clip), "loop": True, "max_frames": 6}) as source:
        frames = list(source)
    assert not source.stills and source.fps == pytest.approx(5) and source.size == (60, 40)
    assert [f.image.mean() for f in frames] == pytest.approx([*SHADES, *SHADES[:2]], abs=3)
    assert [f.time_s for f in frames[:4]] == pytest.approx([0, 0.2, 0.3, 0.7])
    assert all(f.image.shape == (40, 60, 3) and f.image.dtype == np.uint8 for f in frames)


def test_predict_on_an_animation(tmp_path: Path) -> None:
    """It was one image: "no face", without a word on the other frames."""
    write_animation(tmp_path / "clip.gif")
    arguments = ["source=clip.gif", "detector=full_frame", "out=out", "save=out.mp4"]
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 frames, 4 of them with a face" in done.stdout
    rows = lines(tmp_path / "out" / "predictions.jsonl")
    assert [row["time_s"] for row in rows] == pytest.approx([0, 0.2, 0.3, 0.7])
    assert frame_times(tmp_path / "out.mp4") == pytest.approx([0, 0.2, 0.3, 0.7], abs=0.001)


def test_further_pictures_in_a_folder_are_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    for name in ("a.gif", "pages.tif"):
        write_animation(tmp_path / name)
    with open_source({"source": str(tmp_path)}) as source:
        assert len(list(source)) == 3
    assert capsys.readouterr().err == (
        "only the first picture is read of a.gif, pages.tif; name an animation by its path to "
        "read all frames.\n"
    )
    with open_source({"source": str(tmp_path / "pages.tif")}) as source:
        assert source.stills and len(list(source)) == 1
    assert "only the first picture is read of " in capsys.readouterr().err


def test_damaged_animation_is_one_line(tmp_path: Path) -> None:
    clip = write_animation(tmp_path / "clip.webp", (300, 200))
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) - 40])
    arguments = ["source=clip.webp", "detector=full_frame", "out=out"]
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "clip.webp" in done.stderr
    assert done.stderr.count("\n") == 1
