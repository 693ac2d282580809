"""The saved video: every frame, its size, its colours, its duration, its sound."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.sinks import video
from emotion_lab.video.sinks.audio import copy_sound
from emotion_lab.video.sinks.video import VideoSink
from tests.helpers_sinks import CLASSES, face, frame, frames_of, picture, result


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm", "a.mkv", "a.mov"])
@pytest.mark.parametrize("size", [(320, 240), (321, 241)])
def test_a_video_has_every_frame_at_its_size(
    tmp_path: Path, name: str, size: tuple[int, int], capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / name
    with VideoSink(path, 20.0, size) as sink:
        for index in range(15):
            sink.write(frame(), result(index, index / 20), picture(*size, value=10 * index + 20))
    shown = list(frames_of(path))
    assert sink.frames == len(shown) == 15
    assert shown[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    for index, image in enumerate(shown):
        assert image.mean() == pytest.approx(10 * index + 20, abs=6)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, abs=0.1)
    assert capfd.readouterr().err == ""  # trying codecs makes no noise


def test_the_video_keeps_the_colours(tmp_path: Path) -> None:
    image = picture()
    image[:] = (200, 40, 60)
    with VideoSink(tmp_path / "a.mp4", 25) as sink:
        sink.write(frame(), result(), image)
    shown = next(frames_of(tmp_path / "a.mp4"))
    assert shown.reshape(-1, 3).mean(0) == pytest.approx([200, 40, 60], abs=12)


def test_pictures_of_another_size_are_fitted_in(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.avi", 25) as sink:
        sink.write(frame(), result(), picture(320, 240, 200))
        sink.write(frame(), result(), picture(600, 1200, 200))
        sink.write(frame(), result(), picture(1, 1, 200))
    _, tall, _ = frames_of(tmp_path / "a.avi")
    assert tall.shape == (240, 320, 3)
    bright = np.flatnonzero(tall[120, :, 0] > 100)
    assert (bright[0], bright[-1]) == pytest.approx((100, 219), abs=2)


def test_a_live_source_lasts_as_long_as_it_did(tmp_path: Path) -> None:
    """Frames at 0, 10, 20, 500 and 1000 ms, and a shade each, into 20 frames a second."""
    times, shades = (0.0, 0.01, 0.02, 0.5, 1.0), (40, 80, 120, 160, 200)
    with VideoSink(tmp_path / "a.avi", 20, live=True) as sink:
        for index, (time_s, shade) in enumerate(zip(times, shades, strict=True)):
            sink.write(frame(), result(index, time_s), picture(value=shade))
    shown = [round(image.mean()) for image in frames_of(tmp_path / "a.avi")]
    assert len(shown) == 21  # one second and the last frame
    assert shown[0] == pytest.approx(40, abs=3)
    assert shown[1:10] == pytest.approx([120] * 9, abs=3)
    assert shown[10:20] == pytest.approx([160] * 10, abs=3)
    assert shown[20] == pytest.approx(200, abs=3)


@pytest.mark.parametrize("rate", [7.0, 31.0, 90.0])
def test_any_capture_rate_gives_the_right_duration(tmp_path: Path, rate: float) -> None:
    with VideoSink(tmp_path / "a.avi", 25, (64, 48), live=True) as sink:
        for index in range(round(4 * rate)):
            sink.write(frame(), result(index, 100 + index / rate), picture(64, 48))
    assert sink.frames / 25 == pytest.approx(4.0, abs=1.5 / min(rate, 25))


def test_a_long_break_is_shortened(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.avi", 10, (64, 48), live=True) as sink:
        for index, time_s in enumerate((0.0, 3600.0, 3600.1)):
            sink.write(frame(), result(index, time_s), picture(64, 48))
    assert sink.frames == 102


def test_a_source_without_a_rate(tmp_path: Path) -> None:
    for fps in (None, 0.0, float("nan")):
        sink = VideoSink(tmp_path / "a.avi", fps, (64, 48), overwrite=True)
        sink.close()
        assert sink.fps == 30


def test_a_video_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"Unknown video format '.mpv'\. Did you mean '.mp4'"):
        VideoSink(tmp_path / "a.mpv", 25)
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        VideoSink(tmp_path / "a.mp4", 25)
    with pytest.raises(UserError, match="No folder"):
        VideoSink(tmp_path / "none" / "a.mp4", 25)
    monkeypatch.setitem(video.CODECS, ".mp4", ("zzzz",))
    with pytest.raises(UserError, match="OpenCV cannot write .* 320x240"):
        VideoSink(tmp_path / "b.mp4", 25, (320, 240))
    assert capfd.readouterr().err == ""


def test_a_disk_nearly_full_ends_the_video_and_it_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = VideoSink(tmp_path / "a.mp4", 25)
    sink.write(frame(), result(), picture())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(UserError, match=r"only 1 MiB left .* it holds \d+ frames and plays"):
        for index in range(200):
            sink.write(frame(), result(index), picture())
    assert len(list(frames_of(tmp_path / "a.mp4"))) == sink.frames == 31
    sink.close()
    with pytest.raises(UserError, match="only 1 MiB left"):
        VideoSink(tmp_path / "b.mp4", 25, (64, 48))


def test_faces_are_hidden_in_the_saved_video(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    sharp = {}
    for mode in ("none", "blur"):
        overlay = Overlay({"bars": "none"}, CLASSES, anonymize=mode)
        seen = face()
        seen.box = (100.0, 70.0, 90.0, 110.0)
        path = tmp_path / f"{mode}.avi"
        with VideoSink(path, 25) as sink:
            for index in range(3):
                known = result(index, index / 25, [seen])
                sink.write(frame(image), known, overlay.draw(image, known))
        inner = [cv2.cvtColor(i[80:170, 110:180], cv2.COLOR_RGB2GRAY) for i in frames_of(path)]
        sharp[mode] = max(cv2.Laplacian(part, cv2.CV_64F).var() for part in inner)
    assert sharp["blur"] < 0.005 * sharp["none"]


def test_sound_that_cannot_be_copied_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with VideoSink(tmp_path / "a.mp4", 25, sound_from="clip.mp4") as sink:
        sink.write(frame(), result(), picture())
    assert capsys.readouterr().err == "a.mp4 has no sound: ffmpeg is not installed\n"
    assert len(list(frames_of(tmp_path / "a.mp4"))) == 1


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_sound_is_copied(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=d=2:s=320x240:r=25"]
    tone = ["-f", "lavfi", "-i", "sine=440:d=2"]
    for name, extra in (("clip.mp4", tone), ("mute.mp4", [])):
        command = ["ffmpeg", "-y", "-v", "error", *source, *extra, "-c:v", "mpeg4"]
        subprocess.run([*command, str(tmp_path / name)], check=True)
    for name in ("a.mp4", "b.avi", "c.webm"):
        out = tmp_path / name
        with VideoSink(out, 25, sound_from=clip) as sink:
            for index in range(30):  # stopped before the clip's end
                sink.write(frame(), result(index, index / 25), picture(value=index))
        told = subprocess.run(["ffmpeg", "-i", str(out)], capture_output=True, text=True).stderr
        assert "Audio:" in told and "Video:" in told, told
        assert len(list(frames_of(out))) == 30
    assert copy_sound(tmp_path / "a.mp4", tmp_path / "mute.mp4").endswith("the clip has none")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
