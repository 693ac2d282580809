"""The runs an ensemble is built from, and what they said of val. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run
from emotion_lab.evaluation.predictions_file import SavedPredictions, read_predictions
from emotion_lab.experiments.compare.load import aligned, titles
from emotion_lab.experiments.ensemble.selection import METRICS
from emotion_lab.experiments.leaderboard.grouping import trained


@dataclass(frozen=True)
class EnsembleCandidates:
    """Trained networks and what they said of the same val images.

    Attributes:
        runs: M runs.
        names: Short names that tell them apart.
        checkpoints: Their ``best.ckpt``.
        classes: K names, in the order of the probabilities.
        labels: True classes, int64 (N,).
        given: Probabilities, float64 (M, N, K).
        fingerprint: Of val.
        metric: What chooses: one of :data:`emotion_lab.experiments.ensemble.selection.METRICS`.
        notes: Worth showing.
    """

    runs: list[Run]
    names: list[str]
    checkpoints: list[Path]
    classes: list[str]
    labels: np.ndarray
    given: np.ndarray
    fingerprint: dict[str, Any]
    metric: str
    notes: list[str] = field(default_factory=list)


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs without those that a later one repeats, and a note for each.

    A run with the same config and seed is no second opinion; two of it would count double.
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


def _metric(wanted: str, runs: Sequence[Run]) -> str:
    """Return what chooses: what was asked for, or what the runs were monitored by.

    Raises:
        UserError: If the runs do not agree, or it is no score of val.
    """
    if wanted != "monitor":
        return wanted
    found = sorted({str(run.config["monitor"]) for run in runs})
    if len(found) > 1:
        raise UserError(
            f"the runs were chosen by different metrics ({', '.join(found)}): say which counts, "
            "metric=accuracy, metric=macro_f1 or metric=loss."
        )
    stage, name = found[0].split("/", 1)
    if stage != "val" or name not in METRICS:
        raise UserError(
            f"the runs were monitored by {found[0]}, which is no score of val: set "
            "metric=accuracy, metric=macro_f1 or metric=loss."
        )
    return name


def _same_val(saved: Sequence[SavedPredictions], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the fingerprint of the val split that all runs share.

    Raises:
        UserError: If there is none.
    """
    first = saved[0].fingerprint
    for one, run in zip(saved, runs, strict=True):
        found = one.fingerprint
        if found is None or first is None:
            raise UserError(
                f"{(one if found is None else saved[0]).run} tells no fingerprint of val: train "
                "it again, so that it is known which images it was scored on."
            )
        folds = [each.config.get("data", {}).get("folds") for each in (runs[0], run)]
        if found["hash"] != first["hash"] and all(folds):
            raise UserError(
                f"{saved[0].run} and {one.run} hold out different folds: no image is val for both, "
                "so nothing can choose. Average them with python -m emotion_lab.evaluate "
                "ckpt=[<run>,<run>], or pool their predictions with python -m emotion_lab.crossval."
            )
    assert first is not None
    return first


def read(runs: Sequence[Run], metric: str) -> EnsembleCandidates:
    """Read what runs said of val, brought to the same rows and classes.

    Args:
        runs: Two or more.
        metric: One of ``METRICS``, or ``monitor``: what the runs were monitored by.

    Raises:
        UserError: If a checkpoint or predictions are missing or damaged, or the runs do not have
            the same val split, classes or images.
    """
    if len(runs) < 2:
        raise UserError(
            f"one run is no ensemble ({runs[0].folder}): give a sweep folder, or "
            "runs=[<run>,<run>]."
        )
    metric = _metric(metric, runs)
    runs, notes = _once(runs)
    if len(runs) < 2:
        raise UserError(f"one run is no ensemble: {notes[0]}.")
    checkpoints = [run.folder / "checkpoints" / "best.ckpt" for run in runs]
    lost = next((path for path in checkpoints if not path.is_file()), None)
    if lost is not None:
        raise UserError(f"no {lost}: an ensemble needs the checkpoint of every run.")
    saved = [read_predictions(run.folder, "val") for run in runs]
    fingerprint = _same_val(saved, runs)
    first = saved[0]
    given = np.zeros((len(saved), len(first.names), len(first.classes)))
    for i, one in enumerate(saved):
        aligned(first, one)  # refuses other rows, labels or classes
        rows = {name: row for row, name in enumerate(one.names)}
        columns = [one.classes.index(name) for name in first.classes]
        given[i] = one.probabilities[[rows[name] for name in first.names]][:, columns]
    given /= given.sum(-1, keepdims=True)
    names = titles([run.folder for run in runs])
    return EnsembleCandidates(
        runs, names, checkpoints, first.classes, first.labels, given, fingerprint, metric, notes
    )
