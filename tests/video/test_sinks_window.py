"""The window: whether there can be one, its keys, its snapshots."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.sinks import window
from emotion_lab.video.sinks.window import WindowSink, gui_reason, toolkit
from tests.helpers_sinks import CLASSES, face, frame, picture, result

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
