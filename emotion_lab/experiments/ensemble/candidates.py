"""The candidate runs of an ensemble and their val predictions. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run
from emotion_lab.evaluation.predictions_file import SavedPredictions, differ, read_predictions
from emotion_lab.experiments.compare.load import aligned_predictions, short_names, trained_on_lines
from emotion_lab.experiments.ensemble.selection import METRICS
from emotion_lab.experiments.leaderboard.grouping import trained


@dataclass(frozen=True)
class EnsembleCandidates:
    """Trained networks and their predictions of the same val images.

    Attributes:
        names: Short unique names of the M runs.
        classes: K names, in the order of the probabilities.
        labels: True classes, int64 (N,).
        probabilities: float64 (M, N, K).
        fingerprint: Fingerprint of val.
        metric: Selection metric, one of ``METRICS``.
        notes: Lines to print.
        groups: N names of groups (``data.group``), or None.
    """

    runs: list[Run]
    names: list[str]
    checkpoints: list[Path]
    classes: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    fingerprint: dict[str, Any]
    metric: str
    notes: list[str] = field(default_factory=list)
    groups: list[str] | None = None


def _unique(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Drop runs that a later one repeats with the same config and seed; return notes on them.

    A repeated run would count twice in the average.
    """
    latest: dict[str, Run] = {}
    notes = []
    for run in runs:
        key = json.dumps([trained(run), run.seed], sort_keys=True, default=str)
        if key in latest:
            notes.append(
                f"{latest[key].folder} is left out: {run.folder} has the same config and seed "
                f"{run.seed}"
            )
        latest[key] = run
    return [run for run in runs if run in latest.values()], notes


def _selection_metric(metric: str, runs: Sequence[Run]) -> str:
    """Resolve ``metric=monitor`` to the monitored metric of the runs."""
    if metric != "monitor":
        return metric
    monitors = sorted({str(run.config["monitor"]) for run in runs})
    if len(monitors) > 1:
        raise UserError(
            f"the runs were monitored by different metrics ({', '.join(monitors)}): set "
            "metric=accuracy, metric=macro_f1 or metric=loss."
        )
    stage, name = monitors[0].split("/", 1)
    if stage != "val" or name not in METRICS:
        raise UserError(
            f"the runs were monitored by {monitors[0]}, which is no metric of val: set "
            "metric=accuracy, metric=macro_f1 or metric=loss."
        )
    return name


def _common_fingerprint(saved: Sequence[SavedPredictions], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the fingerprint of val; raise if a run has none, or if the runs are folds.

    Other differences of the fingerprints are reported when the rows are aligned.
    """
    first = saved[0].fingerprint
    for predictions, run in zip(saved, runs, strict=True):
        fingerprint = predictions.fingerprint
        if fingerprint is None or first is None:
            raise UserError(
                f"{(predictions if fingerprint is None else saved[0]).run} has no fingerprint of "
                "val, so the images it was scored on are unknown: train it again."
            )
        folds = [fold.config.get("data", {}).get("folds") for fold in (runs[0], run)]
        if differ(first, fingerprint) and all(folds):
            raise UserError(
                f"{saved[0].run} and {predictions.run} hold out different folds, so they have no "
                "common val images for the selection. Average them with python -m "
                "emotion_lab.evaluate ckpt=[<run>,<run>], or pool their predictions with python -m "
                "emotion_lab.crossval."
            )
    assert first is not None
    return first


def read(runs: Sequence[Run], metric: str) -> EnsembleCandidates:
    """Read the val predictions of runs, aligned to the same rows and classes.

    Args:
        metric: One of ``METRICS``, or ``monitor`` for the monitored metric of the runs.
    """
    if len(runs) < 2:
        raise UserError(
            f"an ensemble needs two or more runs, but there is only {runs[0].folder}: give a sweep "
            "directory, or runs=[<run>,<run>]."
        )
    metric = _selection_metric(metric, runs)
    runs, notes = _unique(runs)
    if len(runs) < 2:
        raise UserError(f"an ensemble needs two or more different runs: {notes[0]}.")
    checkpoints = [run.folder / "checkpoints" / "best.ckpt" for run in runs]
    missing = next((path for path in checkpoints if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"no {missing}: an ensemble needs the checkpoint of every run.")
    saved = [read_predictions(run.folder, "val") for run in runs]
    fingerprint = _common_fingerprint(saved, runs)
    first = saved[0]
    probabilities = np.zeros((len(saved), len(first.names), len(first.classes)))
    for i, predictions in enumerate(saved):
        aligned_predictions(first, predictions)  # raises for other rows, labels or classes
        rows = {name: row for row, name in enumerate(predictions.names)}
        order = [rows[name] for name in first.names]
        columns = [predictions.classes.index(name) for name in first.classes]
        probabilities[i] = predictions.probabilities[order][:, columns]
    probabilities /= probabilities.sum(-1, keepdims=True)
    names = short_names([run.folder for run in runs])
    warnings, seen_notes = trained_on_lines(names, [predictions.scores for predictions in saved])
    return EnsembleCandidates(
        runs,
        names,
        checkpoints,
        first.classes,
        first.labels,
        probabilities,
        fingerprint,
        metric,
        [*notes, *warnings, *seen_notes],
        first.groups,
    )
