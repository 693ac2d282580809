"""Class weights and sampling weights for imbalanced classes."""

from __future__ import annotations

import numpy as np

from emotion_lab.core.errors import UserError


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
        float32 (K,).
    """
    counts = np.asarray(counts, dtype=np.float64)
    empty = np.flatnonzero(counts <= 0)
    if not len(counts) or len(empty):
        raise UserError(
            f"Class number {', '.join(map(str, empty)) or 'none'} has no images, so no weight; "
            f"leave it out with data.exclude=[<name>]."
        )
    if method == "inverse":
        weights = 1.0 / counts
    elif method == "sqrt_inverse":
        weights = 1.0 / np.sqrt(counts)
    elif beta == 0:
        weights = np.ones_like(counts)
    else:
        # (1 - beta) / (1 - beta^n); expm1 keeps the digits when beta is close to 1.
        weights = (1.0 - beta) / -np.expm1(counts * np.log(beta))
    return (weights * counts.sum() / (weights * counts).sum()).astype(np.float32)


def sample_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the sampling probability of each image, float64 (N,), from labels, int (N,).

    All classes present have equal probability.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return 1.0 / (counts[labels] * max(np.count_nonzero(counts), 1))
