"""The sinks: log, video, summary, window."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.errors import UserError
from emotion_lab.faces.base import Face, Frame, FrameResult
from emotion_lab.faces.overlay import Overlay
from emotion_lab.faces.sinks import base, video, window
from emotion_lab.faces.sinks.jsonl import JsonlSink
from emotion_lab.faces.sinks.sound import copy_sound
from emotion_lab.faces.sinks.summary import SummarySink
from emotion_lab.faces.sinks.video import VideoSink
from emotion_lab.faces.sinks.window import WindowSink, gui_reason, toolkit
from emotion_lab.labels import EMOTIONS

CLASSES = list(EMOTIONS)
HAPPY, SAD = CLASSES.index("happy"), CLASSES.index("sad")
ROOT = Path(__file__).resolve().parents[1]


def face(label: int | None = HAPPY, key: int = 1) -> Face:
    raw = np.array([0.1, 0.05, 0.05, 0.6, 0.1, 0.05, 0.05], np.float32)
    smoothed = np.array([0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1], np.float32)
    box = (10.25, 20.5, 30.0, 40.0)
    return Face(key, tuple(np.float32(v) for v in box), np.float32(0.91), raw, smoothed, label)


def result(index: int = 0, time_s: float = 0.0, faces: list[Face] | None = None) -> FrameResult:
    return FrameResult(
        "clip.mp4", index, time_s, 1.7e9 + time_s, (320, 240), faces or [], latency_ms=4.5
    )


def picture(width: int = 320, height: int = 240, value: int = 0) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def frame(image: np.ndarray | None = None, index: int = 0, time_s: float = 0.0) -> Frame:
    return Frame(picture() if image is None else image, index, time_s, 1.7e9 + time_s, "clip.mp4")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames_of(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), path
    while True:
        done, image = capture.read()
        if not done:
            capture.release()
            return
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


# --- JSONL


def test_jsonl_says_everything_once_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path, CLASSES) as sink:
        sink.write(frame(), result(0, 0.0, [face(), face(None, 2)]), None)
        sink.write(frame(), result(1, 0.04), None)
    first, second = lines(path)
    assert set(first) == {"source", "frame", "time_s", "wall", "size", "faces", "latency_ms"}
    assert first["source"] == "clip.mp4" and first["size"] == [320, 240]
    assert first["latency_ms"] == 4.5 and first["wall"] == 1.7e9
    one, two = first["faces"]
    assert one["id"] == 1 and one["box"] == [10.25, 20.5, 30.0, 40.0]
    assert one["score"] == 0.91 and one["label"] == "happy"
    assert list(one["probabilities"]) == CLASSES and list(one["smoothed"]) == CLASSES
    assert one["probabilities"]["happy"] == 0.6 and one["smoothed"]["happy"] == 0.4
    assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert two["id"] == 2 and two["label"] is None
    assert second["faces"] == [] and second["frame"] == 1 and second["time_s"] == 0.04


def test_jsonl_never_overwrites_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UserError, match="exists already.*overwrite=true"):
        JsonlSink(path, CLASSES)
    assert path.read_text() == "mine\n"
    with JsonlSink(path, CLASSES, overwrite=True) as sink:
        sink.write(frame(), result())
    assert len(lines(path)) == 1
    with pytest.raises(UserError, match="No folder"):
        JsonlSink(tmp_path / "none" / "log.jsonl", CLASSES)
    with pytest.raises(UserError, match="is a folder"):
        JsonlSink(tmp_path, CLASSES)


def test_jsonl_refuses_what_is_no_number(tmp_path: Path) -> None:
    bad = face()
    bad.smoothed = np.full(7, np.nan, np.float32)
    with JsonlSink(tmp_path / "log.jsonl", CLASSES) as sink:
        with pytest.raises(ValueError, match="JSON compliant"):
            sink.write(frame(), result(0, 0, [bad]))
        sink.write(frame(), result(1))
    assert [row["frame"] for row in lines(tmp_path / "log.jsonl")] == [1]


def test_a_disk_that_fills_in_the_middle_of_a_line_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 1000
    write = os.write

    def full(file: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        done = write(file, data[:room])
        room -= done
        return done

    sink = JsonlSink(tmp_path / "log.jsonl", CLASSES)
    with monkeypatch.context() as patch, sink:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"No space left on device\. It holds \d whole"):
            for index in range(100):
                sink.write(frame(), result(index, 0, [face()]))
        room = 10**9
        sink.write(frame(), result(100))  # room again: the line goes where the torn one began
    rows = lines(tmp_path / "log.jsonl")
    assert [row["frame"] for row in rows] == [*range(len(rows) - 1), 100] and len(rows) > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_a_full_disk_is_one_line() -> None:
    with JsonlSink("/dev/full", CLASSES, overwrite=True) as sink:
        with pytest.raises(UserError, match="No space left on device") as caught:
            sink.write(frame(), result())
    assert "\n" not in str(caught.value)


_ENDLESS = """
import sys
from tests.test_sinks import CLASSES, JsonlSink, VideoSink, face, frame, picture, result
with JsonlSink(sys.argv[1], CLASSES) as log, VideoSink(sys.argv[2], 25) as video:
    index = 0
    while True:
        log.write(frame(), result(index, index / 25, [face()]))
        video.write(frame(), result(index, index / 25), picture(value=index % 200))
        index += 1
        if index == 20:
            print("going", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_whole_lines_and_a_video_that_plays(
    tmp_path: Path, kind: signal.Signals
) -> None:
    log, clip = tmp_path / "log.jsonl", tmp_path / "out.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(log), str(clip)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"going\n"
        process.send_signal(kind)
        process.wait(timeout=60)
    finally:
        process.kill()
    rows = lines(log)
    assert len(rows) >= 20 and [row["frame"] for row in rows] == [*range(len(rows))]
    assert log.read_bytes().endswith(b"}\n")
    if kind == signal.SIGINT:  # an MP4 gets its index on closing: a killed one has none
        assert abs(len(list(frames_of(clip))) - len(rows)) <= 1


# --- video


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


# --- summary


def summary(folder: Path) -> list[dict[str, str]]:
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_dwell_times_are_exact(tmp_path: Path) -> None:
    """25 fps: face 1 happy 1 s, uncertain 0.4 s, sad 0.6 s, away 1 s, happy 0.2 s; face 2 once."""
    plan: list[int | None | str] = [HAPPY] * 25 + [None] * 10 + [SAD] * 15 + ["away"] * 25
    plan += [HAPPY] * 5
    with SummarySink(tmp_path / "run", CLASSES) as sink:
        for index, label in enumerate(plan):
            faces = [] if label == "away" else [face(label, 1)]  # type: ignore[arg-type]
            if 10 <= index < 20:
                faces.append(face(None, 2))
            sink.write(frame(), result(index, index / 25, faces))
    one, two = summary(tmp_path / "run")
    want = {"id": "1", "first_s": "0.000", "last_s": "3.200", "seconds_seen": "2.200"}
    want |= {"frames": "55", "dominant": "happy", "switches": "2", "happy_s": "1.200"}
    want |= {"sad_s": "0.600", "uncertain_s": "0.400", "angry_s": "0.000"}
    assert {key: one[key] for key in want} == want
    want = {"id": "2", "first_s": "0.400", "last_s": "0.800", "seconds_seen": "0.400"}
    want |= {"frames": "10", "dominant": "uncertain", "switches": "0", "uncertain_s": "0.400"}
    assert {key: two[key] for key in want} == want
    assert list(one)[-8:] == [*(f"{name}_s" for name in CLASSES), "uncertain_s"]
    runs = [(round(a, 6), round(b, 6), k) for a, b, k in sink.faces[1].runs]
    assert runs == [(0, 1, HAPPY), (1, 1.4, None), (1.4, 2, SAD), (3, 3.2, HAPPY)]


def test_a_break_counts_for_a_second_at_most(tmp_path: Path) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index, time_s in enumerate((0.0, 0.5, 60.0, 60.5)):
            sink.write(frame(), result(index, time_s, [face()]))
    (one,) = summary(tmp_path)
    assert one["seconds_seen"] == "2.500"  # 0.5 + 1 + 0.5 + 0.5
    assert [(a, b) for a, b, _ in sink.faces[1].runs] == [(0.0, 1.5), (60.0, 61.0)]


def test_a_clip_that_starts_over(tmp_path: Path) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index, time_s in enumerate((0.0, 0.5, 0.0, 0.5)):
            sink.write(frame(), result(index, time_s, [face()]))
    (one,) = summary(tmp_path)
    assert (one["seconds_seen"], one["first_s"], one["last_s"]) == ("2.000", "0.000", "1.000")


def test_the_picture_shows_each_label_for_its_time(tmp_path: Path) -> None:
    from emotion_lab.faces.draw import COLOURS

    with SummarySink(tmp_path, CLASSES) as sink:
        for index in range(100):
            label = HAPPY if index < 75 else SAD
            sink.write(frame(), result(index, index / 25, [face(label)]))
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "timeline.png")), cv2.COLOR_BGR2RGB)
    counts = {}
    for name in ("happy", "sad", "fear"):
        near = np.abs(image.astype(int) - np.array(COLOURS[name])).max(axis=2) <= 2
        counts[name] = int(near.sum(axis=1).max())  # the longest row: the bar, not the legend
    assert counts["happy"] / counts["sad"] == pytest.approx(3, rel=0.05)
    assert counts["fear"] < 0.1 * counts["happy"]  # the legend only


@pytest.mark.parametrize("frames", [0, 1])
def test_a_run_without_a_face_says_so(tmp_path: Path, frames: int) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index in range(frames):
            sink.write(frame(), result(index))
    assert summary(tmp_path) == [] and (tmp_path / "timeline.png").stat().st_size > 1000


def test_a_summary_overwrites_nothing_and_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary.csv").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        SummarySink(tmp_path, CLASSES)
    with pytest.raises(UserError, match="Cannot make the folder"):
        SummarySink(tmp_path / "summary.csv" / "x", CLASSES)
    sink = SummarySink(tmp_path, CLASSES, overwrite=True)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        sink.close()
    assert (tmp_path / "summary.csv").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.csv"]


def test_memory_of_a_steady_face_does_not_grow(tmp_path: Path) -> None:
    sink, still, seen = SummarySink(tmp_path, CLASSES), frame(), [face()]
    for index in range(20_000):
        sink.write(still, result(index, index / 25, seen))
    assert len(sink.faces[1].runs) == 1
    assert sink.faces[1].runs[0][1] == pytest.approx(19_999 / 25)


# --- window

_HEADLESS = "  GUI:                           NONE\n\n  Media I/O: \n"
_QT = "  GUI:                           QT5\n    QT:   YES (ver 5.15.19 )\n"
_OLD = "  GUI: \n    GTK+:                        YES (ver 3.24.20)\n    VTK support:  NO\n"


@pytest.mark.parametrize(("text", "name"), [(_HEADLESS, None), (_QT, "QT5"), (_OLD, "GTK")])
def test_the_toolkit_is_read(monkeypatch: pytest.MonkeyPatch, text: str, name: str | None) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: f"\nGeneral\n{text}\n")
    assert toolkit() == name


def test_why_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: _HEADLESS)
    reason = gui_reason()
    assert reason is not None and "pip" in reason and "display=web" in reason
    with pytest.raises(UserError, match="Cannot show a window: this OpenCV has no windows"):
        WindowSink()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: _QT)
    monkeypatch.setattr(window.sys, "platform", "linux")
    reason = gui_reason()
    assert reason is not None and "DISPLAY is not set" in reason and "\n" not in reason
    monkeypatch.setattr(window.sys, "platform", "darwin")
    assert gui_reason() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is of Linux")
@pytest.mark.skipif(toolkit() is None, reason="this OpenCV has no windows")
def test_a_screen_that_is_not_there_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    reason = gui_reason()  # Qt would end this very process
    assert reason is not None and ":987" in reason and "display=web" in reason


class FakeScreen:
    """Stands in for OpenCV's windows: hands out keys, keeps what was shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
        self.keys = list(keys)
        self.shown: list[np.ndarray] = []
        self.visible = 1.0
        for name in ("namedWindow", "resizeWindow", "destroyWindow"):
            monkeypatch.setattr(cv2, name, lambda *args: None)
        monkeypatch.setattr(cv2, "imshow", lambda title, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", self.key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: self.visible)

    def key(self, wait_ms: int) -> int:
        key = self.keys.pop(0) if self.keys else "."
        return -1 if key == "." else ord(key)


def test_the_keys_of_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # Frame 1: nothing. 2: d. 3: pause, s within it, go on. 4: q. After that nothing is shown.
    screen = FakeScreen(monkeypatch, ".d .s q")
    image = picture()
    image[:] = (200, 40, 60)
    with WindowSink(folder=tmp_path / "shots", checked=True) as sink:
        for index in range(5):
            if not sink.stopped:
                sink.write(frame(), result(index), image)
            if index == 1:
                assert sink.debug and not sink.stopped
            if index == 2:
                assert len(sink.snapshots) == 1 and not sink.stopped
        assert sink.stopped
    assert len(screen.shown) == 4
    assert tuple(screen.shown[0][0, 0]) == (60, 40, 200)  # OpenCV shows BGR
    (shot,) = (tmp_path / "shots").iterdir()
    assert cv2.cvtColor(cv2.imread(str(shot)), cv2.COLOR_BGR2RGB).tolist() == image.tolist()
    assert str(shot) in capsys.readouterr().err


def test_a_snapshot_hides_faces_where_the_video_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeScreen(monkeypatch, "s")
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    seen = face()
    seen.box = (100.0, 70.0, 90.0, 110.0)
    known = result(0, 0.0, [seen])
    drawn = Overlay({"bars": "none"}, CLASSES, anonymize="blur").draw(image, known)
    with WindowSink(folder=tmp_path, checked=True) as sink:
        sink.write(frame(image), known, drawn)
    shot = cv2.imread(str(sink.snapshots[0]), cv2.IMREAD_GRAYSCALE)
    assert cv2.Laplacian(shot[80:170, 110:180], cv2.CV_64F).var() < 10


def test_closing_the_window_stops_even_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, " ")
    sink = WindowSink(checked=True)
    asked = 0

    def gone(*args: object) -> float:
        nonlocal asked
        asked += 1
        return 1.0 if asked < 4 else 0.0

    monkeypatch.setattr(cv2, "getWindowProperty", gone)
    began = time.monotonic()
    sink.write(frame(), result(), picture())
    assert sink.stopped and time.monotonic() - began < 5
    sink.close()
    assert len(screen.shown) == 1


def test_a_snapshot_that_fails_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    FakeScreen(monkeypatch, "s.")
    (tmp_path / "file").write_text("in the way")
    sink = WindowSink(folder=tmp_path / "file", checked=True)
    sink.write(frame(), result(), picture())
    assert not sink.stopped and not sink.snapshots
    assert capsys.readouterr().err.startswith("no snapshot: ")
