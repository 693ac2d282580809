"""A run of the pipeline over a source, with whatever wants to see the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sources.threaded import FrameSource

#: Seconds over which the shown frame rate is averaged.
_RATE_S = 1.0


@dataclass
class RunStats:
    """What a session did.

    Attributes:
        frames: Frames looked at.
        dropped: Frames of a live source that newer ones had overtaken.
        ids: Faces seen, by track id.
        with_faces: Frames with at least one face.
        last_faces: Faces in the last frame.
        seconds: Time it took.
        stopped: Whether the user stopped it.
    """

    frames: int = 0
    dropped: int = 0
    ids: int = 0
    with_faces: int = 0
    last_faces: int = 0
    seconds: float = 0.0
    stopped: bool = False

    def lines(self, stills: bool) -> list[str]:
        """Return what happened, for people."""
        what, faces = "image" if stills else "frame", "face" if self.ids == 1 else "faces"
        rate = self.frames / self.seconds if self.seconds else 0.0
        text = f"{self.frames} {what if self.frames == 1 else what + 's'}, "
        text += f"{self.with_faces} of them with a face; "
        text += f"{self.ids} {faces}{'' if stills else ' followed'}; {rate:.0f} {what}s/s"
        if self.dropped:
            text += f"; {self.dropped} frames dropped to stay current"
        lines = [text]
        if not stills and self.frames and not self.last_faces:
            lines.append("no face in the last frame")
        return lines


class PipelineRunner:
    """Runs frames through the pipeline and hands the results to sinks.

    Args:
        source: Frames.
        pipeline: Looks at them.
        overlay: Draws, if any sink wants a picture.
        sinks: Take every result, in this order; closed at the end, whatever happens.
        info: More for the overlay, such as ``detector``; may be changed while running.
    """

    def __init__(
        self,
        source: FrameSource,
        pipeline: Pipeline,
        overlay: Overlay | None = None,
        sinks: Sequence[Sink] = (),
        info: dict[str, Any] | None = None,
    ) -> None:
        self.source, self.pipeline, self.overlay = source, pipeline, overlay
        self.sinks = list(sinks)
        self.info = info or {}
        self.report = RunStats()
        self._stop = False

    def stop(self) -> None:
        """End after the frame at hand; may be called from another thread."""
        self._stop = True

    def _wanted(self) -> bool:
        """Ask whether anybody closed the window or pressed q."""
        stopped = any(sink.stopped for sink in self.sinks)
        return not (self._stop or stopped)

    def run(self, every: Callable[[RunStats], None] | None = None) -> RunStats:
        """Run until the source ends or somebody stops it.

        Args:
            every: Called after each frame, for progress.

        Raises:
            UserError: If the source or a sink fails; all sinks have been closed by then.
            KeyboardInterrupt: On Ctrl-C, likewise.
        """
        report, ids = self.report, set()
        begin = time.perf_counter()
        rate, before = 0.0, begin
        with ExitStack() as stack:
            stack.enter_context(self.source)
            for sink in self.sinks:
                stack.enter_context(sink)
            try:
                for frame in self.source:
                    result = self.pipeline(frame)
                    now = time.perf_counter()
                    step = max(1e-6, now - before)
                    share = min(1.0, step / _RATE_S)
                    rate, before = (1 / step if not rate else rate + share * (1 / step - rate)), now
                    drawn = None
                    if self.overlay is not None and any(s.wants_picture for s in self.sinks):
                        self.info["fps"] = None if self.source.stills else rate
                        self.info["still"] = self.source.stills
                        self.info["debug"] = any(s.debug for s in self.sinks)
                        drawn = self.overlay.draw(frame.image, result, self.info)
                    for sink in self.sinks:
                        sink.write(frame, result, drawn)
                    ids.update(face.id for face in result.faces)
                    report.frames += 1
                    report.with_faces += bool(result.faces)
                    report.last_faces = len(result.faces)
                    report.ids, report.dropped = len(ids), self.source.dropped
                    report.seconds = time.perf_counter() - begin
                    if every is not None:
                        every(report)
                    if not self._wanted():
                        report.stopped = True
                        break
            finally:
                report.seconds = time.perf_counter() - begin
        return report


def progress(title: str, total: int | None) -> tuple[ExitStack, Callable[[RunStats], None] | None]:
    """Return a progress bar for a file on a terminal: what closes it and what advances it."""
    stack = ExitStack()
    if not total or not sys.stderr.isatty():
        return stack, None
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    task = bar.add_task(title, total=total)
    return stack, lambda report: bar.update(task, completed=report.frames)
