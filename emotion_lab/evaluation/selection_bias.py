"""Selection bias of the best epoch: its val score is too high, because val selected it.

The epoch is selected on one random half of val and scored on the other half, and vice versa; all
images of a person or clip are in one half, if they are known. The difference of the two scores is
the bias of a selection on half of the images. A score on twice as many images has a standard error
smaller by the factor sqrt(2), so the difference is divided by it.

Source: Cawley, Talbot 2010, JMLR 11 (selection bias in performance evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.runs import monitor_mode
from emotion_lab.data.groups import group_numbers
from emotion_lab.data.types import Split
from emotion_lab.evaluation.statistics import Counts
from emotion_lab.training.val_predictions import ValPredictions

#: Random divisions of val into halves.
NUM_SPLITS = 200


def _scores(saved: ValPredictions, metric: str, halves: np.ndarray) -> np.ndarray:
    """Return the metric of every epoch on parts of val, float64 (E, S).

    Args:
        saved: Predictions of E epochs for N images.
        metric: ``loss``, ``accuracy`` or, for instance, ``macro_f1``.
        halves: float32 (S, N), 1 for the images of a part.
    """
    if metric == "loss":
        assert saved.losses is not None
        return saved.losses.astype(np.float32) @ halves.T / halves.sum(1)
    labels, predicted = saved.labels, saved.predicted
    classes = np.arange(max(labels.max(), predicted.max()) + 1)
    correct = (predicted == labels).astype(np.float32)
    of_class = [labels == k for k in classes]
    counts = Counts(
        np.stack([correct[:, rows] @ halves[:, rows].T for rows in of_class], axis=-1),
        np.stack([(predicted == k).astype(np.float32) @ halves.T for k in classes], axis=-1),
        np.stack([halves[:, rows].sum(1) for rows in of_class], axis=-1),
    )
    return counts.metric(metric)


def selection_bias(
    saved: ValPredictions,
    metric: str,
    mode: str,
    num_splits: int = NUM_SPLITS,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Estimate how much choosing the epoch by a val metric adds to its val accuracy.

    Args:
        saved: Predictions of E epochs.
        metric: The metric that chooses, without ``val/``.
        mode: ``max`` or ``min``.
        num_splits: Number of random divisions into halves.
        groups: N names of groups (``data.group``, or clips); the halves are halves of the groups.

    Returns:
        ``accuracy``, the mean bias (0.01: one point); ``std``, its standard deviation over the
        divisions; ``metric``, ``epochs``, ``num_splits``, and ``groups`` (their number) with them.
    """
    units = np.arange(len(saved.labels)) if groups is None else group_numbers(groups)
    generator, n = np.random.default_rng(0), int(units.max()) + 1
    halves = np.zeros((num_splits, n), np.float32)
    for half in halves:
        half[generator.permutation(n)[: n // 2]] = 1
    halves = halves[:, units]
    parts = (halves, 1 - halves)
    accuracy = [_scores(saved, "accuracy", part) for part in parts]
    chosen = []
    for part in parts:
        scores = _scores(saved, metric, part)
        chosen.append(scores.argmax(0) if mode == "max" else scores.argmin(0))
    columns = np.arange(num_splits)
    gaps = [
        accuracy[own][chosen[own], columns] - accuracy[1 - own][chosen[own], columns]
        for own in (0, 1)
    ]
    bias = (gaps[0] + gaps[1]) / 2 / np.sqrt(2)
    return {
        "accuracy": float(bias.mean()),
        "std": float(bias.std(ddof=1)),
        "metric": metric,
        "epochs": len(saved.predicted),
        "num_splits": num_splits,
        **({} if groups is None else {"groups": n}),
    }


def of_run(
    run_dir: Path, cfg: dict[str, Any], epochs: int, val: Split | None = None
) -> dict[str, Any] | None:
    """Return the selection bias of a run; None if it is not known, or the epoch not chosen on val.

    Args:
        run_dir: The run directory.
        cfg: Config of the run.
        epochs: Number of epochs trained.
        val: The val split, for its groups.
    """
    stage, _, metric = cfg["monitor"].partition("/")
    saved = ValPredictions.read(run_dir)
    if saved is None or len(saved.predicted) != epochs or len(saved.labels) < 2:
        return None
    if stage != "val" or metric == "criterion" or (metric == "loss" and saved.losses is None):
        return None
    groups = None if val is None else val.groups
    if val is not None and not np.array_equal(val.labels, saved.labels):
        groups = None  # the predictions are not in the order of the split
    if groups is not None and len(set(groups)) < 2:
        return None
    return selection_bias(saved, metric, monitor_mode(cfg), groups=groups)


def describe(bias: dict[str, Any]) -> str:
    """Return one line about the result of :func:`selection_bias`."""
    over = f" (halves of its {bias['groups']} groups)" if "groups" in bias else ""
    return (
        f"choosing the best of {bias['epochs']} epochs on val adds about "
        f"{100 * bias['accuracy']:+.1f} ± {100 * bias['std']:.1f} points to its val accuracy{over}"
    )
