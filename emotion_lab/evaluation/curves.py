"""One-vs-rest ROC and precision-recall curves of torchmetrics.

Both take probabilities (N, K), labels int64 (N,) and K class names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_precision_recall_curve, binary_roc

#: Maximum number of points of a drawn curve; areas are computed from all points.
POINTS = 200


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[list[float], list[float]]:
    """Return at most ``points`` points, evenly spaced along the curve, with both ends.

    ``x`` is monotone.
    """
    if len(x) > points:
        length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        targets = np.linspace(0, length[-1], points)
        kept = np.unique(np.clip(np.searchsorted(length, targets), 0, len(x) - 1))
        kept[0], kept[-1] = 0, len(x) - 1
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def _fractions(values: torch.Tensor, total: int) -> np.ndarray:
    """Return float32 fractions of ``total`` as exact float64 fractions."""
    return np.rint(values.double().numpy() * total) / total


def _tensors(scores: np.ndarray, is_class: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(np.ascontiguousarray(scores, dtype=np.float64)),
        torch.from_numpy(is_class.astype(np.int64)),
    )


def roc(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """Return the ROC curve of each class against the rest.

    Returns:
        Class -> ``fpr``, ``tpr`` (ascending from 0 to 1, at most 200 points) and ``auc``. None for
        a class without samples; ``auc`` None and no points if there are no other samples.
    """

    def curve(scores: np.ndarray, is_class: np.ndarray) -> dict[str, Any] | None:
        positives = int(is_class.sum())
        negatives = len(is_class) - positives
        if not positives:
            return None
        if not negatives:
            return {"fpr": [], "tpr": [], "auc": None}
        fpr, tpr, _ = binary_roc(*_tensors(scores, is_class))
        x, y = _fractions(fpr, negatives), _fractions(tpr, positives)
        area = float(torch.trapezoid(torch.from_numpy(y), torch.from_numpy(x)))
        return {**dict(zip(("fpr", "tpr"), thin(x, y), strict=True)), "auc": area}

    return {name: curve(probabilities[:, i], labels == i) for i, name in enumerate(classes)}


def precision_recall(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any] | None]:
    """Return the precision-recall curve of each class against the rest.

    Returns:
        Class -> ``recall`` (descending from 1 to 0), ``precision`` (at most 200 points) and
        ``ap``, the average precision: the mean precision weighted by the increase of recall. None
        for a class without samples.
    """

    def curve(scores: np.ndarray, is_class: np.ndarray) -> dict[str, Any] | None:
        positives = int(is_class.sum())
        if not positives:
            return None
        precision, recall, _ = binary_precision_recall_curve(*_tensors(scores, is_class))
        x, y = _fractions(recall, positives), precision.double().numpy()
        area = float(-(np.diff(x) * y[:-1]).sum())
        return {**dict(zip(("recall", "precision"), thin(x, y), strict=True)), "ap": area}

    return {name: curve(probabilities[:, i], labels == i) for i, name in enumerate(classes)}


def macro_auc(curves: Mapping[str, Mapping[str, Any] | None]) -> float | None:
    """Return the mean AUC of the classes of :func:`roc` that have one, None if no class has."""
    areas = [curve["auc"] for curve in curves.values() if curve and curve["auc"] is not None]
    return float(np.mean(areas)) if areas else None
