"""A source that plays at its own rate, stands still when asked to, and can be left at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.types import Closeable, Frame

#: How long a photo of a folder is shown.
STILL_S = 1.0
#: Behind by more than this a file goes on from here; it does not race to catch up.
_LATE_S = 0.5
#: How often a pause looks whether anybody is still there.
_TICK_S = 0.25


class PacedSource(Closeable):
    """Hands out the frames of a source when their time has come.

    A file loses no frame, not even over a pause; its frames count as captured when they are due,
    so that latency means the same as with a camera. A live source is passed on as it comes; what
    it filmed during a pause is dropped.

    Args:
        source: Frames; it belongs to the player from now on.
        wanted: Asked before each frame; False ends the source.

    Attributes:
        name, fps, live, stills: The source's.
    """

    def __init__(self, source: FrameSource, wanted: Callable[[], bool] = lambda: True) -> None:
        self.name, self.fps = source.name, source.fps
        self.live, self.stills = source.live, source.stills
        self._source, self._wanted = source, wanted
        self._go, self._stop = threading.Event(), threading.Event()
        self._go.set()
        self._zero: float | None = None  # monotonic seconds at which time_s 0 was due

    @property
    def dropped(self) -> int:
        """Frames that newer ones have overtaken."""
        return self._source.dropped

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return not self._go.is_set()

    def pause(self, on: bool) -> None:
        """Stand still, or go on."""
        if on:
            self._go.clear()
        else:
            self._zero = None
            self._go.set()

    def stop(self) -> None:
        """End before the next frame, also out of a pause; may be called from another thread."""
        self._stop.set()
        self._go.set()

    def close(self) -> None:
        """Stop and free the device or file, even where it gives no frames."""
        self.stop()
        self._source.close()

    def __iter__(self) -> PacedSource:
        return self

    def __next__(self) -> Frame:
        """Return the next frame.

        Raises:
            UserError: The source went away for good.
        """
        while not self._go.wait(_TICK_S) and self._wanted():
            pass
        if self._stop.is_set() or not self._wanted():
            raise StopIteration
        frame = next(self._source)
        if not self.live:
            self._wait(frame.time_s)
            frame.wall = time.time()
        if self._stop.is_set():
            raise StopIteration
        return frame

    def _wait(self, time_s: float) -> None:
        """Wait until a file's frame is due."""
        now = time.monotonic()
        if self._zero is None:
            self._zero = now - time_s
        elif self.stills:  # photos have no time of their own
            self._stop.wait(max(0.0, self._zero + STILL_S - now))
            self._zero = time.monotonic()
        elif now - self._zero - time_s > _LATE_S:
            self._zero = now - time_s
        else:
            self._stop.wait(max(0.0, self._zero + time_s - now))
