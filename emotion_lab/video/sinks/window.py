"""Shows the drawn frames in a window.

Keys: q quit, space pause, s snapshot, d debug, n neutral face.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sinks.base import Sink, write_image
from emotion_lab.video.types import Frame, FrameResult

_PROBE_TIMEOUT_S = 20
_PROBE = "import cv2; cv2.namedWindow('emotion_lab'); cv2.destroyAllWindows()"


def toolkit() -> str | None:
    """Return the window toolkit of this OpenCV build, or None for a headless build."""
    text = cv2.getBuildInformation()
    match = re.search(r"^\s*GUI:[ \t]*(.*)$", text, re.MULTILINE)
    if match is None:
        return None
    name = match.group(1).strip()
    if not name:  # older builds list the toolkits on the following lines
        section = text[match.end() : match.end() + 600]
        names = ("QT", "GTK", "Win32 UI", "Cocoa")
        name = next((n for n in names if re.search(rf"{n}.*:\s*YES", section)), "NONE")
    return None if name.upper() == "NONE" else name


def window_problem() -> str | None:
    """Return in one line why no window can be opened and how to fix it; None if one can.

    On Linux a window is opened in a subprocess first: without a display, Qt aborts the process,
    which cannot be caught as an exception.
    """
    name = toolkit()
    if name is None:
        return (
            "this OpenCV is built without windows: pip uninstall -y opencv-python-headless, then "
            "pip install --force-reinstall --no-deps 'opencv-python<5'"
        )
    if not sys.platform.startswith("linux"):
        return None
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not screen:
        return "there is no screen (DISPLAY is not set): log in on a desktop"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"the screen {screen} does not respond: check DISPLAY"
    if probe.returncode != 0:
        return f"{name} cannot open a window on the screen {screen}: check DISPLAY"
    return None


class WindowSink(Sink):
    """Shows the drawn frames; snapshots store what is shown, so hidden faces stay hidden.

    Args:
        folder: Snapshot folder; created by the first snapshot.
        checked: Whether the caller has already called :func:`window_problem`.
        on_neutral: Called by the key n.
    """

    wants_picture = True

    def __init__(
        self,
        title: str = "emotion_lab",
        folder: str | Path = ".",
        checked: bool = False,
        on_neutral: Callable[[], None] = lambda: None,
    ) -> None:
        problem = None if checked else window_problem()
        if problem is not None:
            raise UserError(f"Cannot show a window: {problem}, or set display=web.")
        self.title = title
        self.folder = Path(folder).expanduser()
        self.on_neutral = on_neutral
        self.stopped = False
        self.debug = False
        self.snapshots: list[Path] = []
        self._open = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Show a frame and handle the keys; during a pause this call does not return."""
        if drawn is None:
            raise ValueError("drawn is required")
        if self.stopped:
            return
        if not self._open:
            # Without GUI_NORMAL Qt adds a toolbar, which shrinks the picture.
            flags = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
            cv2.namedWindow(self.title, flags)
            cv2.resizeWindow(self.title, min(drawn.shape[1], 1280), min(drawn.shape[0], 720))
            self._open = True
        cv2.imshow(self.title, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        paused = self._handle_key(cv2.waitKey(1), drawn, result)
        while paused and not self.stopped:
            paused = not self._handle_key(cv2.waitKey(30), drawn, result)

    def _handle_key(self, key: int, drawn: np.ndarray, result: FrameResult) -> bool:
        """Handle a key; return True for the space bar."""
        key = key & 0xFF if key >= 0 else -1
        if key in (ord("q"), 27) or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            self.stopped = True
        elif key == ord("s"):
            self.snapshot(drawn, result)
        elif key == ord("d"):
            self.debug = not self.debug
        elif key == ord("n"):
            self._enrol()
        return key == ord(" ")

    def _enrol(self) -> None:
        """Start the enrolment; a failure is printed and not raised."""
        try:
            self.on_neutral()
        except UserError as error:
            print(f"no enrolment: {error}", file=sys.stderr)
            return
        print("neutral: look neutral for 3 seconds", file=sys.stderr)

    def snapshot(self, drawn: np.ndarray, result: FrameResult) -> None:
        """Write the frame as a PNG and print its path; a failure is printed and not raised."""
        timestamp = time.strftime("%Y%m%d-%H%M%S")
        path = self.folder / f"snapshot-{timestamp}-{result.frame:06d}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_image(path, drawn)
        except (UserError, OSError) as error:
            print(f"no snapshot: {error}", file=sys.stderr)
            return
        self.snapshots.append(path)
        print(f"snapshot: {path}", file=sys.stderr)

    def close(self) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            if cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1:
                cv2.destroyWindow(self.title)
            cv2.waitKey(1)  # lets the toolkit process the event
