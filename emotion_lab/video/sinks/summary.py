"""Writes a table and a timeline figure of all faces at the end of a run."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emotion_lab.core.io import to_bytes
from emotion_lab.inference.derived import QUANTITIES
from emotion_lab.video.sinks.base import Sink, make_folder, new_file, write_file
from emotion_lab.video.sinks.timeline_figure import draw_timeline
from emotion_lab.video.types import Face, Frame, FrameResult

#: A frame counts until the next one, but at most this long (a pause, a disconnected camera).
MAX_FRAME_S = 1.0
_MAX_ROWS = 30  # faces in the figure, those visible longest


@dataclass
class FaceSummary:
    """Statistics of one face over the run.

    Attributes:
        runs: [start_s, end_s, label] in time of the source; a gap between runs is an absence.
        counts: Number of frames by label.
        switches: Changes from one label to another; "uncertain" in between does not count.
        quantities: Quantity -> sum and number of its values.
        quantity_source: Quantity -> ``learned`` or ``derived``.
    """

    runs: list[list] = field(default_factory=list)
    frames: int = 0
    counts: Counter[int | None] = field(default_factory=Counter)
    switches: int = 0
    quantities: dict[str, list[float]] = field(default_factory=dict)
    quantity_source: dict[str, str] = field(default_factory=dict)
    _label: int | None = None

    def add(self, time_s: float, face: Face, contiguous: bool) -> None:
        """Add a frame; ``contiguous``: the previous frame contains this face too."""
        self.add_label(time_s, face.label, contiguous)
        self.quantity_source = face.quantity_source
        for name, value in face.quantities.items():
            if value is not None:
                total = self.quantities.setdefault(name, [0.0, 0])
                total[0] += value
                total[1] += 1

    def add_label(self, time_s: float, label: int | None, contiguous: bool) -> None:
        """Add the label of a frame."""
        self.frames += 1
        self.counts[label] += 1
        if label is not None:
            self.switches += self._label is not None and label != self._label
            self._label = label
        if not contiguous or self.runs[-1][2] != label:
            self.runs.append([time_s, time_s, label])

    def seconds_by_label(self) -> dict[int | None, float]:
        """Return the total duration of each label."""
        seconds: dict[int | None, float] = dict.fromkeys(self.counts, 0.0)
        for start, end, label in self.runs:
            seconds[label] += end - start
        return seconds

    def mean(self, quantity: str) -> str:
        """Return the mean of a quantity over the frames that have it, or ""."""
        total, count = self.quantities.get(quantity, (0.0, 0))
        return f"{total / count:.3f}" if count else ""

    def dominant(self) -> int | None:
        """Return the label displayed longest, or None if the face was always uncertain."""
        seconds = self.seconds_by_label()
        labels = [label for label in self.counts if label is not None]
        return min(labels, key=lambda k: (-seconds[k], -self.counts[k], k), default=None)


class SummarySink(Sink):
    """Writes ``summary.csv`` and ``timeline.png`` on closing.

    A frame counts for the time until the next frame of the source, the last one for as long as the
    one before it. Memory use grows with the number of label changes, not of frames.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str], overwrite: bool = False) -> None:
        folder = Path(folder).expanduser()
        make_folder(folder, "Use another one.")
        self.table_path = new_file(folder / "summary.csv", overwrite)
        self.figure_path = new_file(folder / "timeline.png", overwrite)
        self.classes = list(classes)
        self.faces: dict[int, FaceSummary] = {}
        self.title = ""
        self._last_s: float | None = None  # time of the last frame
        self._frame_s = 0.0  # duration of the last frame
        self._present: frozenset[int] = frozenset()  # ids in the last frame
        self._closed = False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Add a frame."""
        self.title = self.title or result.source
        contiguous = False
        if self._last_s is not None:
            interval = result.time_s - self._last_s
            # A negative interval: the clip starts again, and its faces get new runs.
            if interval >= 0:
                self._frame_s = min(interval, MAX_FRAME_S)
                contiguous = interval <= MAX_FRAME_S
            self._extend_runs()
        for face in result.faces:
            summary = self.faces.setdefault(face.id, FaceSummary())
            summary.add(result.time_s, face, contiguous and face.id in self._present)
        self._present = frozenset(face.id for face in result.faces)
        self._last_s = result.time_s

    def _extend_runs(self) -> None:
        """Extend the current runs by the duration of the last frame."""
        for track_id in self._present:
            self.faces[track_id].runs[-1][1] = (self._last_s or 0.0) + self._frame_s

    def close(self) -> None:
        """Write both files."""
        if self._closed:
            return
        self._closed = True
        self._extend_runs()
        write_file(self.table_path, to_bytes(self._csv()))
        write_file(self.figure_path, self._png())

    def _csv(self) -> str:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = ["id", "first_s", "last_s", "seconds_seen", "frames", "dominant", "switches"]
        names = [f"{name}_s" for name in (*self.classes, "uncertain")]
        sources = [f"{name}_source" for name in QUANTITIES]
        table.writerow([*columns, *names, *QUANTITIES, *sources])
        for track_id, summary in sorted(self.faces.items()):
            by_label = summary.seconds_by_label()
            seconds = [by_label.get(k, 0.0) for k in (*range(len(self.classes)), None)]
            label = summary.dominant()
            name = "uncertain" if label is None else self.classes[label]
            times = (summary.runs[0][0], summary.runs[-1][1], sum(seconds))
            row = [track_id, *(f"{value:.3f}" for value in times)]
            row += [summary.frames, name, summary.switches]
            row += [f"{value:.3f}" for value in seconds]
            row += [summary.mean(name) for name in QUANTITIES]
            table.writerow([*row, *(summary.quantity_source.get(name, "") for name in QUANTITIES)])
        return text.getvalue()

    def _png(self) -> bytes:
        seconds = {k: sum(face.seconds_by_label().values()) for k, face in self.faces.items()}
        ids = sorted(sorted(seconds, key=lambda track_id: -seconds[track_id])[:_MAX_ROWS])
        runs = {track_id: self.faces[track_id].runs for track_id in ids}
        times = [run for face_runs in runs.values() for run in face_runs]
        first = min((start for start, *_ in times), default=0.0)
        last = max([self._last_s or 0.0, *(end for _, end, _ in times)])
        first = first if first >= last / 2 else min(0.0, first)
        title = Path(self.title).name or self.title
        if not ids:
            title += ": no face"
        elif len(ids) < len(seconds):
            title += f": the {len(ids)} of {len(seconds)} faces visible longest"
        last = last if last > first else first + 1
        return draw_timeline(runs, self.classes, title, first, last)
