"""Paired comparison of a fine-tuned run with the checkpoint that it started from, on val."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import normalize
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data.checkpoint_data import CheckpointData
from emotion_lab.evaluation.evaluate import Predictor, evaluate
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import paired


def _shared(first: Sequence[str], other: Sequence[str]) -> list[str]:
    names = {normalize(name) for name in first}
    return [normalize(name) for name in other if normalize(name) in names]


def compare(before: EvaluationResult, after: EvaluationResult) -> dict[str, Any]:
    """Compare two checkpoints on the images of the classes that both have.

    Each checkpoint predicts any of its classes.

    Returns:
        Builtins: ``classes``, ``n``, ``accuracy_before`` and ``accuracy_after``, and the difference
        as in :func:`emotion_lab.evaluation.statistics.paired`.
    """
    names = [[normalize(name) for name in result.classes] for result in (before, after)]
    union = list(dict.fromkeys([*names[1], *names[0]]))
    index = [np.array([union.index(name) for name in own]) for own in names]
    # ``before`` holds no images of other classes.
    predicted = dict(zip(before.names, index[0][before.predicted], strict=True))
    rows = [row for row, name in enumerate(after.names) if name in predicted]
    labels, b = index[1][after.labels[rows]], index[1][after.predicted[rows]]
    a = np.array([predicted[after.name(row)] for row in rows])
    groups = None if after.groups is None else [after.groups[row] for row in rows]
    difference = paired(labels, a, b, len(union), groups=groups)
    kept = ("accuracy", "accuracy_ci95", "only_a_right", "only_b_right", "mcnemar_p", "verdict")
    return {
        "classes": _shared(*names),
        "n": len(rows),
        "accuracy_before": float((a == labels).mean()),
        "accuracy_after": float((b == labels).mean()),
        "difference": {key: difference[key] for key in kept},
    }


def line(values: dict[str, Any]) -> str:
    """Return the printed line of :func:`compare`."""
    difference = values["difference"]
    low, high = (100 * end for end in difference["accuracy_ci95"])
    p = difference["mcnemar_p"]
    test = "over persons or groups" if p is None else f"McNemar p = {p:.2g}"
    return (
        f"val before and after, {values['n']:,} images of {len(values['classes'])} shared classes: "
        f"accuracy {values['accuracy_before']:.1%} and {values['accuracy_after']:.1%}, "
        f"{100 * difference['accuracy']:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}, "
        f"{test})"
    )


def measure(cfg: dict[str, Any], after: EvaluationResult, device: str) -> dict[str, Any] | None:
    """Compare a run with the checkpoint in ``model.weights`` on val.

    Args:
        cfg: The config of the run.
        after: Its result on val.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        ``checkpoint`` and the result of :func:`compare`; None if the run started from no checkpoint
        of this package, or shares fewer than two classes with it.
    """
    weights = cfg["model"].get("weights")
    if weights is None:
        return None
    try:
        path = find_checkpoint(weights)
        classes = ckpt.read(path)[ckpt.CARD]["classes"]
    except UserError:  # weights of another program, or the file is gone
        return None
    if len(_shared(classes, after.classes)) < 2:
        return None
    predictor = Predictor.load(path, device)
    # Not as foreign data: val is divided as in the run.
    data = CheckpointData.open(predictor.card, cfg["data"], "val")
    before = evaluate(predictor, data, printed=data.notes)
    return {"checkpoint": str(path), **compare(before, after)}
