"""Read the runs of a comparison and align their rows, classes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import SavedPredictions, differ, read_predictions


def parse_runs(key: str, value: Any) -> list[Path]:
    """Return the run directories given by a config key: one path, or a list in brackets."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]" and not _exists(value):
        value = [part.strip().strip("'\"") for part in value[1:-1].split(",")]
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    runs = [Path(str(run)) for run in values if run is not None and str(run)]
    if not runs:
        raise UserError(
            f"{key} is missing: give run directories, {key}=<run> or {key}=[<run>,<run>]."
        )
    return runs


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:  # longer than a path may be
        return False


def short_names(runs: Sequence[Path]) -> list[str]:
    """Return the shortest endings of the resolved paths that are different for all runs."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return ["/".join(path) for path in parts]


def describe_split(fingerprint: dict[str, Any]) -> str:
    """Return name, size and short hash of a split for an error message."""
    name = fingerprint.get("known_as") or "a split"
    return f"{name} of {fingerprint.get('n')} images ({fingerprint['hash'][:8]})"


def _check_fingerprints(first: SavedPredictions, other: SavedPredictions) -> None:
    """Raise if two runs were scored on different splits."""
    fingerprints = [saved.fingerprint for saved in (first, other) if saved.fingerprint is not None]
    if len(fingerprints) == 2 and differ(*fingerprints):
        raise UserError(
            f"{first.run} and {other.run} were not scored on the same {first.split} split: "
            f"{', '.join(map(describe_split, fingerprints))}. Score both on the same data."
        )


def trained_on_lines(
    names: Sequence[str], scores: Sequence[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Compare how many of the scored images each run learnt from.

    Args:
        names: Names of the runs.
        scores: Scores of each run on the same images, as in its ``metrics.json``.

    Returns:
        Warnings about runs that learnt from more of the images than others, and notes about images
        that all runs learnt from and about runs of which it is unknown. Near copies count if they
        are known for every run.
    """
    seen = [score.get("trained_on") or {} for score in scores]
    has_near = all(one.get("near") is not None for one in seen)
    counts = {
        name: None if one.get("n") is None else one["n"] + (one["near"] if has_near else 0)
        for name, one in zip(names, seen, strict=True)
    }
    known = {name: count for name, count in counts.items() if count is not None}
    unknown = [name for name in counts if name not in known]
    lowest, warnings, notes = min(known.values(), default=0), [], []
    for name, count in known.items():
        if count > lowest:
            total = scores[list(counts).index(name)]["n"]
            warnings.append(
                f"{name} learnt from {count:,} of the {total:,} images, other runs from "
                f"{lowest:,}: its score is too high"
            )
    if lowest:
        notes.append(f"{lowest:,} of the images are in the training data of every run")
    near_unknown = [name for name, one in zip(counts, seen, strict=True) if one.get("near") is None]
    for what, listed in (
        ("the images", unknown),
        ("near copies of the images", [name for name in near_unknown if name in known]),
    ):
        if listed:
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            names_text = ", ".join(listed[:3]) + more
            notes.append(f"it is unknown whether these runs learnt from {what}: {names_text}")
    return warnings, notes


def check_same_classes(first: SavedPredictions, other: SavedPredictions) -> None:
    """Refuse runs with different classes; their order may differ."""
    differing = sorted(set(first.classes) ^ set(other.classes))
    if differing:
        raise UserError(
            f"{first.run} and {other.run} do not have the same classes: only one of them has "
            f"{', '.join(differing)}."
        )


def aligned_predictions(first: SavedPredictions, other: SavedPredictions) -> np.ndarray:
    """Return the predicted classes of ``other`` in the rows and class order of ``first``.

    Returns:
        int64 (N,).

    Raises:
        UserError: If the two differ in data, classes, rows or labels.
    """
    _check_fingerprints(first, other)
    check_same_classes(first, other)
    rows = {name: i for i, name in enumerate(other.names)}
    missing = [name for name in first.names if name not in rows]
    if missing or len(rows) != len(first.names):
        names = set(first.names)
        example = missing[0] if missing else next(name for name in rows if name not in names)
        has, lacks = (first, other) if missing else (other, first)
        raise UserError(
            f"{first.run} ({len(first.names)} rows) and {other.run} ({len(rows)} rows) do not have "
            f"the same rows: '{example}' is in {has.run} and not in {lacks.run}. Score both on the "
            "same data."
        )
    order = np.array([rows[name] for name in first.names])
    class_index = np.array([first.classes.index(name) for name in other.classes])
    labels, predicted = class_index[other.labels[order]], class_index[other.predicted[order]]
    unequal = np.flatnonzero(labels != first.labels)
    if len(unequal):
        i = int(unequal[0])
        raise UserError(
            f"{len(unequal)} labels differ between {first.run} and {other.run}, the first of "
            f"'{first.names[i]}' ({first.classes[first.labels[i]]}, {first.classes[labels[i]]}). "
            "Score both on the same data."
        )
    return predicted


def _match_seeds(
    a: list[SavedPredictions], b: list[SavedPredictions]
) -> tuple[list[SavedPredictions], list[str]]:
    """Return the runs of b in the seed order of a, and notes."""
    if len(a) != len(b):
        raise UserError(
            f"a has {len(a)} runs and b has {len(b)}: give the same number of runs, one per seed, "
            "with the same seeds for a and b."
        )
    if len(a) == 1:
        return b, []
    seeds = [[saved.seed for saved in side if saved.seed is not None] for side in (a, b)]
    if any(len(side) < len(a) for side in seeds):
        return b, ["Not every run has a recorded seed: runs are paired in the given order."]
    for key, side in zip("ab", seeds, strict=True):
        duplicates = sorted({seed for seed in side if side.count(seed) > 1})
        if duplicates:
            raise UserError(f"{key} has seed {duplicates[0]} twice: give one run per seed.")
    if set(seeds[0]) != set(seeds[1]):
        listed = [", ".join(map(str, sorted(side))) for side in seeds]
        raise UserError(
            f"the seeds of a are {listed[0]} and those of b {listed[1]}: give runs with the same "
            "seeds."
        )
    return [b[seeds[1].index(seed)] for seed in seeds[0]], []


def read_pairs(
    a: list[Path], b: list[Path], split: str
) -> tuple[list[SavedPredictions], list[SavedPredictions], list[str]]:
    """Read the runs of both sides; runs with the same seed have the same position.

    Returns:
        Runs of a, runs of b, and notes for the user.
    """
    resolved = [run.resolve() for run in [*a, *b]]
    for i, run in enumerate(resolved):
        if run in resolved[:i]:
            raise UserError(f"{[*a, *b][i]} is given twice: a run cannot be compared with itself.")
    runs_a, runs_b = ([read_predictions(run, split) for run in side] for side in (a, b))
    runs_b, notes = _match_seeds(runs_a, runs_b)
    runs = [*runs_a, *runs_b]
    for other in runs[1:]:
        aligned_predictions(runs[0], other)
    if any(saved.fingerprint is None for saved in runs):
        notes.append("Not every run has a fingerprint of its split: rows are matched by name only.")
    return runs_a, runs_b, notes


def kept_rows(names: list[str], drop_csv: str) -> np.ndarray:
    """Return the positions of the images that a list does not name, int64 (M,).

    Args:
        names: Image names of the predictions.
        drop_csv: CSV with a column ``path``, as the audit writes ``duplicates.csv``; its rows of
            other splits change nothing.

    Raises:
        UserError: If the list cannot be read, or names none or all of the images.
    """
    from emotion_lab.data.cleaning import path_suffixes, read_rows  # imports OpenCV

    positions = {name: i for i, name in enumerate(names)}
    dropped = set()
    for row in read_rows("drop_csv", drop_csv):
        found = next((name for name in path_suffixes(row.path) if name in positions), None)
        if found is not None:
            dropped.add(positions[found])
    if not dropped:
        raise UserError(
            f"drop_csv={drop_csv}: none of its rows names an image of the predictions; here images "
            f"are called '{names[0]}'."
        )
    if len(dropped) == len(names):
        raise UserError(f"drop_csv={drop_csv} names all {len(names):,} images.")
    return np.setdiff1d(np.arange(len(names)), sorted(dropped))
