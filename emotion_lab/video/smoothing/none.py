"""No smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.video.smoothing.base import distribution
from emotion_lab.video.types import SMOOTHERS


@SMOOTHERS.register("none")
class NoSmoothing:
    """Return the probabilities of each frame unchanged."""

    linear = True

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.num_classes = num_classes

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,) that sum to 1."""
        return distribution(probabilities, self.num_classes).astype(np.float32)
