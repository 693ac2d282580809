"""Window sink: availability, keys, snapshots."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.sinks import window
from emotion_lab.video.sinks.window import WindowSink, toolkit, window_problem
from tests.helpers_sinks import CLASSES, face, frame, picture, result

_HEADLESS = "  GUI:                           NONE\n\n  Media I/O: \n"
_QT = "  GUI:                           QT5\n    QT:   YES (ver 5.15.19 )\n"
_OLD = "  GUI: \n    GTK+:                        YES (ver 3.24.20)\n    VTK support:  NO\n"


@pytest.mark.parametrize(("text", "name"), [(_HEADLESS, None), (_QT, "QT5"), (_OLD, "GTK")])
def test_toolkit_is_read_from_the_build_information(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str | None
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: f"\nGeneral\n{text}\n")
    assert toolkit() == name


def test_window_problem_names_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: _HEADLESS)
    reason = window_problem()
    assert reason is not None and "pip" in reason
    with pytest.raises(
        UserError,
        match=r"Cannot show a window: this OpenCV is built without windows.*, or set display=web",
    ):
        WindowSink()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: _QT)
    monkeypatch.setattr(window.sys, "platform", "linux")
    reason = window_problem()
    assert reason is not None and "DISPLAY is not set" in reason and "\n" not in reason
    monkeypatch.setattr(window.sys, "platform", "darwin")
    assert window_problem() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY exists on Linux only")
@pytest.mark.skipif(toolkit() is None, reason="this OpenCV is built without windows")
def test_missing_screen_does_not_abort_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    reason = window_problem()  # in this process, Qt would abort
    assert reason is not None and ":987" in reason


class FakeScreen:
    """Replaces OpenCV's windows: returns the given keys and records the shown images."""

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


def test_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # Frame 1: no key. 2: d. 3: pause, snapshot, resume. 4: q. Nothing is shown afterwards.
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
    (snapshot,) = (tmp_path / "shots").iterdir()
    assert cv2.cvtColor(cv2.imread(str(snapshot)), cv2.COLOR_BGR2RGB).tolist() == image.tolist()
    assert str(snapshot) in capsys.readouterr().err


def test_snapshot_hides_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeScreen(monkeypatch, "s")
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    output = result(0, 0.0, [face(box=(100.0, 70.0, 90.0, 110.0))])
    output.hidden = [output.faces[0].box]
    overlay = Overlay({"bars": "none"}, CLASSES, anonymizer=Anonymizer("blur", []))
    drawn = overlay.draw(image, output)
    with WindowSink(folder=tmp_path, checked=True) as sink:
        sink.write(frame(image), output, drawn)
    snapshot = cv2.imread(str(sink.snapshots[0]), cv2.IMREAD_GRAYSCALE)
    assert cv2.Laplacian(snapshot[80:170, 110:180], cv2.CV_64F).var() < 10


def test_closing_the_window_during_a_pause_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(monkeypatch, " ")
    sink = WindowSink(checked=True)
    visible = iter([1.0, 1.0, 1.0])
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: next(visible, 0.0))
    start = time.monotonic()
    sink.write(frame(), result(), picture())
    assert sink.stopped and time.monotonic() - start < 5
    sink.close()
    assert len(screen.shown) == 1


def test_failed_snapshot_is_reported_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    FakeScreen(monkeypatch, "s.")
    (tmp_path / "file").write_text("")
    sink = WindowSink(folder=tmp_path / "file", checked=True)
    sink.write(frame(), result(), picture())
    assert not sink.stopped and not sink.snapshots
    assert capsys.readouterr().err.startswith("no snapshot: ")


def test_key_n_starts_the_enrolment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[bool] = []

    def enrol() -> None:
        calls.append(True)
        if len(calls) > 1:
            raise UserError("start with enrol_reference=<run>.")

    FakeScreen(monkeypatch, "nn")
    sink = WindowSink(checked=True, on_neutral=enrol)
    for _ in range(2):
        sink.write(frame(), result(), picture())
    assert not sink.stopped
    first, second = capsys.readouterr().err.splitlines()
    assert first == "neutral: look neutral for 3 seconds"
    assert second == "no enrolment: start with enrol_reference=<run>."
