"""Exponential moving average in continuous time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_lab.video.smoothing.base import distribution, from_space, to_space
from emotion_lab.video.types import SMOOTHERS


@SMOOTHERS.register("ema")
class Ema:
    """First-order low-pass filter whose step response does not depend on the frame rate.

    The weight of a frame is ``1 - exp(-dt / tau_s)``: the exact solution for the time since the
    last frame, so that 63 % of a step is reached after ``tau_s``.

    Args:
        cfg: ``tau_s`` (seconds, above 0), ``space`` of the average (logit or probability).
    """

    linear = True  # with space=probability

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.tau_s, self.space = float(cfg["tau_s"]), cfg["space"]
        self.num_classes = num_classes
        self._state: np.ndarray | None = None
        self._time_s = 0.0

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,) that sum to 1."""
        values = to_space(distribution(probabilities, self.num_classes), self.space)
        if self._state is None:
            self._state = values
        else:
            weight = -math.expm1(-max(0.0, time_s - self._time_s) / self.tau_s)
            self._state = self._state + weight * (values - self._state)
        self._time_s = time_s
        return from_space(self._state, self.space)
