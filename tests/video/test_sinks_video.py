"""Saved video: frames, size, colours, duration, audio."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.sinks import video
from emotion_lab.video.sinks.video import VideoSink
from tests.helpers_sinks import CLASSES, face, frame, frames_of, picture, result


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm", "a.mkv", "a.mov"])
@pytest.mark.parametrize("size", [(320, 240), (321, 241)])
def test_video_has_every_frame_at_its_size(
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
    assert capfd.readouterr().err == ""  # no messages from trying codecs


def test_video_keeps_the_colours(tmp_path: Path) -> None:
    image = picture()
    image[:] = (200, 40, 60)
    with VideoSink(tmp_path / "a.mp4", 25) as sink:
        sink.write(frame(), result(), image)
    shown = next(frames_of(tmp_path / "a.mp4"))
    assert shown.reshape(-1, 3).mean(0) == pytest.approx([200, 40, 60], abs=12)


def test_pictures_of_another_size_are_letterboxed(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.avi", 25) as sink:
        sink.write(frame(), result(), picture(320, 240, 200))
        sink.write(frame(), result(), picture(600, 1200, 200))
        sink.write(frame(), result(), picture(1, 1, 200))
    _, tall, _ = frames_of(tmp_path / "a.avi")
    assert tall.shape == (240, 320, 3)
    bright = np.flatnonzero(tall[120, :, 0] > 100)
    assert (bright[0], bright[-1]) == pytest.approx((100, 219), abs=2)


def test_video_of_a_live_source_has_its_duration(tmp_path: Path) -> None:
    """Frames at 0, 10, 20, 500 and 1000 ms, each with its own grey value, at 20 frames/s."""
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
def test_duration_is_right_for_any_capture_rate(tmp_path: Path, rate: float) -> None:
    with VideoSink(tmp_path / "a.avi", 25, (64, 48), live=True) as sink:
        for index in range(round(4 * rate)):
            sink.write(frame(), result(index, 100 + index / rate), picture(64, 48))
    assert sink.frames / 25 == pytest.approx(4.0, abs=1.5 / min(rate, 25))


def test_long_break_is_shortened(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "a.avi", 10, (64, 48), live=True) as sink:
        for index, time_s in enumerate((0.0, 3600.0, 3600.1)):
            sink.write(frame(), result(index, time_s), picture(64, 48))
    assert sink.frames == 102


def test_source_without_a_frame_rate(tmp_path: Path) -> None:
    for fps in (None, 0.0, float("nan")):
        sink = VideoSink(tmp_path / "a.avi", fps, (64, 48), overwrite=True)
        sink.close()
        assert sink.fps == 30


def test_video_errors_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"Unknown video format '.mpv'\. Did you mean '.mp4'"):
        VideoSink(tmp_path / "a.mpv", 25)
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        VideoSink(tmp_path / "a.mp4", 25)
    with pytest.raises(UserError, match="does not exist"):
        VideoSink(tmp_path / "none" / "a.mp4", 25)
    monkeypatch.setitem(video.CODECS, ".mp4", {"zzzz": {}})
    with pytest.raises(UserError, match=r"Cannot write .* 320x240"):
        VideoSink(tmp_path / "b.mp4", 25, (320, 240))
    assert capfd.readouterr().err == ""


def test_nearly_full_disk_ends_a_playable_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = VideoSink(tmp_path / "a.mp4", 25)
    sink.write(frame(), result(), picture())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(UserError, match=r"only 1 MiB left .* it has \d+ frames and plays"):
        for index in range(200):
            sink.write(frame(), result(index), picture())
    assert len(list(frames_of(tmp_path / "a.mp4"))) == sink.frames == 31
    sink.close()
    with pytest.raises(UserError, match="only 1 MiB left"):
        VideoSink(tmp_path / "b.mp4", 25, (64, 48))


def test_faces_are_hidden_in_the_saved_video(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    sharpness = {}
    for mode in ("none", "blur"):
        anonymizer = Anonymizer("blur", []) if mode == "blur" else None
        overlay = Overlay({"bars": "none"}, CLASSES, anonymizer=anonymizer)
        path = tmp_path / f"{mode}.avi"
        with VideoSink(path, 25) as sink:
            for index in range(3):
                output = result(index, index / 25, [face(box=(100.0, 70.0, 90.0, 110.0))])
                output.hidden = [output.faces[0].box]
                sink.write(frame(image), output, overlay.draw(image, output))
        inner = [cv2.cvtColor(i[80:170, 110:180], cv2.COLOR_RGB2GRAY) for i in frames_of(path)]
        sharpness[mode] = max(cv2.Laplacian(part, cv2.CV_64F).var() for part in inner)
    assert sharpness["blur"] < 0.005 * sharpness["none"]
