"""Cameras and streams through OpenCV: frames come by themselves, and may stop coming."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.sources.video_file import ELSEWHERE, VideoFileReader, quiet, say, to_rgb
from emotion_lab.video.types import Frame

DEVICES = Path("/dev")
SYSFS = Path("/sys/class/video4linux")  # the names of cameras on Linux
OPEN_S, READ_S = 5.0, 4.0  # of a stream: to connect, to the next frame
DEADLINE_S = 12.0  # of opening anything: a name look-up or a driver keeps no timeout of its own
BACKOFF_S = (0.25, 4.0)  # between attempts to get a source back: first, longest


def cameras() -> list[tuple[int, str]]:
    """Return (index, name) of the cameras Linux knows, empty elsewhere."""
    found = []
    for place in SYSFS.glob("video*"):
        number = place.name.removeprefix("video")
        try:
            # A webcam has further nodes that hold no picture; its first is the camera.
            main = (place / "index").read_text().strip() == "0"
            if main and number.isdigit():
                found.append((int(number), (place / "name").read_text().strip()))
        except OSError:
            continue
    return sorted(found)


def list_cameras() -> str:
    """Return the end of a sentence that names the cameras, empty where they cannot be listed."""
    if sys.platform != "linux":
        return ""
    named = ", ".join(f"{index} ({name})" for index, name in cameras())
    return f" Cameras here: {named or 'none'}."


def _within(seconds: float, work: Callable[[], Any], late: UserError) -> Any:
    """Return ``work()``, or raise ``late`` after so many seconds."""
    result: list[Any] = []
    lock = threading.Lock()
    given_up = False

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            value = error
        with lock:
            result.append(value)
            unwanted = given_up and hasattr(value, "release")
        if unwanted:
            value.release()

    thread = threading.Thread(target=run, name="open capture", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        given_up = not result
    if not result:
        raise late
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


class CameraReader(FrameReader):
    """A camera or a stream: frames come by themselves, and it may go away and come back.

    Args:
        target: Index of a camera, or an address.
        name: What the frames call it.
        width: Pixels asked of a camera, None for its own choice; likewise ``height``.
        fps: Frames a second asked of a camera.
        reconnect_s: How long to try to get it back after it went away.

    Raises:
        UserError: If there is none, or it gives no picture.
    """

    live = True

    def __init__(
        self,
        target: int | str,
        name: str,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        reconnect_s: float = 30.0,
    ) -> None:
        self.target, self.name, self.reconnect_s = target, name, reconnect_s
        self.kind = "camera" if isinstance(target, int) else "stream"
        self._asked = (width, height, fps)
        self._capture: cv2.VideoCapture | None = None
        self._capture, image = self._connect()
        self.size = (image.shape[1], image.shape[0])
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(rate) if 0 < rate < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        #: Whether an address holds a clip with an end, and not a broadcast.
        self.finite = self.kind == "stream" and 0 < count < 2**31

    def _connect(self) -> tuple[cv2.VideoCapture, np.ndarray]:
        """Return an open capture and its first picture, or raise UserError."""
        quiet()
        images: list[np.ndarray] = []

        def work() -> cv2.VideoCapture:
            capture = self._open()
            ok, image = capture.read() if capture.isOpened() else (False, None)
            if not ok:
                capture.release()
                raise self._why()
            images.append(image)
            return capture

        capture = _within(DEADLINE_S, work, self._why())
        return capture, images[0]

    def _open(self) -> cv2.VideoCapture:
        if isinstance(self.target, str):
            limits = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                round(OPEN_S * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                round(READ_S * 1000),
                # More decoding threads would hold a frame back each.
                cv2.CAP_PROP_N_THREADS,
                1,
            ]
            return cv2.VideoCapture(self.target, cv2.CAP_FFMPEG, limits)
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        capture = cv2.VideoCapture(self.target, backend)
        width, height, fps = self._asked
        if (width or 0) * (height or 0) > 640 * 480 or (fps or 0) > 30:
            # Raw pictures of that size do not fit through USB 2 at full rate.
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
        for key, value in zip(
            (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS),
            (width, height, fps),
            strict=True,
        ):
            if value:
                capture.set(key, value)
        return capture

    def _why(self) -> UserError:
        """Explain why there is no picture."""
        if isinstance(self.target, str):
            return UserError(
                f"No picture from {self.name} within {OPEN_S:g} s. Check the address, the "
                f"network and the sender, or {ELSEWHERE}."
            )
        node = DEVICES / f"video{self.target}"
        if sys.platform == "linux" and not node.exists():
            return UserError(
                f"There is no camera {self.target} ({node} does not exist).{list_cameras()} Plug "
                f"one in, or {ELSEWHERE}."
            )
        if sys.platform == "linux" and not os.access(node, os.R_OK | os.W_OK):
            return UserError(
                f"Camera {self.target} may not be opened by this user. Join the group that owns "
                f"{node} (sudo usermod -aG video $USER, then log in again)."
            )
        return UserError(
            f"Camera {self.target} gives no picture: it does not exist, another program has taken "
            f"it, or the system denies access.{list_cameras()} Close the other program, or "
            f"{ELSEWHERE}."
        )

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames as they come; ``time_s`` is 0 at the first."""
        index, began = 0, None
        while not stop.is_set():
            ok = self._capture.grab()
            now, wall = time.monotonic(), time.time()
            ok, image = self._capture.retrieve() if ok else (False, None)
            if not ok:
                if stop.is_set():
                    return
                self._come_back(stop)
                continue
            began = now if began is None else began
            yield Frame(to_rgb(image), index, now - began, wall, self.name)
            index += 1

    def _come_back(self, stop: threading.Event) -> None:
        """Open the source again, waiting longer after each attempt.

        Raises:
            UserError: If it stays away for ``reconnect_s``.
        """
        what = f"Camera {self.target}" if self.kind == "camera" else self.name
        say(f"{what} went away; trying for {self.reconnect_s:g} s to get it back.")
        self._capture.release()
        began, delay = time.monotonic(), BACKOFF_S[0]
        while not stop.wait(min(delay, self.reconnect_s)):
            if time.monotonic() - began > self.reconnect_s:
                raise UserError(
                    f"{what} went away and did not come back within {self.reconnect_s:g} s. Check "
                    "cable, power and network, then start again; reconnect_s=<seconds> waits "
                    "longer."
                )
            try:
                self._capture, _ = self._connect()
            except UserError:
                delay = min(2 * delay, BACKOFF_S[1])
                continue
            say(f"{what} is back after {time.monotonic() - began:.1f} s.")
            return

    def close(self) -> None:
        """Free the device."""
        if self._capture is not None:
            self._capture.release()


def open_address(url: str, reconnect_s: float) -> FrameReader:
    """Open an rtsp:// or http(s):// address: a clip with an end, or a broadcast.

    Raises:
        UserError: If it gives no picture.
    """
    # The name lands in files: user and password of the address stay out of it.
    name = re.sub(r"//[^/@]*@", "//", url)
    device = CameraReader(url, name, reconnect_s=reconnect_s)
    if not device.finite:
        return device
    device.close()
    return VideoFileReader(url, name)
