"""The newest frame of a session, for as many browsers as like to look."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.sinks.base import Sink, write_png
from emotion_lab.video.sinks.jsonl import row
from emotion_lab.video.sinks.video import VideoSink
from emotion_lab.video.types import Frame, FrameResult

#: A browser gets no more pixels than this across; files keep them all.
STREAM_WIDTH = 1280
_QUALITY = 80


def encode(image: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) RGB as a JPEG of at most :data:`STREAM_WIDTH` pixels across."""
    height, width = image.shape[:2]
    if width > STREAM_WIDTH:
        size = (STREAM_WIDTH, max(1, round(height * STREAM_WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of {image.shape} cannot be a JPEG")
    return data.tobytes()


class ChangeNotifier:
    """Counts changes and wakes the requests that wait for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def ring(self) -> None:
        """Say that something changed; never waits, may be called from any thread."""
        with self._lock:
            self.count += 1
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # the server has gone
                loop.call_soon_threadsafe(event.set)

    async def after(self, count: int, seconds: float) -> int:
        """Return the count once it is another than ``count``, or when the time is over."""
        with self._lock:
            if self.count != count:
                return self.count
            entry = (asyncio.get_running_loop(), asyncio.Event())
            self._waiting.append(entry)
        try:
            await asyncio.wait_for(entry[1].wait(), seconds)
        except asyncio.TimeoutError:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(entry)
        return self.count


class FrameBuffer(Sink):
    """Keeps the newest frame; browsers come and get it, so that none of them slows the session.

    Args:
        title: Part of the names of files, such as ``live``.
        folder: Where snapshots and recordings go.
        classes: Class names in the checkpoint's order.
        fps: Of the source, None where it does not know.
        live: Whether frames come at a varying rate.

    Attributes:
        bell: Rings with every frame and every change of state.
        message: The last thing that went wrong, for the page.
        asked: ``time.monotonic()`` when a browser last asked.
        saved: Files made, by name.
    """

    # Drawing costs little beside the rest, and whoever comes finds a picture and its timeline.
    wants_picture = True

    def __init__(
        self, title: str, folder: Path, classes: Sequence[str], fps: float | None, live: bool
    ) -> None:
        self.title, self.folder, self.classes = title, folder, list(classes)
        self.fps, self.live = fps, live
        self.bell = ChangeNotifier()
        self.message = ""
        self.asked = time.monotonic()
        self.saved: dict[str, Path] = {}
        self._newest: tuple[np.ndarray, FrameResult] | None = None
        self._encoding = threading.Lock()
        self._encoded: tuple[np.ndarray, bytes] | None = None
        self._writing = threading.Lock()
        self._recorder: VideoSink | None = None

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Take a frame: it replaces the one before, and is recorded if the user wants that."""
        if drawn is None:
            raise ValueError("no picture was drawn")
        with self._writing:
            if self._recorder is not None:
                try:
                    self._recorder.write(frame, result, drawn)
                except UserError as error:  # a full disk ends the recording, not the session
                    self._end_recording()
                    self.message = str(error)
                    print(error, file=sys.stderr, flush=True)
        self._newest = (drawn, result)
        self.bell.ring()

    def close(self) -> None:
        """Finish a recording; the newest frame stays."""
        with self._writing:
            self._end_recording()
        self.bell.ring()

    def newest(self) -> tuple[dict[str, Any] | None, bytes]:
        """Return the row of the newest frame and its JPEG, which is made once for all browsers."""
        newest = self._newest
        if newest is None:
            return None, b""
        drawn, result = newest
        with self._encoding:
            if self._encoded is None or self._encoded[0] is not drawn:
                self._encoded = (drawn, encode(drawn))
            data = self._encoded[1]
        return row(result, self.classes), data

    def _path(self, kind: str, ending: str) -> Path:
        return self.folder / f"{kind}-{self.title}-{time.strftime('%Y%m%d-%H%M%S')}{ending}"

    def snapshot(self) -> str:
        """Write the newest frame as it is shown; return the file's name.

        Raises:
            UserError: If there is none yet, or it cannot be written.
        """
        if self._newest is None:
            raise UserError("There is no picture yet. Try again in a moment.")
        drawn, result = self._newest
        path = self._path("snapshot", f"-{result.frame:06d}.png")
        write_png(path, drawn)
        self.saved[path.name] = path
        return path.name

    @property
    def recording(self) -> dict[str, Any] | None:
        """Name and length (seconds) of the recording in progress."""
        recorder = self._recorder
        if recorder is None:
            return None
        return {"file": recorder.path.name, "seconds": round(recorder.frames / recorder.fps, 1)}

    def record(self, on: bool) -> str | None:
        """Begin or end a recording; return its file's name, None where nothing was recorded.

        Raises:
            UserError: If the file cannot be made.
        """
        with self._writing:
            if not on:
                name = self._end_recording()
            elif self._recorder is not None:
                name = self._recorder.path.name
            else:
                path = self._path("recording", ".mp4")
                self._recorder = VideoSink(path, self.fps, live=self.live)
                self.message, name = "", path.name
        self.bell.ring()
        return name

    def _end_recording(self) -> str | None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return None
        recorder.close()
        if not recorder.frames:
            return None
        self.saved[recorder.path.name] = recorder.path
        return recorder.path.name
