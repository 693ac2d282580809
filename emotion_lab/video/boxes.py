"""Geometry of boxes: x, y, width, height in pixels."""

from __future__ import annotations

import numpy as np


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area (N, M) that each of the boxes (N, 4) shares with each of (M, 4)."""
    a, b = boxes[:, None], others[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    sides = sides - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(sides.clip(0).prod(-1))
