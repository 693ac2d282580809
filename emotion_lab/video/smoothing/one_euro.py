"""1 euro filter: strong smoothing of slow changes, little lag of fast ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_lab.video.smoothing.base import distribution, from_space, to_space
from emotion_lab.video.types import SMOOTHERS


def _alpha(cutoff_hz: np.ndarray | float, dt: float) -> np.ndarray | float:
    """Return the weight of a new value in a first-order low-pass filter."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff_hz * dt))


@SMOOTHERS.register("one_euro")
class OneEuro:
    """Low-pass filter whose cutoff increases with the speed of the value, applied to each class.

    Casiez, Roussel, Vogel 2012, https://doi.org/10.1145/2207676.2208639. The filtered values are
    normalised by a softmax (logit) or by their sum (probability).

    Args:
        cfg: ``min_cutoff`` (Hz, above 0; smaller is smoother), ``beta`` (0 or above; larger has
            less lag), ``d_cutoff`` (Hz, above 0, of the speed), ``space`` (logit or probability).
    """

    linear = True  # with space=probability

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.min_cutoff, self.beta = float(cfg["min_cutoff"]), float(cfg["beta"])
        self.d_cutoff, self.space = float(cfg["d_cutoff"]), cfg["space"]
        self.num_classes = num_classes
        self._value: np.ndarray | None = None
        self._speed = np.zeros(num_classes)
        self._time_s = 0.0

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,) that sum to 1."""
        values = to_space(distribution(probabilities, self.num_classes), self.space)
        dt = time_s - self._time_s
        if self._value is None:
            self._value, self._time_s = values, time_s
        elif dt > 0:
            speed = (values - self._value) / dt
            self._speed += _alpha(self.d_cutoff, dt) * (speed - self._speed)
            cutoff = self.min_cutoff + self.beta * np.abs(self._speed)
            self._value = self._value + _alpha(cutoff, dt) * (values - self._value)
            self._time_s = time_s
        return from_space(self._value, self.space)
