"""Capture thread: a live source returns the newest frame, a file returns every frame."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator

from emotion_lab.video.types import Closeable, Frame

#: Limits of the read-ahead of a file, in frames and bytes (one frame always fits).
_READ_AHEAD_FRAMES, _READ_AHEAD_BYTES = 8, 64 * 2**20
#: Maximum wait for a blocked read on close; the daemon thread ends after it.
_JOIN_S = 2.0


class FrameReader(ABC):
    """Produces frames on the capture thread.

    Attributes:
        name: Source name of the frames; an address without its password.
        kind: camera, stream, clip, photo, folder, recording or synthetic.
        live: Whether frames arrive in real time, so that a frame not read is lost.
        fps: Nominal frames per second, or None if unknown.
        count: Nominal number of frames, or None if unknown.
        size: (width, height) of the first frame.
        truth: ``(start_s, class name)`` of each segment of a synthetic clip, else empty.
    """

    name = ""
    kind = ""
    live = False
    fps: float | None = None
    count: int | None = None
    size = (0, 0)
    truth: tuple[tuple[float, str], ...] = ()

    @abstractmethod
    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield all frames; called again for each loop of a file.

        Args:
            stop: Set when the consumer stops; every wait must check it.

        Raises:
            UserError: If the source is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device or file; may be called more than once."""


class _FrameQueue:
    """Frames between the capture thread and the consumer."""

    def __init__(self, newest_only: bool) -> None:
        self.newest_only = newest_only
        self.stop = threading.Event()
        self.dropped = 0
        self.error: BaseException | None = None
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, frame: Frame) -> None:
        """Add ``frame``: replace older ones if live, else wait for room."""
        room = max(1, min(_READ_AHEAD_FRAMES, _READ_AHEAD_BYTES // max(1, frame.image.nbytes)))
        with self._changed:
            if self.newest_only:
                self.dropped += len(self._frames)
                self._frames.clear()
            else:
                self._changed.wait_for(lambda: len(self._frames) < room or self.stop.is_set())
            self._frames.append(frame)
            self._changed.notify_all()

    def get(self) -> Frame | None:
        """Return the next frame, or None at the end."""
        with self._changed:
            # The timeout is for Ctrl-C: on Windows a wait without one cannot be interrupted.
            while not self._changed.wait_for(
                lambda: self._frames or self._ended or self.stop.is_set(), timeout=0.5
            ):
                pass
            if self.stop.is_set() or not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def newer(self) -> Frame | None:
        """Return the next frame of a live source if there is one, and count the one before it."""
        with self._changed:
            if not (self.newest_only and self._frames):
                return None
            self.dropped += 1
            return self._frames.popleft()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end of the source, with the error that ended it."""
        with self._changed:
            self._ended, self.error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Stop the capture thread and discard all frames."""
        self.stop.set()
        with self._changed:
            self._frames.clear()
            self._changed.notify_all()


def _capture(reader: FrameReader, queue: _FrameQueue, loop: bool, realtime: bool) -> None:
    """Move frames from ``reader`` to ``queue`` until the end; runs on the capture thread."""
    error: BaseException | None = None
    start: float | None = None  # time.monotonic() of frame time 0
    first_index, offset_s, last, repetition = 0, 0.0, None, 0
    try:
        while True:
            for frame in reader.frames(queue.stop):
                frame.index += first_index
                frame.time_s += offset_s
                frame.loop = repetition
                if realtime:
                    now = time.monotonic()
                    start = now - frame.time_s if start is None else start
                    queue.stop.wait(max(0.0, start + frame.time_s - now))
                    frame.wall = time.time()
                if queue.stop.is_set():
                    return
                queue.put(frame)
                last = frame
            if not loop or last is None or last.index < first_index or queue.stop.is_set():
                return
            first_index, offset_s = last.index + 1, last.time_s + 1 / (reader.fps or 1.0)
            repetition += 1
    except BaseException as exception:  # raised again in the consumer
        error = exception
    finally:
        reader.close()
        queue.end(error)


class FrameSource(Closeable):
    """Iterator of :class:`Frame`; its capture thread starts with the first ``next()``.

    Use it in a ``with`` block: leaving it by ``break`` or Ctrl-C stops the thread. A live source
    (camera, stream, or a file with ``realtime``) keeps the newest frame only; dropped frames are
    counted in ``dropped`` and leave gaps in ``Frame.index``. A file waits for the consumer.

    Args:
        reader: An open reader; the source closes it.
        loop: Restart after the last frame; index and time continue to increase.
        realtime: Return each frame at its media time, as if it were captured now.

    Attributes:
        name, kind, fps, size, truth: Those of the reader.
        count: Expected number of frames, or None if unknown.
    """

    def __init__(
        self,
        reader: FrameReader,
        loop: bool = False,
        realtime: bool = False,
        max_frames: int | None = None,
    ) -> None:
        loop = loop and not reader.live
        self.name, self.kind, self.fps = reader.name, reader.kind, reader.fps
        self.size, self.truth = reader.size, reader.truth
        self.live = reader.live or realtime
        counts = [n for n in (None if loop else reader.count, max_frames) if n is not None]
        self.count = min(counts) if counts else None
        self._reader, self._remaining = reader, max_frames
        self._queue = _FrameQueue(self.live)
        self._thread = threading.Thread(
            # Not a bound method: the thread would keep an abandoned source alive.
            target=_capture,
            args=(reader, self._queue, loop, realtime and not reader.live),
            name=f"capture {reader.name}",
            daemon=True,
        )
        self._started = self._closed = False

    @property
    def dropped(self) -> int:
        """Number of frames replaced by newer ones; always 0 for a file without ``realtime``."""
        return self._queue.dropped

    @property
    def closed(self) -> bool:
        """Whether the source is closed, which it also is after its last frame or an error."""
        return self._closed

    @property
    def stills(self) -> bool:
        """Whether the frames are independent images."""
        return self.kind in ("photo", "folder")

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> Frame:
        """Return the next frame.

        Raises:
            UserError: If the source is lost; frames read before that are returned first.
        """
        if self._closed or self._remaining == 0:
            self.close()
            raise StopIteration
        if not self._started:
            self._started = True
            self._thread.start()
        frame = self._queue.get()
        if frame is None:
            error = self._queue.error
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        if self._remaining is not None:
            self._remaining -= 1
        return frame

    def newest(self, frame: Frame) -> Frame:
        """Return the frame that replaced ``frame`` of a live source in the meantime, or itself."""
        return self._queue.newer() or frame

    def close(self) -> None:
        """Stop the thread and release the device or file; may be called more than once."""
        if self._closed:
            return
        self._closed = True
        self._queue.cancel()
        if not self._started:
            self._reader.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def __del__(self) -> None:
        if hasattr(self, "_started"):
            self.close()
