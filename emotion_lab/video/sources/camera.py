"""Cameras and network streams through OpenCV, with timeouts and reconnection."""

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
from emotion_lab.video.sources.display import DisplayTransform, display_transform
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.sources.video_file import (
    SOURCE_HINT,
    VideoFileReader,
    print_stderr,
    silence_opencv,
    to_rgb,
)
from emotion_lab.video.turns import decoding
from emotion_lab.video.types import Frame

DEVICES = Path("/dev")
SYSFS = Path("/sys/class/video4linux")  # camera names on Linux
OPEN_S, READ_S = 5.0, 4.0  # timeouts of a stream: connect, next frame
DEADLINE_S = 12.0  # timeout of opening: name look-ups and drivers have none of their own
BACKOFF_S = (0.25, 4.0)  # delay between reconnection attempts: initial, maximum


def list_cameras() -> list[tuple[int, str]]:
    """Return (index, name) of the cameras on Linux; empty on other systems."""
    cameras = []
    for node in SYSFS.glob("video*"):
        number = node.name.removeprefix("video")
        try:
            # A webcam has further nodes, for metadata; index 0 is the image stream.
            is_camera = (node / "index").read_text().strip() == "0"
            if is_camera and number.isdigit():
                cameras.append((int(number), (node / "name").read_text().strip()))
        except OSError:
            continue
    return sorted(cameras)


def cameras_hint() -> str:
    """Return a sentence for error messages that lists the cameras; empty if not on Linux."""
    if sys.platform != "linux":
        return ""
    names = ", ".join(f"{index} ({name})" for index, name in list_cameras())
    return f" Available cameras: {names or 'none'}."


def _with_timeout(seconds: float, work: Callable[[], Any], timeout_error: UserError) -> Any:
    """Return ``work()``, or raise ``timeout_error`` after ``seconds``."""
    results: list[Any] = []
    lock = threading.Lock()
    timed_out = False

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            value = error
        with lock:
            results.append(value)
            release = timed_out and hasattr(value, "release")
        if release:
            value.release()

    thread = threading.Thread(target=run, name="open capture", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        timed_out = not results
    if not results:
        raise timeout_error
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


class CameraReader(FrameReader):
    """A camera or network stream that reconnects after a failure.

    Args:
        target: Camera index, or address of a stream.
        width: Requested width of a camera in pixels, or None for its default.
        fps: Requested frames per second of a camera, or None.
        reconnect_s: Time limit of the reconnection attempts.
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
        self._requested = (width, height, fps)
        self._capture, image = self._connect()
        image = self._transform(image)
        self.size = (image.shape[1], image.shape[0])
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(rate) if 0 < rate < 1000 else None
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        #: Whether the address is a clip with an end rather than a live stream.
        self.finite = self.kind == "stream" and 0 < count < 2**31

    def _connect(self) -> tuple[cv2.VideoCapture, np.ndarray]:
        """Return an open capture and its first picture, or raise UserError."""
        silence_opencv()
        images: list[np.ndarray] = []

        def work() -> cv2.VideoCapture:
            capture = self._open()
            if capture.isOpened():
                ok, image = capture.read()
                if ok:
                    images.append(image)
                    return capture
            capture.release()
            raise self._open_error()

        capture = _with_timeout(DEADLINE_S, work, self._open_error())
        self._transform = DisplayTransform()
        if self.kind == "stream":
            self._transform = display_transform(capture, None)
        return capture, images[0]

    def _open(self) -> cv2.VideoCapture:
        if isinstance(self.target, str):
            params = [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(OPEN_S * 1000)),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(READ_S * 1000)),
                # Each further decoding thread would delay the stream by one frame.
                *(cv2.CAP_PROP_N_THREADS, 1),
            ]
            return cv2.VideoCapture(self.target, cv2.CAP_FFMPEG, params)
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        capture = cv2.VideoCapture(self.target, backend)
        width, height, fps = self._requested
        if (width or 0) * (height or 0) > 640 * 480 or (fps or 0) > 30:
            # USB 2 is too slow for uncompressed pictures of that size at full rate.
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, fps),
        ):
            if value:
                capture.set(key, value)
        return capture

    def _open_error(self) -> UserError:
        """Return an error with the probable reason."""
        if isinstance(self.target, str):
            return UserError(
                f"No picture from {self.name} within {OPEN_S:g} s. Check the address, the "
                f"network and the sender, or {SOURCE_HINT}."
            )
        node = DEVICES / f"video{self.target}"
        if sys.platform == "linux" and not node.exists():
            return UserError(
                f"There is no camera {self.target} ({node} does not exist).{cameras_hint()} "
                f"Connect one, or {SOURCE_HINT}."
            )
        if sys.platform == "linux" and not os.access(node, os.R_OK | os.W_OK):
            return UserError(
                f"No permission to open camera {self.target}. Join the group that owns {node} "
                "(sudo usermod -aG video $USER, then log in again)."
            )
        return UserError(
            f"Camera {self.target} returns no picture: it does not exist, another program uses "
            f"it, or the system denies access.{cameras_hint()} Close the other program, or "
            f"{SOURCE_HINT}."
        )

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames as they arrive; ``time_s`` is 0 for the first frame."""
        index, start = 0, None
        while not stop.is_set():
            ok = self._capture.grab()
            now, wall = time.monotonic(), time.time()
            if ok:
                with decoding():
                    ok, image = self._capture.retrieve()
                    image = self._transform(to_rgb(image)) if ok else image
            if not ok:
                if stop.is_set():
                    return
                self._reconnect(stop)
                continue
            start = now if start is None else start
            yield Frame(image, index, now - start, wall, self.name)
            index += 1

    def _reconnect(self, stop: threading.Event) -> None:
        """Reopen the source with increasing delays; UserError after ``reconnect_s``."""
        name = f"Camera {self.target}" if self.kind == "camera" else self.name
        print_stderr(f"{name}: connection lost, reconnecting for up to {self.reconnect_s:g} s.")
        self._capture.release()
        start, delay = time.monotonic(), BACKOFF_S[0]
        while not stop.wait(min(delay, self.reconnect_s)):
            if time.monotonic() - start > self.reconnect_s:
                raise UserError(
                    f"{name}: connection lost and not restored within {self.reconnect_s:g} s. "
                    "Check cable, power and network, then start again, or wait longer with "
                    "reconnect_s=<seconds>."
                )
            try:
                self._capture, _ = self._connect()
            except UserError:
                delay = min(2 * delay, BACKOFF_S[1])
                continue
            print_stderr(f"{name}: reconnected after {time.monotonic() - start:.1f} s.")
            return

    def close(self) -> None:
        """Release the device."""
        self._capture.release()


def without_password(url: str) -> str:
    """Return an address without user and password; a password may contain ``@``."""
    return re.sub(r"//[^/?#]*@", "//", url)


def open_address(url: str, reconnect_s: float) -> FrameReader:
    """Open an rtsp:// or http(s):// address: a clip with an end, or a live stream."""
    name = without_password(url)  # it is written to files
    camera = CameraReader(url, name, reconnect_s=reconnect_s)
    if not camera.finite:
        return camera
    camera.close()
    return VideoFileReader(url, name)
