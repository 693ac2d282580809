"""Hidden Markov model: what the person shows now, given all frames so far."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.smoothing.base import distribution
from emotion_lab.video.types import SMOOTHERS

#: The network's zero is not certain: without a floor one frame could rule a class out for good.
FLOOR = 1e-6


@SMOOTHERS.register("hmm")
class Hmm:
    """Forward filter (Rabiner 1989) of a chain with K states in continuous time.

    A state is left ``transition_rate_hz`` times a second, for each other with the same chance. Seen as a
    likelihood, a frame's ``probabilities / prior`` is raised to the power ``observation_rate_hz * dt``, at most
    1: neighbouring frames show the same errors, so that a second counts as ``observation_rate_hz`` independent
    observations however many frames it has.

    Args:
        cfg: ``transition_rate_hz`` (a second, above 0), ``observation_rate_hz`` (a second, above 0), ``prior`` (K shares
            of the classes in the training data, or null for equal ones).
        num_classes: K.

    Raises:
        UserError: If ``prior`` is not K numbers above 0.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.switches, self.looks = float(cfg["transition_rate_hz"]), float(cfg["observation_rate_hz"])
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
        self._belief: np.ndarray | None = None
        self._time_s = 0.0

    def transition(self, dt: float) -> np.ndarray:
        """Return float64 (K, K), the chance of going from row to column within ``dt`` seconds.

        The closed form of the matrix exponential of the symmetric generator.
        """
        k = self.num_classes
        if k == 1:
            return np.ones((1, 1))
        kept = math.exp(-self.switches * k / (k - 1) * dt)
        return kept * np.eye(k) + (1 - kept) / k

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,), the posterior; it sums to 1.

        Raises:
            ValueError: If ``probabilities`` is no distribution.
        """
        values = distribution(probabilities, self.num_classes)
        evidence = np.log(np.maximum(values, FLOOR)) - self._log_prior
        if self._belief is None:
            log_belief = evidence  # all states alike before the first frame
        else:
            dt = max(0.0, time_s - self._time_s)
            moved = self._belief @ self.transition(dt)
            # The smallest float keeps a state that underflowed from being lost, and log quiet.
            moved = np.maximum(moved, np.finfo(np.float64).tiny)
            log_belief = np.log(moved) + min(1.0, self.looks * dt) * evidence
        belief = np.exp(log_belief - log_belief.max())
        self._belief, self._time_s = belief / belief.sum(), time_s
        return self._belief.astype(np.float32)
