"""Client-supplied sources: webcam frames from the browser, uploaded photos and videos."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import is_image_name
from emotion_lab.video.sources.open import open_image
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.sources.video_file import VideoFileReader
from emotion_lab.video.types import Frame

#: A browser camera that sends no frame for this long has been closed.
CAMERA_TIMEOUT_S = 10.0


def safe_filename(name: str) -> str:
    """Return a file name without folders and special characters, such as ``holiday.mp4``."""
    last = re.split(r"[\\/]", name)[-1]
    return re.sub(r"[^\w.() -]", "_", last).strip(". ")[-80:] or "upload"


def open_upload(path: Path, name: str) -> FrameSource:
    """Open an uploaded photo or video."""
    reader: FrameReader
    try:
        try:
            reader = open_image(path)
        except UserError:
            if is_image_name(name):
                raise
            reader = VideoFileReader(path, name)
    except UserError as error:
        # Only the first sentence applies here; the others are about the command line.
        reason = str(error).replace(str(path), name).split(". ")[0].rstrip(".")
        raise UserError(f"{reason}. Choose another photo or clip.") from error
    reader.name = name
    return FrameSource(reader)


class BrowserCameraReader(FrameReader):
    """Frames that a page posts one by one, until ``is_closed()``; only the newest is kept."""

    kind, live = "camera", True

    def __init__(self, name: str, is_closed: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        self._is_closed = is_closed
        self._condition = threading.Condition()
        self._newest: tuple[np.ndarray, float] | None = None

    def put(self, data: bytes) -> None:
        """Replace the newest frame."""
        wall = time.time()
        image = None
        # OpenCV raises for images with too many pixels.
        with contextlib.suppress(cv2.error):
            if data:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError("The camera of the page did not send an image.")
        with self._condition:
            self._newest = (cv2.cvtColor(image, cv2.COLOR_BGR2RGB), wall)
            self._condition.notify_all()

    def _take(self, stop: threading.Event) -> tuple[np.ndarray, float] | None:
        """Wait for an image and its capture time; None at the end."""
        deadline = time.monotonic() + CAMERA_TIMEOUT_S
        with self._condition:
            while self._newest is None:
                self._condition.wait(0.25)
                if stop.is_set() or self._is_closed() or time.monotonic() > deadline:
                    return None
            newest, self._newest = self._newest, None
        return newest

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames as they arrive; ``time_s`` of the first is 0."""
        index, start = 0, None
        while (newest := self._take(stop)) is not None:
            image, wall = newest
            now = time.monotonic()
            start = now if start is None else start
            yield Frame(image, index, now - start, wall, self.name)
            index += 1

    def close(self) -> None:
        """Release the newest frame."""
        with self._condition:
            self._newest = None
