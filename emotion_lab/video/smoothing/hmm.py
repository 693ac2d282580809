"""Forward filter of a hidden Markov model in continuous time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.smoothing.base import distribution
from emotion_lab.video.types import SMOOTHERS

#: Floor of a probability: without it one frame with a 0 could exclude a class forever.
MIN_PROBABILITY = 1e-6


@SMOOTHERS.register("hmm")
class Hmm:
    """Forward filter (Rabiner 1989) of a Markov chain with K states in continuous time.

    A state is left ``transition_rate_hz`` times a second, for each other state with equal
    probability. The likelihood of a frame, ``probabilities / prior``, is raised to the power
    ``observation_rate_hz * dt``, at most 1: errors of neighbouring frames are correlated, so a
    second counts as ``observation_rate_hz`` independent observations at any frame rate.

    Args:
        cfg: ``transition_rate_hz`` and ``observation_rate_hz`` (1/s, above 0), ``prior`` (K
            relative class frequencies of the training data, or null for equal ones).
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.transition_rate_hz = float(cfg["transition_rate_hz"])
        self.observation_rate_hz = float(cfg["observation_rate_hz"])
        self.num_classes = num_classes
        prior = cfg.get("prior")
        try:
            values = np.asarray([1.0] * num_classes if prior is None else prior, np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != (num_classes,) or not (np.isfinite(values) & (values > 0)).all():
            raise UserError(
                f"smoothing.prior={prior} is not valid: expected {num_classes} numbers above 0, "
                "one for each class of the checkpoint, or null."
            )
        self._log_prior = np.log(values / values.sum())
        self._posterior: np.ndarray | None = None
        self._time_s = 0.0

    def transition(self, dt: float) -> np.ndarray:
        """Return float64 (K, K), the transition probabilities from row to column in ``dt`` seconds.

        Closed form of the matrix exponential of the symmetric generator.
        """
        k = self.num_classes
        if k == 1:
            return np.ones((1, 1))
        stay = math.exp(-self.transition_rate_hz * k / (k - 1) * dt)
        return stay * np.eye(k) + (1 - stay) / k

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return the posterior, float32 (K,) that sum to 1."""
        values = distribution(probabilities, self.num_classes)
        log_likelihood = np.log(np.maximum(values, MIN_PROBABILITY)) - self._log_prior
        if self._posterior is None:
            log_posterior = log_likelihood  # uniform before the first frame
        else:
            dt = max(0.0, time_s - self._time_s)
            predicted = self._posterior @ self.transition(dt)
            # Clip at the smallest float: a state that underflowed stays possible.
            predicted = np.maximum(predicted, np.finfo(np.float64).tiny)
            weight = min(1.0, self.observation_rate_hz * dt)
            log_posterior = np.log(predicted) + weight * log_likelihood
        posterior = np.exp(log_posterior - log_posterior.max())
        self._posterior, self._time_s = posterior / posterior.sum(), time_s
        return self._posterior.astype(np.float32)
