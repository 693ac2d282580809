"""ROC and precision-recall curves of one class against the rest, by torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

#: A drawn curve has no more points than this; areas are computed from all of them.
POINTS = 200


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[list[float], list[float]]:
    """Return at most ``points`` of a curve's points, evenly along it, both ends among them.

    Args:
        x: Abscissae (P,), monotone.
        y: Ordinates (P,).
        points: How many to keep, 2 or more.
    """
    if len(x) > points:
        along = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        wanted = np.linspace(0, along[-1], points)
        kept = np.unique(np.clip(np.searchsorted(along, wanted), 0, len(x) - 1))
        kept[0], kept[-1] = 0, len(x) - 1
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def _shares(values: torch.Tensor, total: int) -> np.ndarray:
    """Return counts / total in float64; torchmetrics divides in float32."""
    return np.rint(values.double().numpy() * total) / total


def roc(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """Return the ROC curve of each class against the rest.

    Args:
        probabilities: (N, K), 0 to 1.
        labels: int64 (N,).
        classes: K names.

    Returns:
        Class -> ``fpr``, ``tpr`` (rising from 0 to 1, at most 200 points) and ``auc``. None for a
        class without samples; ``auc`` None and no points where there are no other samples.
    """
    curves: dict[str, dict[str, Any] | None] = {}
    for i, name in enumerate(classes):
        wanted = labels == i
        positives = int(wanted.sum())
        negatives = len(wanted) - positives
        if not positives:
            curves[name] = None
        elif not negatives:
            curves[name] = {"fpr": [], "tpr": [], "auc": None}
        else:
            fpr, tpr, _ = binary_roc(*_tensors(probabilities[:, i], wanted))
            x, y = _shares(fpr, negatives), _shares(tpr, positives)
            area = float(torch.trapezoid(torch.from_numpy(y), torch.from_numpy(x)))
            fpr_drawn, tpr_drawn = thin(x, y)
            curves[name] = {"fpr": fpr_drawn, "tpr": tpr_drawn, "auc": area}
    return curves


def precision_recall(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """Return the precision-recall curve of each class against the rest.

    Args:
        probabilities: (N, K), 0 to 1.
        labels: int64 (N,).
        classes: K names.

    Returns:
        Class -> ``recall`` (falling from 1 to 0), ``precision`` (at most 200 points) and ``ap``,
        the average precision: mean precision weighted with the growth of recall. None for a class
        without samples.
    """
    curves: dict[str, dict[str, Any] | None] = {}
    for i, name in enumerate(classes):
        wanted = labels == i
        positives = int(wanted.sum())
        if not positives:
            curves[name] = None
            continue
        precision, recall, _ = binary_precision_recall_curve(*_tensors(probabilities[:, i], wanted))
        x, y = _shares(recall, positives), precision.double().numpy()
        recall_drawn, precision_drawn = thin(x, y)
        curves[name] = {
            "recall": recall_drawn,
            "precision": precision_drawn,
            "ap": float(-(np.diff(x) * y[:-1]).sum()),
        }
    return curves


def _tensors(scores: np.ndarray, wanted: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float64)),
        torch.from_numpy(wanted.astype(np.int64)),
    )


def macro_auc(curves: Mapping[str, Mapping[str, Any] | None]) -> float | None:
    """Return the mean AUC of the classes that have one, None where none has.

    Args:
        curves: As :func:`roc` returns them.
    """
    areas = [curve["auc"] for curve in curves.values() if curve and curve["auc"] is not None]
    return float(np.mean(areas)) if areas else None
