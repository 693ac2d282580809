"""Runs a pipeline session in a background thread and exposes its latest frame to browsers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.base import Sink, write_image
from emotion_lab.video.sinks.jsonl import result_to_dict
from emotion_lab.video.sinks.video import VideoSink
from emotion_lab.video.types import Frame, FrameResult

#: Browsers get frames of at most this width; files keep the full size.
STREAM_WIDTH = 1280
_JPEG_QUALITY = 80
#: A client session that no browser has requested for this long ends.
UNWATCHED_S = 30.0
#: How long each photo of a folder is shown.
_PHOTO_S = 1.0
#: A file that is late by more than this continues from here instead of catching up.
_MAX_DELAY_S = 0.5
#: Several views: time between two pictures of a view in the grid, the width of these pictures, and
#: time between two pictures of a view that no page shows.
GRID_S, TILE_WIDTH, _UNSEEN_S = 0.1, 480, 1.0
#: A view whose last request is older is not shown.
_SHOWN_S = 2.0
_JOIN_S = 0.5  # time to finish the current frame before the source is closed
_MAX_LISTED = 20  # newest saved files in the status


def encode_jpeg(image: np.ndarray, max_width: int = STREAM_WIDTH) -> bytes:
    """Return uint8 (H, W, 3) RGB as a JPEG of at most ``max_width`` pixels width."""
    height, width = image.shape[:2]
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return data.tobytes()


class WebSession(Sink):
    """One pipeline run in a thread, with pause, snapshot and recording.

    It is the last sink of its runner and keeps only the latest frame. Browsers request that frame,
    so a slow browser skips frames and never slows the run. Files are played at their own frame
    rate and lose no frame, also over a pause; a live source drops the frames of a pause.

    Args:
        name: Identifies the session in URLs and file names.
        rows: The file written by the runner's JSON lines sink.
        needs_watching: Whether to end after :data:`UNWATCHED_S` without a request.
        on_end: Called in the session's thread after the run.
        is_tile: Whether it is one of several in a grid: then pictures are drawn every
            :data:`GRID_S`, and all of them only while the view is enlarged or recorded.

    Attributes:
        version: Incremented with every frame and every change of state.
        requested_at: ``time.monotonic()`` of the last request of a browser.
        shown_at: Likewise, of a page that shows this view alone.
        grid_at: Likewise, of a page that shows the grid.
        message: Last error message for the page.
        error: Exception that ended the run, else None.
    """

    # Drawing is cheap compared with the networks, and the next browser gets a picture at once.
    wants_picture = True

    def __init__(
        self,
        runner: PipelineRunner,
        name: str,
        folder: Path,
        rows: Path,
        needs_watching: bool = False,
        on_end: Callable[[WebSession], None] = lambda session: None,
        is_tile: bool = False,
    ) -> None:
        self.runner, self.name, self.folder, self.rows = runner, name, folder, rows
        self.is_tile, self.shown_at, self.grid_at = is_tile, 0.0, 0.0
        self.needs_watching, self._on_end = needs_watching, on_end
        runner.sinks.append(self)
        self.version = 0
        self.requested_at = time.monotonic()
        self.saved: dict[str, Path] = {}
        self.message = ""
        self.error: BaseException | None = None
        self.over = False
        self._latest: tuple[np.ndarray, FrameResult] | None = None
        self._drawn_at = 0.0  # time.monotonic() of the latest frame
        # Of the page and of the grid, each with its picture.
        self._jpeg: dict[int, tuple[np.ndarray, bytes]] = {}
        self._recorder: VideoSink | None = None
        self._jpeg_lock, self._record_lock = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._waiting_lock = threading.Lock()
        self._running, self._stop = threading.Event(), threading.Event()
        self._running.set()
        self._start_s: float | None = None  # time.monotonic() at which time_s = 0 is due
        self._thread = threading.Thread(target=self._run, name=f"session {name}", daemon=True)

    # --- thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self.runner.run(frames=self._frames())
        except BaseException as error:  # raised again in the main thread, see server.serve
            self.error = error
        finally:
            self.over = True
            self.notify()
            self._on_end(self)

    def _watched(self) -> bool:
        return not self.needs_watching or time.monotonic() - self.requested_at < UNWATCHED_S

    def _frames(self) -> Iterator[Frame]:
        """Yield the frames of the source when they are due, until the session is stopped."""
        source = self.runner.source
        while True:
            while not self._running.wait(0.25) and self._watched():
                pass
            if self._stop.is_set() or not self._watched():
                return
            frame = next(source, None)
            if frame is None:
                return
            if not source.live:
                self._wait_until_due(frame.time_s, source.stills)
            if self._stop.is_set():
                return
            yield frame

    def _wait_until_due(self, time_s: float, stills: bool) -> None:
        now = time.monotonic()
        if self._start_s is None:
            self._start_s = now - time_s
        elif stills:  # photos have no time of their own
            self._stop.wait(max(0.0, self._start_s + _PHOTO_S - now))
            self._start_s = time.monotonic()
        elif now - self._start_s - time_s > _MAX_DELAY_S:
            self._start_s = now - time_s
        else:
            self._stop.wait(max(0.0, self._start_s + time_s - now))

    def pause(self, on: bool) -> None:
        """Pause after the current frame, or resume."""
        if self.over:
            return
        self.runner.paused = on
        if on:
            self._running.clear()
        else:
            self._start_s = None
            self._running.set()
        self.notify()

    def stop(self) -> None:
        """Request the end, also during a pause; does not wait."""
        self.stopped = True  # the runner checks it after each frame
        self._stop.set()
        self._running.set()

    def join(self) -> None:
        """Wait until the current frame is processed and all files are closed."""
        if self._thread.ident is None:  # never started
            return
        self._thread.join(_JOIN_S)
        self.runner.source.close()  # unblocks a device that returns no frames
        # Short timeouts: on some platforms Ctrl-C cannot interrupt one long wait.
        while self._thread.is_alive():
            self._thread.join(0.5)

    # --- notification -----------------------------------------------------------------------------

    def notify(self) -> None:
        """Increment ``version`` and wake waiting requests; thread-safe, never blocks."""
        with self._waiting_lock:
            self.version += 1
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(event.set)

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """Return the current version once it differs from ``version``, or after the timeout."""
        with self._waiting_lock:
            if self.version != version:
                return self.version
            entry = (asyncio.get_running_loop(), asyncio.Event())
            self._waiting.append(entry)
        try:
            await asyncio.wait_for(entry[1].wait(), timeout_s)
        except asyncio.TimeoutError:
            with self._waiting_lock, contextlib.suppress(ValueError):
                self._waiting.remove(entry)
        return self.version

    # --- latest frame -----------------------------------------------------------------------------

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Replace the latest frame and append it to the recording, if any."""
        if drawn is None:
            if not self.is_tile:
                raise ValueError("drawn is required")
            self.wants_picture = self._is_due()
            return
        with self._record_lock:
            if self._recorder is not None:
                try:
                    self._recorder.write(frame, result, drawn)
                except UserError as error:  # a full disk ends the recording, not the session
                    self._end_recording()
                    self.message = str(error)
                    print(error, file=sys.stderr, flush=True)
        self._latest, self._drawn_at = (drawn, result), time.monotonic()
        self.notify()
        self.wants_picture = self._is_due()

    def _is_due(self) -> bool:
        """Return whether the next frame must be drawn."""
        now = time.monotonic()
        if not self.is_tile or self._recorder is not None or now - self.shown_at < _SHOWN_S:
            return True
        interval = GRID_S if now - self.grid_at < _SHOWN_S else _UNSEEN_S
        return now - self._drawn_at >= interval

    def close(self) -> None:
        """Complete the recording; the latest frame stays available."""
        self.record(False)

    def latest(self, width: int = STREAM_WIDTH) -> tuple[dict[str, Any] | None, bytes]:
        """Return the latest result and its JPEG, which is encoded once for all browsers.

        Args:
            width: Maximum of the JPEG, in pixels.
        """
        if self._latest is None:
            return None, b""
        drawn, result = self._latest
        with self._jpeg_lock:
            if width not in self._jpeg or self._jpeg[width][0] is not drawn:
                self._jpeg[width] = (drawn, encode_jpeg(drawn, width))
            data = self._jpeg[width][1]
        return result_to_dict(result, self.runner.pipeline.classes), data

    def snapshot(self) -> str:
        """Save the latest frame as drawn and return the file name."""
        if self._latest is None:
            raise UserError("There is no picture yet. Try again in a moment.")
        drawn, result = self._latest
        path = self._output_path("snapshot", f"-{result.frame:06d}.png")
        write_image(path, drawn)
        self.saved[path.name] = path
        return path.name

    def record(self, on: bool) -> str | None:
        """Start or end a recording; return its file name, or None if nothing was recorded."""
        with self._record_lock:
            if not on:
                name = self._end_recording()
            elif self._recorder is not None:
                name = self._recorder.path.name
            else:
                source, path = self.runner.source, self._output_path("recording", ".mp4")
                fps = 1 / _PHOTO_S if source.stills else source.fps
                self._recorder = VideoSink(path, fps, live=source.live)
                self.message, name = "", path.name
        self.notify()
        return name

    def _output_path(self, kind: str, suffix: str) -> Path:
        return self.folder / f"{kind}-{self.name}-{time.strftime('%Y%m%d-%H%M%S')}{suffix}"

    def _end_recording(self) -> str | None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return None
        recorder.close()
        if not recorder.frames:
            return None
        self.saved[recorder.path.name] = recorder.path
        return recorder.path.name

    # --- status -----------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``running``, ``paused``, ``ended`` or ``failed``."""
        if self.over:
            return "failed" if self.error is not None else "ended"
        return "running" if self._running.is_set() else "paused"

    def status(self) -> dict[str, Any]:
        """Return the status for the page, as JSON types."""
        message, recorder = self.message, self._recorder
        if self.error is not None:
            expected = isinstance(self.error, UserError)
            message = str(self.error) if expected else "The program failed: see the terminal."
        recording = None
        if recorder is not None:
            seconds = round(recorder.seconds, 1)
            recording = {"file": recorder.path.name, "seconds": seconds}
        stats, source = self.runner.stats, self.runner.source
        return {
            "view": self.name,
            "source": source.name,
            "stills": source.stills,
            "live": source.live,
            "state": self.state,
            "message": message,
            "recording": recording,
            "saved": list(self.saved)[-_MAX_LISTED:],
            "frames": stats.frames,
            "dropped": stats.dropped,
            "fps": round(stats.fps, 1),
        }


def tiles(
    sessions: Sequence[WebSession], after: Sequence[int]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the status and JPEG of every session in the grid, as of ``/api/grid``.

    Args:
        after: Version of each session that the page shows; its picture is left out.
    """
    views, jpegs = [], []
    for session, known in zip(sessions, after, strict=False):
        session.grid_at = session.requested_at = time.monotonic()
        version = session.version
        row, jpeg = session.latest(TILE_WIDTH)
        jpeg = b"" if version == known else jpeg
        views.append({**session.status(), "version": version, "row": row, "bytes": len(jpeg)})
        jpegs.append(jpeg)
    return views, jpegs
