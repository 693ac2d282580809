"""What smoothers share, and the label that is shown: it changes late rather than often."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.faces.base import SMOOTHERS, Smoother

_SUM_ERROR = 1e-3


def smooth_for(cfg: dict[str, Any], num_classes: int) -> Smoother:
    """Return a new smoother for one track; throw it away with the track.

    Args:
        cfg: ``conf/smoothing/<name>.yaml`` as a plain dict.
        num_classes: K.

    Raises:
        UserError: If there is no smoother of that name.
    """
    return SMOOTHERS.get(cfg["name"])(cfg, num_classes)


def distribution(probabilities: np.ndarray, num_classes: int) -> np.ndarray:
    """Return ``probabilities`` as float64 (K,) that sum to 1.

    Raises:
        ValueError: If they are not K finite numbers from 0 that sum to 1.
    """
    values = np.asarray(probabilities, np.float64)
    if values.shape != (num_classes,):
        raise ValueError(f"Expected {num_classes} probabilities, got shape {values.shape}")
    total = values.sum()
    if not np.isfinite(total) or values.min() < 0 or abs(total - 1) > _SUM_ERROR:
        raise ValueError(f"Expected probabilities that sum to 1, got {values.tolist()}")
    return values / total


class Steady:
    """Turns smoothed probabilities into the label that is shown.

    Another label takes over as soon as it leads the shown one by ``margin``, or once it has led
    for ``hold_s`` by however little. Below ``threshold`` nothing is shown; from there the way
    back also needs ``margin`` more than the threshold, or ``hold_s``.

    Args:
        cfg: ``threshold`` (0..1), ``margin`` (0..1), ``hold_s`` (seconds).
        num_classes: K.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.threshold = float(cfg["threshold"])
        self.margin = float(cfg["margin"])
        self.hold_s = float(cfg["hold_s"])
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Begin anew, as for another face."""
        self._fresh = True
        self._shown: int | None = None
        self._rival: int | None = None
        self._since_s = 0.0

    def update(self, smoothed: np.ndarray, time_s: float) -> int | None:
        """Return the index of the label to show at ``time_s``, None while uncertain.

        Args:
            smoothed: float (K,), sums to 1.
            time_s: Seconds, not before the last call's.

        Raises:
            ValueError: If ``smoothed`` is no distribution.
        """
        values = distribution(smoothed, self.num_classes)
        top = int(values.argmax())
        if values[top] < self.threshold:
            self._fresh, self._shown, self._rival = False, None, None
        elif self._fresh or top == self._shown:
            self._fresh, self._shown, self._rival = False, top, None
        else:
            if top != self._rival:
                self._rival, self._since_s = top, time_s
            shown = self.threshold if self._shown is None else values[self._shown]
            if values[top] - shown >= self.margin or time_s - self._since_s >= self.hold_s:
                self._shown, self._rival = top, None
        return self._shown
