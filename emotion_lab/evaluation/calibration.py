"""Does a confidence of 80 % mean right in 80 % of the cases? Measures, and temperature scaling.

All functions take logits (N, K), labels int64 (N,) and a temperature, and compute in float64.
Probabilities do as well, through their logarithm (of at least 1e-12): softmax gives them back.

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
#: Where the temperature is looked for.
LOWEST, HIGHEST = 0.05, 20.0
COVERAGES = tuple(share / 20 for share in range(20, 0, -1))
#: The largest float32 below 1. torchmetrics puts a confidence of exactly 1 into a bin of its own.
_BELOW_ONE = 1 - 2.0**-24


def check(logits: np.ndarray, labels: np.ndarray) -> None:
    """Make sure that there are predictions and that they are numbers.

    Raises:
        UserError: If there are none, or one is NaN or infinite.
    """
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
    """Return the mean negative log-likelihood, natural log, 0 or more; lower is better.

    Raises:
        UserError: For no or broken predictions.
    """
    check(logits, labels)
    values = log_probabilities(logits, temperature)
    # Not -0.0, where every answer is certain and right.
    return max(0.0, float(-values[np.arange(len(labels)), labels].mean()))


def brier(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the multi-class Brier score (Brier 1950): mean squared distance, summed over classes.

    0 to 2, lower is better.

    Raises:
        UserError: For no or broken predictions.
    """
    check(logits, labels)
    distance = probabilities(logits, temperature)
    distance[np.arange(len(labels)), labels] -= 1
    return float((distance**2).sum(1).mean())


def ece(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the expected calibration error: 15 bins of equal width, by torchmetrics.

    The distance of confidence and accuracy of a bin, weighted with its images; 0 to 1.

    Raises:
        UserError: For no or broken predictions.
    """
    check(logits, labels)
    given = np.minimum(probabilities(logits, temperature), _BELOW_ONE)
    error = multiclass_calibration_error(
        torch.from_numpy(given), torch.from_numpy(labels), given.shape[1], BINS, "l1"
    )
    return float(error)


def _confidence(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (probability of the predicted class (N,), whether it is right, bool (N,))."""
    check(logits, labels)
    given = probabilities(logits, temperature)
    # Dividing by a temperature changes no order, so the class is the one of the largest logit.
    return given.max(1), np.argmax(logits, 1) == labels


def reliability(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> list[dict[str, Any]]:
    """Return the bins of the reliability diagram, the same as :func:`ece` has.

    Returns:
        For each bin ``low`` and ``high`` (its ends), ``count``, ``confidence`` and ``accuracy``
        (means, None in an empty bin).

    Raises:
        UserError: For no or broken predictions.
    """
    confidence, right = _confidence(logits, labels, temperature)
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    rows = []
    for i in range(BINS):
        inside = place == i
        size = int(inside.sum())
        rows.append(
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "count": size,
                "confidence": float(confidence[inside].mean()) if size else None,
                "accuracy": float(right[inside].mean()) if size else None,
            }
        )
    return rows


def coverage(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> list[dict[str, float]]:
    """Return the accuracy among the images that are answered at all, from all of them downward.

    An image is answered when its confidence reaches the threshold; equally confident images are
    answered together, so a coverage may lie above the 1.0, 0.95, ... 0.05 that was aimed at.

    Returns:
        ``coverage`` (share answered), ``accuracy`` (among those), ``threshold`` (a confidence).

    Raises:
        UserError: For no or broken predictions.
    """
    confidence, right = _confidence(logits, labels, temperature)
    size = len(confidence)
    ranked = np.sort(confidence)[::-1]
    rows: list[dict[str, float]] = []
    for share in COVERAGES:
        # round: 0.15 * 20 is a little more than 3.
        threshold = ranked[int(np.ceil(round(share * size, 6))) - 1]
        answered = confidence >= threshold
        row = {
            "coverage": float(answered.mean()),
            "accuracy": float(right[answered].mean()),
            "threshold": float(threshold),
        }
        if not rows or row["coverage"] != rows[-1]["coverage"]:
            rows.append(row)
    return rows


def confidence_histogram(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, bins: int = 25
) -> dict[str, list]:
    """Return ``edges`` (bins + 1) and the counts of ``right`` and ``wrong`` predictions (bins).

    Raises:
        UserError: For no or broken predictions.
    """
    confidence, right = _confidence(logits, labels, temperature)
    edges = np.linspace(0, 1, bins + 1)
    return {
        "edges": edges.tolist(),
        "right": np.histogram(confidence[right], edges)[0].tolist(),
        "wrong": np.histogram(confidence[~right], edges)[0].tolist(),
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the NLL; give it predictions of val, never of test.

    One number for all classes: it changes how confident the network is, not what it says. The NLL
    has one minimum over log T. Where it lies outside 0.05 to 20, a temperature near that end is
    returned (a network without a mistake would have T = 0); where T changes nothing, 1.

    Args:
        logits: float (N, K).
        labels: int64 (N,).

    Raises:
        UserError: For no or broken predictions.
    """
    check(logits, labels)
    found = minimize_scalar(
        lambda log_t: nll(logits, labels, float(np.exp(log_t))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < nll(logits, labels) else 1.0
