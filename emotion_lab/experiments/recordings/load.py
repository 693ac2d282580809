"""Read the decisions of two models on the same recorded frames, and match their faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.boxes import intersections
from emotion_lab.video.recording import is_recording, read_header, read_rows

#: Boxes with at least this overlap (intersection over union) are the same face.
SAME_FACE = 0.3
#: Times of the same frame differ by rounding only, seconds.
_ROUNDING_S = 1e-5


@dataclass(frozen=True)
class Decisions:
    """The decisions of one model.

    Attributes:
        folder: Recording, or run directory of a replay.
        header: See :func:`~emotion_lab.video.recording.read_header`.
        rows: By frame number, in order of time.
    """

    folder: Path
    header: dict[str, Any]
    rows: dict[int, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Decisions:
        """Read the run directory of a replay, or the decisions in a recording."""
        header, rows = read_header(folder), read_rows(folder)
        return cls(folder, header, {row["frame"]: row for row in rows})

    @property
    def classes(self) -> list[str]:
        """Class names of the model."""
        return list(self.header["classes"])

    @property
    def recording(self) -> Path:
        """Folder of the recorded pictures."""
        origin = self.header["replay_of"]
        return self.folder if origin is None else Path(origin)


@dataclass(frozen=True)
class Look:
    """One face in one frame, as both models saw it: a row of ``faces`` each."""

    frame: int
    time_s: float
    a: dict[str, Any]
    b: dict[str, Any]


def recorded_sides(sides: Sequence[list[Path]]) -> tuple[Path, Path] | None:
    """Return the folders of a and b if both are recordings or replays, None if neither is.

    Args:
        sides: ``run_a`` and ``run_b``.
    """
    folders = [folder for side in sides for folder in side]
    recorded = [is_recording(folder) for folder in folders]
    if not any(recorded):
        return None
    if not all(recorded):
        other = folders[recorded.index(False)]
        raise UserError(
            f"{folders[recorded.index(True)]} is a recording or replay and {other} is not: give "
            "two of them, or two runs of train."
        )
    if len(folders) != 2:
        raise UserError("recordings are compared one with one: run_a=<folder> run_b=<folder>.")
    if folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{folders[0]} is given twice: it cannot be compared with itself.")
    return folders[0], folders[1]


def read_sides(a: Path, b: Path) -> tuple[Decisions, Decisions]:
    """Read both sides; raise if they are not of the same frames."""
    sides = Decisions.read(a), Decisions.read(b)
    common = sides[0].rows.keys() & sides[1].rows.keys()
    times = [[side.rows[frame]["time_s"] for frame in sorted(common)] for side in sides]
    if not common or not np.allclose(times[0], times[1], rtol=0, atol=_ROUNDING_S):
        raise UserError(
            f"{a} and {b} are not of the same recording: their frames have other times. Replay one "
            "recording with both models."
        )
    return sides


def match_faces(frame: int, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Look]:
    """Yield the faces that both rows of a frame have, the largest overlap first."""
    if not a["faces"] or not b["faces"]:
        return
    boxes_a, boxes_b = (np.array([face["box"] for face in row["faces"]]) for row in (a, b))
    shared = intersections(boxes_a, boxes_b)
    areas = boxes_a[:, 2:].prod(1)[:, None] + boxes_b[:, 2:].prod(1)[None]
    overlap = shared / np.maximum(areas - shared, 1e-9)
    while overlap.max() >= SAME_FACE:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        yield Look(frame, a["time_s"], a["faces"][i], b["faces"][j])
        overlap[i], overlap[:, j] = 0, 0


def matched_looks(a: Decisions, b: Decisions) -> list[Look]:
    """Return every face that both models saw in the same frame, in order of time."""
    frames = [frame for frame in a.rows if frame in b.rows]
    return [look for f in frames for look in match_faces(f, a.rows[f], b.rows[f])]
