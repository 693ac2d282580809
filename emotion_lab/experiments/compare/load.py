"""What is compared: runs as they are typed, read, brought to the same rows, classes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import SavedPredictions, read_predictions


def runs_of(key: str, value: Any) -> list[Path]:
    """Return the run folders of ``run_a=`` or ``run_b=``: one, or a list in brackets.

    Raises:
        UserError: If there is none.
    """
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]" and not _exists(value):
        value = [part.strip().strip("'\"") for part in value[1:-1].split(",")]
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    runs = [str(run) for run in given if run is not None and str(run)]
    if not runs:
        raise UserError(f"{key} is missing: give a run folder, {key}=<run> or {key}=[<run>,<run>].")
    return [Path(run) for run in runs]


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # longer than a path may be
        return False


def _place(run: Path) -> tuple[str, ...]:
    """Return the parts of a run folder's path, links and ``..`` resolved."""
    return run.resolve().parts


def titles(runs: Sequence[Path]) -> list[str]:
    """Return short names of run folders: as much of the end of each path as tells them apart."""
    parts = [_place(run) for run in runs]
    longest = max(len(place) for place in parts)
    for length in range(1, longest):
        names = ["/".join(place[-length:]) for place in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return ["/".join(place) for place in parts]


def _same_data(first: SavedPredictions, other: SavedPredictions) -> None:
    """Refuse runs that did not see the same images with the same labels.

    Raises:
        UserError: Naming what differs.
    """
    one, two = first.fingerprint, other.fingerprint
    if one is not None and two is not None and one["hash"] != two["hash"]:
        shown = [
            f"{found.get('known_as') or 'a split'} of {found.get('n')} images ({found['hash'][:8]})"
            for found in (one, two)
        ]
        raise UserError(
            f"{first.run} and {other.run} were not scored on the same {first.split} split: "
            f"{shown[0]}, {shown[1]}. Score both on the same data."
        )


def aligned(first: SavedPredictions, other: SavedPredictions) -> np.ndarray:
    """Return the classes that ``other`` predicts, in the rows and class order of ``first``.

    Returns:
        int64 (N,).

    Raises:
        UserError: If the two differ in data, classes, rows or labels.
    """
    _same_data(first, other)
    missing = sorted(set(first.classes) ^ set(other.classes))
    if missing:
        raise UserError(
            f"{first.run} and {other.run} do not have the same classes: only one of them has "
            f"{', '.join(missing)}."
        )
    rows = {name: i for i, name in enumerate(other.names)}
    lost = [name for name in first.names if name not in rows]
    if lost or len(rows) != len(first.names):
        known = set(first.names)
        odd = lost[0] if lost else next(name for name in rows if name not in known)
        has, lacks = (first, other) if lost else (other, first)
        raise UserError(
            f"{first.run} ({len(first.names)} rows) and {other.run} ({len(rows)} rows) do not have "
            f"the same rows: '{odd}' is in {has.run} and not in {lacks.run}. Score both on the "
            "same data."
        )
    order = np.array([rows[name] for name in first.names])
    places = np.array([first.classes.index(name) for name in other.classes])
    labels, predicted = places[other.labels[order]], places[other.predicted[order]]
    differing = np.flatnonzero(labels != first.labels)
    if len(differing):
        i = int(differing[0])
        raise UserError(
            f"{len(differing)} labels differ between {first.run} and {other.run}, the first of "
            f"'{first.names[i]}' ({first.classes[first.labels[i]]}, {first.classes[labels[i]]}). "
            "Score both on the same data."
        )
    return predicted


def _by_seed(
    a: list[SavedPredictions], b: list[SavedPredictions]
) -> tuple[list[SavedPredictions], list[str]]:
    """Return b in the order of a, by seed where every run has one, and notes."""
    if len(a) != len(b):
        raise UserError(
            f"a has {len(a)} runs and b has {len(b)}: give as many of each, one a seed, the same "
            "seeds on both sides."
        )
    if len(a) == 1:
        return b, []
    seeds = [[saved.seed for saved in side] for side in (a, b)]
    if any(seed is None for side in seeds for seed in side):
        return b, ["Not every run tells its seed: runs are paired in the order given."]
    for key, side in zip("ab", seeds, strict=True):
        twice = sorted({seed for seed in side if side.count(seed) > 1})
        if twice:
            raise UserError(f"{key} names seed {twice[0]} twice: give one run a seed.")
    if set(seeds[0]) != set(seeds[1]):
        shown = [", ".join(map(str, sorted(side))) for side in seeds]
        raise UserError(
            f"the seeds of a are {shown[0]} and those of b {shown[1]}: give the same seeds on both "
            "sides."
        )
    return [b[seeds[1].index(seed)] for seed in seeds[0]], []


def read_sides(
    a: list[Path], b: list[Path], split: str
) -> tuple[list[SavedPredictions], list[SavedPredictions], list[str]]:
    """Read the runs of both sides, runs of equal seed at equal places.

    Returns:
        Runs of a, runs of b, and notes worth showing.

    Raises:
        UserError: For a run that is missing, damaged, given twice or without an equal.
    """
    places = [_place(run) for run in [*a, *b]]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UserError(f"{[*a, *b][i]} is given twice: a run cannot be compared with itself.")
    first, second = ([read_predictions(run, split) for run in side] for side in (a, b))
    second, notes = _by_seed(first, second)
    runs = [*first, *second]
    for other in runs[1:]:
        aligned(runs[0], other)
    if any(saved.fingerprint is None for saved in runs):
        notes.append("Not every run tells its split's fingerprint: rows are matched by name alone.")
    return first, second, notes
