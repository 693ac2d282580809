"""Capture on a thread of its own: a live source stays current, a file loses nothing."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator

from emotion_lab.video.types import Closeable, Frame

#: A file is read ahead by at most this many frames and bytes (one frame always fits).
_AHEAD_FRAMES, _AHEAD_BYTES = 8, 64 * 2**20
#: Closing waits this long for a read that hangs; the thread is a daemon and ends after it.
_JOIN_S = 2.0


class FrameReader(ABC):
    """Gives frames one after another; runs on the capture thread.

    Attributes:
        name: What the frames call their source; an address without its password.
        kind: camera, stream, clip, photo, folder or synthetic.
        live: Whether frames come by themselves, so that one not taken is lost.
        fps: Frames a second as the source says it, None where it does not.
        count: Frames it announces, None where that is unknown.
        size: (width, height) of the first frame.
        truth: ``(start_s, class name)`` of each part of a synthetic clip, else empty.
    """

    name = ""
    kind = ""
    live = False
    fps: float | None = None
    count: int | None = None
    size = (0, 0)
    truth: list[tuple[float, str]] = []

    @abstractmethod
    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield the frames from the first on; called again for every loop of a file.

        Args:
            stop: Set when the consumer leaves; a wait must heed it.

        Raises:
            UserError: The source went away for good.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what was opened; may be called again."""


class _Mailbox:
    """Frames on their way from the capture thread to the consumer."""

    def __init__(self, newest_only: bool) -> None:
        self.newest_only = newest_only
        self.stop = threading.Event()
        self.dropped = 0
        self.error: BaseException | None = None
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, frame: Frame) -> None:
        """Hand over ``frame``: at once if live, else as soon as there is room."""
        room = max(1, min(_AHEAD_FRAMES, _AHEAD_BYTES // max(1, frame.image.nbytes)))
        with self._changed:
            if self.newest_only:
                self.dropped += len(self._frames)
                self._frames.clear()
            else:
                self._changed.wait_for(lambda: len(self._frames) < room or self.stop.is_set())
            self._frames.append(frame)
            self._changed.notify_all()

    def get(self) -> Frame | None:
        """Return the next frame, None after the last one."""
        with self._changed:
            # The timeout lets Ctrl-C through where a plain wait cannot be interrupted (Windows).
            while not self._changed.wait_for(
                lambda: self._frames or self._ended or self.stop.is_set(), timeout=0.5
            ):
                pass
            if self.stop.is_set() or not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def end(self, error: BaseException | None = None) -> None:
        """Say that no frame follows."""
        with self._changed:
            self._ended, self.error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Tell the capture thread to leave."""
        self.stop.set()
        with self._changed:
            self._frames.clear()
            self._changed.notify_all()


def _pump(reader: FrameReader, box: _Mailbox, loop: bool, paced: bool) -> None:
    """Move frames from ``reader`` to ``box`` until the end; the body of the capture thread."""
    error: BaseException | None = None
    began: float | None = None  # monotonic seconds at which frame time 0 is due
    first, start_s, last = 0, 0.0, None
    try:
        while True:
            for frame in reader.frames(box.stop):
                frame.index += first
                frame.time_s += start_s
                if paced:
                    now = time.monotonic()
                    began = now - frame.time_s if began is None else began
                    box.stop.wait(max(0.0, began + frame.time_s - now))
                    frame.wall = time.time()
                if box.stop.is_set():
                    return
                box.put(frame)
                last = frame
            if not loop or last is None or last.index < first or box.stop.is_set():
                return
            first, start_s = last.index + 1, last.time_s + 1 / (reader.fps or 1.0)
    except BaseException as problem:  # raised again where the frames are used
        error = problem
    finally:
        reader.close()
        box.end(error)


class FrameSource(Closeable):
    """An iterator of :class:`Frame`, fed by a thread that starts with the first frame asked for.

    Use it in a ``with``: leaving it early, by ``break`` or Ctrl-C, stops the thread. A live
    source (camera, stream, or a file that is ``paced``) keeps the newest frame only; what is
    overtaken is counted in ``dropped`` and leaves a gap in ``Frame.index``. A file waits.

    Args:
        reader: An opened reader; it belongs to the source from now on.
        loop: Begin again after the last frame; index and time go on rising.
        paced: Hand out each frame when its time has come, as if it were filmed now.
        max_frames: Hand out at most this many frames.

    Attributes:
        name, kind, fps, size, truth: The reader's.
        live: Whether frames can be dropped.
        count: Frames to expect, None where that is unknown.
    """

    def __init__(
        self,
        reader: FrameReader,
        loop: bool = False,
        paced: bool = False,
        max_frames: int | None = None,
    ) -> None:
        loop = loop and not reader.live
        self.name, self.kind, self.fps = reader.name, reader.kind, reader.fps
        self.size, self.truth = reader.size, reader.truth
        self.live = reader.live or paced
        known = [n for n in (None if loop else reader.count, max_frames) if n is not None]
        self.count = min(known) if known else None
        self._reader, self._left = reader, max_frames
        self._box = _Mailbox(self.live)
        self._thread = threading.Thread(
            # Not a bound method: a forgotten source must not be kept alive by its own thread.
            target=_pump,
            args=(reader, self._box, loop, paced and not reader.live),
            name=f"capture {reader.name}",
            daemon=True,
        )
        self._started = self._closed = False

    @property
    def dropped(self) -> int:
        """Frames that newer ones have overtaken; always 0 for a file that is not paced."""
        return self._box.dropped

    @property
    def stills(self) -> bool:
        """Whether the frames are photos that have nothing to do with each other."""
        return self.kind in ("photo", "folder")

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> Frame:
        """Return the next frame.

        Raises:
            UserError: The source went away for good; frames read before it come first.
        """
        if self._closed or self._left == 0:
            self.close()
            raise StopIteration
        if not self._started:
            self._started = True
            self._thread.start()
        frame = self._box.get()
        if frame is None:
            error = self._box.error
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        if self._left is not None:
            self._left -= 1
        return frame

    def close(self) -> None:
        """Stop the thread and free the device or file; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._box.cancel()
        if not self._started:
            self._reader.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def __del__(self) -> None:
        if hasattr(self, "_started"):
            self.close()
