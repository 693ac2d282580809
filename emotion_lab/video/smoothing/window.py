"""Moving average over a time window."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from emotion_lab.video.smoothing.base import distribution
from emotion_lab.video.types import SMOOTHERS


@SMOOTHERS.register("window")
class MovingAverage:
    """Mean of the frames of the last ``window_s`` seconds; a frame of this age is excluded."""

    linear = True

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.window_s = float(cfg["window_s"])
        self.num_classes = num_classes
        self._frames: deque[tuple[float, np.ndarray]] = deque()

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,) that sum to 1."""
        self._frames.append((time_s, distribution(probabilities, self.num_classes)))
        # Tolerance for floating-point rounding of the times.
        while time_s - self._frames[0][0] >= self.window_s - 1e-9:
            self._frames.popleft()
        return np.mean([values for _, values in self._frames], axis=0).astype(np.float32)
