"""What became of each face: a table and a picture, written when the run ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.primitives import UNCERTAIN, class_colours
from emotion_lab.video.sinks.base import Sink, new_file, write_file
from emotion_lab.video.types import Frame, FrameResult

#: A frame counts until the next one, but no longer than this (a pause, a camera unplugged).
MAX_FRAME_S = 1.0
_ROWS = 30  # faces in the picture, those seen longest


@dataclass
class FaceSummary:
    """One face over the run.

    Attributes:
        runs: [start, end, label], in seconds of the source; a gap between runs is an absence.
        frames: Frames it was seen in.
        counts: Frames by label.
        switches: Changes from one label to another; being uncertain in between is no change.
    """

    runs: list[list] = field(default_factory=list)
    frames: int = 0
    counts: dict[int | None, int] = field(default_factory=dict)
    switches: int = 0
    _label: int | None = None

    def see(self, time_s: float, label: int | None, on: bool) -> None:
        """Take in a frame; ``on`` says that the frame before showed the face too."""
        self.frames += 1
        self.counts[label] = self.counts.get(label, 0) + 1
        if label is not None:
            self.switches += self._label is not None and label != self._label
            self._label = label
        if not on or self.runs[-1][2] != label:
            self.runs.append([time_s, time_s, label])

    def dwell(self) -> dict[int | None, float]:
        """Return seconds by label."""
        seconds: dict[int | None, float] = dict.fromkeys(self.counts, 0.0)
        for start, end, label in self.runs:
            seconds[label] += end - start
        return seconds

    def dominant(self) -> int | None:
        """Return the label shown longest, None where there was none but "uncertain"."""
        seconds = self.dwell()
        labels = [label for label in self.counts if label is not None]
        return min(labels, key=lambda k: (-seconds[k], -self.counts[k], k), default=None)


class SummarySink(Sink):
    """Writes ``summary.csv`` and ``timeline.png`` on closing; its memory grows with label changes.

    A frame counts for the time until the next frame of the source, the last one for as long as the
    one before it.

    Args:
        folder: Where to; made if it is missing.
        classes: Class names in the checkpoint's order.
        overwrite: Whether files that are there may go.

    Attributes:
        faces: Id -> :class:`FaceSummary`.

    Raises:
        UserError: If the files cannot be made.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], overwrite: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot make the folder {self.folder}: {error.strerror}. Name another one."
            ) from error
        self.table = new_file(self.folder / "summary.csv", overwrite)
        self.picture = new_file(self.folder / "timeline.png", overwrite)
        self.classes = list(classes)
        self.faces: dict[int, FaceSummary] = {}
        self.title = ""
        self._now: float | None = None
        self._step = 0.0
        self._present: frozenset[int] = frozenset()
        self._closed = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Take in a frame."""
        self.title = self.title or result.source
        contiguous = False
        if self._now is not None:
            gap = result.time_s - self._now
            # A clip that starts over: its time runs on from zero in runs of their own.
            if gap >= 0:
                self._step = min(gap, MAX_FRAME_S)
                contiguous = gap <= MAX_FRAME_S
            self._count()
        for face in result.faces:
            sight = self.faces.setdefault(face.id, FaceSummary())
            sight.see(result.time_s, face.label, contiguous and face.id in self._present)
        self._present = frozenset(face.id for face in result.faces)
        self._now = result.time_s

    def _count(self) -> None:
        """Let the frame before last until now."""
        for key in self._present:
            self.faces[key].runs[-1][1] = (self._now or 0.0) + self._step

    def close(self) -> None:
        """Write both files.

        Raises:
            UserError: If they cannot be written.
        """
        if self._closed:
            return
        self._closed = True
        self._count()
        write_file(self.table, self._csv().encode())
        write_file(self.picture, self._png())

    def _csv(self) -> str:
        names = [*self.classes, "uncertain"]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        head = ["id", "first_s", "last_s", "seconds_seen", "frames", "dominant", "switches"]
        table.writerow([*head, *(f"{name}_s" for name in names)])
        for key, sight in sorted(self.faces.items()):
            dwell = sight.dwell()
            seconds = [dwell.get(k, 0.0) for k in (*range(len(self.classes)), None)]
            label = sight.dominant()
            name = "uncertain" if label is None else self.classes[label]
            times = (sight.runs[0][0], sight.runs[-1][1], sum(seconds))
            table.writerow(
                [
                    key,
                    *(f"{value:.3f}" for value in times),
                    sight.frames,
                    name,
                    sight.switches,
                    *(f"{value:.3f}" for value in seconds),
                ]
            )
        return text.getvalue()

    def _png(self) -> bytes:
        # Without pyplot: no state is shared with other threads, and no screen is asked for.
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        seen = {key: sum(sight.dwell().values()) for key, sight in self.faces.items()}
        shown = sorted(sorted(seen, key=lambda key: -seen[key])[:_ROWS])
        names = [*self.classes, "uncertain"]
        colours = [
            tuple(c / 255 for c in colour) for colour in (*class_colours(self.classes), UNCERTAIN)
        ]
        figure = Figure(figsize=(10, 1.7 + 0.36 * max(1, len(shown))), layout="constrained")
        axis = figure.subplots()
        for line, key in enumerate(shown):
            for start, end, label in self.faces[key].runs:
                k = len(self.classes) if label is None else label
                axis.broken_barh(
                    [(start, end - start)], (line - 0.4, 0.8), color=colours[k], linewidth=0
                )
        axis.set_yticks(range(len(shown)), [f"face {key}" for key in shown])
        axis.set_ylim(max(1, len(shown)) - 0.4, -0.6)
        ends = [run[1] for key in shown for run in self.faces[key].runs]
        starts = [run[0] for key in shown for run in self.faces[key].runs]
        last = max([self._now or 0.0, *ends])
        first = min([0.0, *starts]) if not starts or min(starts) < last / 2 else min(starts)
        axis.set_xlim(first, last if last > first else first + 1)
        axis.set_xlabel("seconds")
        axis.grid(axis="x", alpha=0.25)
        axis.set_axisbelow(True)
        title = Path(self.title).name or self.title
        if not shown:
            title += ": no face"
        elif len(shown) < len(seen):
            title += f": the {len(shown)} of {len(seen)} faces seen longest"
        axis.set_title(title, fontsize=10)
        figure.legend(
            handles=[Patch(color=c, label=n) for c, n in zip(colours, names, strict=True)],
            loc="outside lower center",
            ncols=min(len(names), 8),
            frameon=False,
            fontsize=8,
        )
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120)
        return data.getvalue()
