"""Class weights and sampling weights for imbalanced classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.types import Split


def class_counts(split: Split, num_classes: int) -> np.ndarray:
    """Return the images of each class, int64 (K,)."""
    return np.bincount(split.labels, minlength=num_classes).astype(np.int64)


def _inverse(counts: np.ndarray, beta: float) -> np.ndarray:
    return 1.0 / counts


def _sqrt_inverse(counts: np.ndarray, beta: float) -> np.ndarray:
    return 1.0 / np.sqrt(counts)


def _effective_number(counts: np.ndarray, beta: float) -> np.ndarray:
    if beta == 0:
        return np.ones_like(counts)
    # (1 - beta) / (1 - beta^n); expm1 keeps the digits when beta is close to 1.
    return (1.0 - beta) / -np.expm1(counts * np.log(beta))


_METHODS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "inverse": _inverse,
    "sqrt_inverse": _sqrt_inverse,
    "effective_number": _effective_number,
}


def class_weights(counts: np.ndarray, method: str = "inverse", beta: float = 0.9999) -> np.ndarray:
    """Return the loss weight of each class.

    ``inverse`` is n / (K * count), ``sqrt_inverse`` is proportional to its square root, and
    ``effective_number`` to (1 - beta) / (1 - beta^count) (Cui et al. 2019, CVPR). All are scaled
    so that the mean weight of a sample is 1, which preserves the magnitude of the loss.

    Args:
        counts: (K,) images of each class.
        method: ``inverse``, ``sqrt_inverse`` or ``effective_number``.
        beta: Parameter of ``effective_number``, in [0, 1).

    Returns:
        float32 (K,) with ``sum(weights * counts) / sum(counts) == 1``.
    """
    counts = np.asarray(counts, dtype=np.float64)
    empty = np.flatnonzero(counts <= 0)
    if not len(counts) or len(empty):
        raise UserError(
            f"Class number {', '.join(map(str, empty)) or 'none'} has no images to weigh; "
            f"leave it out with data.exclude=[<name>]."
        )
    weights = _METHODS[method](counts, beta)
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def sample_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a sampling probability for each image; all classes present have equal probability.

    Args:
        labels: int (N,).
        num_classes: K.

    Returns:
        float64 (N,) that sums to 1.
    """
    labels = np.asarray(labels, dtype=np.int64)
    counts = np.bincount(labels, minlength=num_classes)
    return 1.0 / (counts[labels] * max(np.count_nonzero(counts), 1))
