"""A window on the user's screen: q quit, space pause, s snapshot, d debug."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sinks.base import Sink, write_png
from emotion_lab.video.types import Frame, FrameResult

_PROBE_S = 20
_PROBE = "import cv2; cv2.namedWindow('emotion_lab'); cv2.destroyAllWindows()"
_INSTEAD = "or set display=web"


def toolkit() -> str | None:
    """Return the window toolkit this OpenCV was built with, None for a headless one."""
    text = cv2.getBuildInformation()
    found = re.search(r"^\s*GUI:[ \t]*(.*)$", text, re.MULTILINE)
    name = found.group(1).strip() if found else ""
    if not name:  # older builds name the toolkits on the lines below
        below = text[found.end() : found.end() + 600] if found else ""
        name = next(
            (n for n in ("QT", "GTK", "Win32 UI", "Cocoa") if re.search(rf"{n}.*:\s*YES", below)),
            "NONE",
        )
    return None if name.upper() == "NONE" else name


def gui_reason() -> str | None:
    """Say in one line why no window can be opened and what helps; None if one can.

    Nothing is opened in this process: where Qt finds no screen it ends the process, which no
    ``except`` can catch. On Linux a process of its own tries it first.
    """
    name = toolkit()
    if name is None:
        return (
            "this OpenCV has no windows: pip uninstall -y opencv-python-headless, then "
            f"pip install --force-reinstall --no-deps 'opencv-python<5', {_INSTEAD}"
        )
    if not sys.platform.startswith("linux"):
        return None
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return f"there is no screen (DISPLAY is not set): log in on a desktop, {_INSTEAD}"
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"the screen {screen} does not answer: check DISPLAY, {_INSTEAD}"
    if tried.returncode != 0:
        return f"{name} cannot open a window on the screen {screen}: check DISPLAY, {_INSTEAD}"
    return None


class WindowSink(Sink):
    """Shows the drawn frames; a snapshot stores what is shown, so hidden faces stay hidden.

    Args:
        title: Of the window; must be plain ASCII for some toolkits.
        folder: Where snapshots go; made by the first one.
        checked: Set when :func:`gui_reason` has been asked already and said None.

    Attributes:
        stopped: The user pressed q or Esc or closed the window.
        debug: The user wants ``info["debug"]``.
        snapshots: Files written.

    Raises:
        UserError: If no window can be opened.
    """

    wants_picture = True

    def __init__(
        self, title: str = "emotion_lab", folder: str | Path = ".", checked: bool = False
    ) -> None:
        reason = None if checked else gui_reason()
        if reason is not None:
            raise UserError(f"Cannot show a window: {reason}.")
        self.title = title
        self.folder = Path(folder).expanduser()
        self.stopped = False
        self.debug = False
        self.snapshots: list[Path] = []
        self._open = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Show a picture and obey the keys; returns when the user goes on after a pause."""
        if drawn is None:
            raise ValueError("no picture was drawn")
        if self.stopped:
            return
        if not self._open:
            # Without GUI_NORMAL Qt adds a toolbar, which shrinks the picture.
            flags = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
            cv2.namedWindow(self.title, flags)
            cv2.resizeWindow(self.title, min(drawn.shape[1], 1280), min(drawn.shape[0], 720))
            self._open = True
        cv2.imshow(self.title, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        paused = self._obey(cv2.waitKey(1), drawn, result)
        while paused and not self.stopped:
            paused = not self._obey(cv2.waitKey(30), drawn, result)

    def _obey(self, key: int, drawn: np.ndarray, result: FrameResult) -> bool:
        """Act on a key; return True for the space bar."""
        key = key & 0xFF if key >= 0 else -1
        if key in (ord("q"), 27) or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            self.stopped = True
        elif key == ord("s"):
            self.snapshot(drawn, result)
        elif key == ord("d"):
            self.debug = not self.debug
        return key == ord(" ")

    def snapshot(self, drawn: np.ndarray, result: FrameResult) -> None:
        """Write the picture as a PNG and say where; a failure is said and ends nothing."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = self.folder / f"snapshot-{stamp}-{result.frame:06d}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_png(path, drawn)
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
            cv2.waitKey(1)  # lets the toolkit carry it out
