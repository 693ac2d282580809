"""Calibration metrics (NLL, Brier score, ECE, reliability, coverage) and temperature scaling.

All functions take logits (N, K), labels int64 (N,) and a temperature, and compute in float64. To
pass probabilities, pass their logarithm (clipped at 1e-12).

Source: Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torchmetrics.functional.classification import multiclass_calibration_error

from emotion_lab.core.errors import UserError

BINS = 15
#: Range of the temperature.
LOWEST, HIGHEST = 0.05, 20.0
COVERAGES = tuple(fraction / 20 for fraction in range(20, 0, -1))
#: The largest float32 below 1: torchmetrics puts a confidence of exactly 1 into an extra bin.
_BELOW_ONE = 1 - 2.0**-24


def check(logits: np.ndarray, labels: np.ndarray) -> None:
    """Refuse empty, NaN or infinite predictions."""
    if not len(labels):
        raise UserError("there are no predictions to score: the split is empty.")
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(logits)} predictions are NaN or infinite, the first is number "
            f"{bad[0] + 1}: these weights are broken, take another checkpoint."
        )


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return log softmax(logits / temperature), natural log, float64 (N, K)."""
    return log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return softmax(logits / temperature), float64 (N, K)."""
    return np.exp(log_probabilities(logits, temperature))


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood, natural log, 0 or more; lower is better."""
    check(logits, labels)
    values = log_probabilities(logits, temperature)
    # Not -0.0, if every prediction is certain and right.
    return max(0.0, float(-values[np.arange(len(labels)), labels].mean()))


def brier(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the multi-class Brier score (Brier 1950): mean squared distance, summed over classes.

    0 to 2, lower is better.
    """
    check(logits, labels)
    distance = probabilities(logits, temperature)
    distance[np.arange(len(labels)), labels] -= 1
    return float((distance**2).sum(1).mean())


def ece(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the expected calibration error of torchmetrics with 15 bins of equal width, 0 to 1.

    It is the mean distance of confidence and accuracy of the bins, weighted by their images.
    """
    check(logits, labels)
    p = np.minimum(probabilities(logits, temperature), _BELOW_ONE)
    error = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), p.shape[1], BINS, "l1"
    )
    return float(error)


def _confidence(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (probability of the predicted class (N,), whether it is correct, bool (N,))."""
    check(logits, labels)
    # The temperature does not change the order of the logits, nor the predicted class.
    return probabilities(logits, temperature).max(1), np.argmax(logits, 1) == labels


def reliability(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> list[dict[str, Any]]:
    """Return the bins of the reliability diagram; :func:`ece` uses the same bins.

    Returns:
        For each bin ``low`` and ``high`` (its edges), ``count``, ``confidence`` and ``accuracy``
        (means, None in an empty bin).
    """
    confidence, correct = _confidence(logits, labels, temperature)
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    rows = []
    for i in range(BINS):
        inside = bins == i
        size = int(inside.sum())
        rows.append(
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": size,
                "confidence": float(confidence[inside].mean()) if size else None,
                "accuracy": float(correct[inside].mean()) if size else None,
            }
        )
    return rows


def coverage(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> list[dict[str, float]]:
    """Return the accuracy among the most confident images, for decreasing coverage.

    Images below the confidence threshold are rejected. Images of equal confidence are kept
    together, so a coverage can exceed its target of 1.0, 0.95, ... 0.05.

    Returns:
        ``coverage`` (fraction of images kept), ``accuracy`` (among those), ``threshold``.
    """
    confidence, correct = _confidence(logits, labels, temperature)
    size = len(confidence)
    ranked = np.sort(confidence)[::-1]
    rows: list[dict[str, float]] = []
    for fraction in COVERAGES:
        # round: 0.15 * 20 is a little more than 3.
        threshold = ranked[int(np.ceil(round(fraction * size, 6))) - 1]
        kept = confidence >= threshold
        row = {
            "coverage": float(kept.mean()),
            "accuracy": float(correct[kept].mean()),
            "threshold": float(threshold),
        }
        if not rows or row["coverage"] != rows[-1]["coverage"]:
            rows.append(row)
    return rows


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the NLL, for predictions of val, never of test.

    The temperature scales the confidence of all classes; predicted classes do not change. The NLL
    has one minimum over log T. If it lies outside 0.05 to 20, a temperature near that limit is
    returned (a network without errors has T = 0). If T has no effect, 1 is returned.
    """
    check(logits, labels)
    optimum = minimize_scalar(
        lambda log_t: nll(logits, labels, float(np.exp(log_t))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(optimum.x)) if optimum.fun < nll(logits, labels) else 1.0
