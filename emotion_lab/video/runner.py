"""Runs the pipeline over a source and passes the results to sinks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from emotion_lab.core.threads import usable_cores
from emotion_lab.core.wording import counted
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import FoundFaces, Pipeline
from emotion_lab.video.prefetch import prefetch
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.turns import Turns
from emotion_lab.video.types import Frame, FrameResult

_T = TypeVar("_T")
#: A frame, its result, and its picture if a sink needs one.
_Drawn: TypeAlias = "tuple[Frame, FrameResult, np.ndarray | None]"

#: Time constant of the averaged frame rate, seconds.
_RATE_S = 1.0


@dataclass
class RunStats:
    """Counters of a run.

    Attributes:
        dropped: Frames of a live source that were replaced by newer ones.
        ids: Number of different faces: track ids of a video, or faces of each photo.
        with_faces: Frames with at least one face.
        last_faces: Number of faces in the last frame.
        held: Frames with a hidden region whose face was detected in other frames only; None if no
            faces are hidden.
        fps: Frames per second, averaged over about a second.
        labelled: Faces with a label, summed over the frames; the others are uncertain.
        highest: Highest smoothed probability of any face.
        threshold: ``smoothing.threshold``.
        cores: Number of cores on which the stages worked side by side; None: one after another.
    """

    frames: int = 0
    dropped: int = 0
    ids: int = 0
    with_faces: int = 0
    last_faces: int = 0
    held: int | None = None
    labelled: int = 0
    highest: float = 0.0
    threshold: float = 0.0
    seconds: float = 0.0
    fps: float = 0.0
    cores: int | None = None

    def summary_lines(self, stills: bool) -> list[str]:
        """Return the counters as printable lines."""
        unit, faces = "image" if stills else "frame", "face" if self.ids == 1 else "faces"
        rate = self.frames / self.seconds if self.seconds else 0.0
        text = f"{self.frames} {unit if self.frames == 1 else unit + 's'}, "
        text += f"{self.with_faces} of them with a face; "
        text += f"{self.ids} {faces}{'' if stills else ' tracked'}; {rate:.0f} {unit}s/s"
        if self.dropped:
            text += f"; {counted(self.dropped, 'frame')} dropped to keep up with the source"
        if self.cores is not None:
            text += f"; stages side by side on {self.cores} cores"
        lines = [text]
        if self.with_faces and not self.labelled and self.highest < self.threshold:
            lines.append(
                "every face is uncertain: the highest smoothed probability was "
                f"{self.highest:.2f}, below smoothing.threshold={self.threshold:g}; for a label "
                f"set smoothing.threshold={math.floor(self.highest * 20) / 20:g}"
            )
        if self.held is not None and not stills:
            lines.append(
                f"faces hidden; in {self.held} of {self.frames} frames a face was not detected "
                "and is hidden where it was or will be within a second"
            )
        if not stills and self.frames and not self.last_faces:
            lines.append("no face in the last frame")
        return lines


class PipelineRunner:
    """Runs the frames of a source through a pipeline and writes the results to sinks.

    With two cores or more the stages of a video work side by side, a frame or two ahead of the
    next stage: find faces, classify, hide faces, draw, and in the calling thread write. The faces
    of a live source are found and classified in one stage: frames that wait would be late.

    Args:
        source: Closed at the end of the run.
        overlay: Draws the result if a sink needs a picture.
        sinks: Receive every result, in this order; always closed at the end of the run.
        num_cores: Default: the threads of this process if they are limited, else its cores.
        turns: Shared by the runners of several sources, which find faces in turn; each then runs
            in one thread. None: the only source.

    Attributes:
        paused: Whether the caller of :meth:`run` holds its frames back at the moment.
    """

    def __init__(
        self,
        source: FrameSource,
        pipeline: Pipeline,
        overlay: Overlay | None = None,
        sinks: Sequence[Sink] = (),
        num_cores: int | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.source, self.pipeline, self.overlay = source, pipeline, overlay
        self.sinks, self.turns = list(sinks), turns
        self.num_cores = 1 if turns else num_cores or usable_cores()
        self.stats, self.paused = RunStats(), False

    def run(
        self,
        on_frame: Callable[[RunStats], object] | None = None,
        frames: Iterable[Frame] | None = None,
    ) -> RunStats:
        """Run until the source ends or a sink sets ``stopped``.

        Sinks and source are closed on return, and also after an error or Ctrl-C.

        Args:
            on_frame: Called after each frame, for instance to show progress.
            frames: The frames of the source, delayed or cut short by the caller, who needs no
                stages side by side; default: all.
        """
        stats, begin = self.stats, time.perf_counter()
        ids: set[tuple[str, int]] = set()
        if frames is None and self.num_cores > 1 and not self.source.stills:
            stats.cores = self.num_cores
        drawn_frames = self._drawn(self._results(self.source if frames is None else frames))
        if self._draws:
            drawn_frames = self._ahead(drawn_frames, "draw")
        with ExitStack() as stack:
            stack.enter_context(self.source)
            for sink in self.sinks:
                stack.enter_context(sink)
            try:
                for frame, result, drawn in drawn_frames:
                    for sink in self.sinks:
                        sink.write(frame, result, drawn)
                    ids.update((result.source, face.id) for face in result.faces)
                    stats.frames += 1
                    stats.with_faces += bool(result.faces)
                    self._count_labels(result)
                    if result.hidden is not None:
                        stats.held = (stats.held or 0) + bool(result.held)
                    stats.last_faces = len(result.faces)
                    stats.ids, stats.dropped = len(ids), self.source.dropped
                    stats.seconds = time.perf_counter() - begin
                    if on_frame is not None:
                        on_frame(stats)
                    if any(sink.stopped for sink in self.sinks):
                        break
            finally:
                stats.seconds = time.perf_counter() - begin
                self.source.close()  # ends the wait of a stage for a frame
                del drawn_frames  # closes all stages
                if self.pipeline.enrolment is not None:
                    self.pipeline.enrolment.stop()
        return stats

    def _ahead(self, items: Iterator[_T], stage: str) -> Iterator[_T]:
        """Run a stage in a thread of its own if the stages work side by side."""
        return items if self.stats.cores is None else prefetch(items, f"stage {stage}")

    def _count_labels(self, result: FrameResult) -> None:
        """Note whether a face got a label, and the highest probability of a face without one."""
        stats = self.stats
        stats.threshold = float(self.pipeline.smoothing["threshold"])
        for face in result.faces:
            stats.labelled += face.label is not None
            stats.highest = max(stats.highest, float(face.smoothed.max()))

    @property
    def _draws(self) -> bool:
        return self.overlay is not None and any(sink.wants_picture for sink in self.sinks)

    def _results(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, FrameResult]]:
        """Yield every frame with its result; delayed if faces are hidden in the picture."""
        found = self._found(frames)
        if not self.source.live:
            found = self._ahead(found, "find")
        results = self._ahead(self._classified(found), "classify")
        if not self._draws or self.overlay is None or self.overlay.anonymizer is None:
            return results
        anonymizer, source = self.overlay.anonymizer, self.source
        return self._ahead(anonymizer.process(results, source.stills, source.live), "hide")

    def _found(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, float, FoundFaces]]:
        """Yield every frame with the time of its capture and its faces."""
        for frame in frames:
            captured = frame.wall
            if not self.source.live:
                # Files are read ahead; the latency must not include the time in the queue.
                frame.wall = time.time()
            with self.turns or nullcontext():
                if self.turns:
                    frame = self.source.newest(frame)  # it waited for its turn
                faces = self.pipeline.find(frame)
            yield frame, captured, faces

    def _classified(
        self, found: Iterable[tuple[Frame, float, FoundFaces]]
    ) -> Iterator[tuple[Frame, FrameResult]]:
        """Classify the faces of every frame and average the frame rate."""
        previous = time.perf_counter()
        for frame, captured, faces in found:
            result = self.pipeline.classify([faces])[0]
            if not self.source.live:
                # Without the time between two stages.
                result.latency_ms = sum(result.stages_ms.values())
            if self.source.kind == "recording":
                result.wall, result.replayed = captured, True
            now = time.perf_counter()
            interval, previous = max(1e-6, now - previous), now
            weight = min(1.0, interval / _RATE_S) if self.stats.fps else 1.0
            self.stats.fps += weight * (1 / interval - self.stats.fps)
            yield frame, result

    def _drawn(self, results: Iterator[tuple[Frame, FrameResult]]) -> Iterator[_Drawn]:
        """Yield every frame with its result and, if a sink needs it, its picture."""
        for frame, result in results:
            drawn = None
            if self._draws and self.overlay is not None:
                drawn = self.overlay.draw(
                    frame.image,
                    result,
                    fps=None if self.source.stills else self.stats.fps,
                    detector=self.pipeline.detector.name,
                    debug=any(sink.debug for sink in self.sinks),
                    live=self.source.live,
                )
            elif self.overlay is not None and self.turns is not None:
                self.overlay.history.add(result)  # of the pictures to come
            yield frame, result, drawn


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[RunStats], object] | None]:
    """Show a progress bar if the length is known and stderr is a terminal.

    Yields:
        The ``on_frame`` argument for :meth:`PipelineRunner.run`.
    """
    if not total or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda stats: bar.update(task, completed=stats.frames)
