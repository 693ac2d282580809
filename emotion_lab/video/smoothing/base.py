"""Functions shared by the smoothers: validation, and averaging in logit or probability space.

Averages of logits weigh evidence: a confident frame counts more than a doubtful one. Averages of
probabilities count votes.
"""

from __future__ import annotations

import numpy as np

_SUM_TOLERANCE = 1e-3
_MIN_PROBABILITY = 1e-4  # floor before the logarithm


def distribution(probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Return ``probabilities`` as float64 (K,) that sum to 1.

    Raises:
        ValueError: If they are not K finite, non-negative numbers that sum to 1.
    """
    values = np.asarray(probabilities, np.float64)
    if values.shape != (num_classes,):
        raise ValueError(f"Expected {num_classes} probabilities, got shape {values.shape}")
    total = values.sum()
    if not np.isfinite(total) or values.min() < 0 or abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(f"Expected probabilities that sum to 1, got {values.tolist()}")
    return values / total


def to_space(probabilities: np.ndarray, space: str) -> np.ndarray:
    """Convert probabilities (K,) to ``space``, ``logit`` or ``probability``."""
    return (
        np.log(np.maximum(probabilities, _MIN_PROBABILITY)) if space == "logit" else probabilities
    )


def from_space(values: np.ndarray, space: str) -> np.ndarray:
    """Convert (K,) in ``space`` to probabilities, float32 (K,)."""
    if space == "logit":
        values = np.exp(values - values.max())
    return (values / values.sum()).astype(np.float32)
