"""What smoothers share, and the label that is shown: it changes when there is reason to."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import unknown
from emotion_lab.video.types import SMOOTHERS, Smoother

_SUM_ERROR = 1e-3
_FLOOR = 1e-4  # a probability of 0 has no logarithm, and one below this no meaning

#: What may be averaged: logarithms weigh evidence (one doubtful frame against a sure one),
#: probabilities count votes.
SPACES = ("logit", "probability")


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


def space_of(cfg: dict[str, Any]) -> str:
    """Return ``cfg["space"]``.

    Raises:
        UserError: If it is none of :data:`SPACES`.
    """
    space = str(cfg["space"])
    if space not in SPACES:
        raise unknown("space", space, SPACES, "Set it with smoothing.space=<name>.")
    return space


def to_space(probabilities: np.ndarray, space: str) -> np.ndarray:
    """Return what is averaged in ``space`` of probabilities (K,)."""
    return np.log(np.maximum(probabilities, _FLOOR)) if space == "logit" else probabilities


def from_space(values: np.ndarray, space: str) -> np.ndarray:
    """Return float32 (K,) that sum to 1 of an average (K,) in ``space``."""
    if space == "logit":
        values = np.exp(values - values.max())
    return (values / values.sum()).astype(np.float32)


class LabelHysteresis:
    """Turns smoothed probabilities into the label that is shown.

    Page's test for a change (1954, Continuous Inspection Schemes): what a class leads the shown one
    by is added up over time, never below nothing; the first to reach ``switch_evidence_s`` takes over. A clear
    change is shown soon, a doubtful one late, and a flicker that comes back as often as it goes
    never. Below ``threshold`` nothing is shown, at once; on the way back the lead over the
    threshold is added up.

    Args:
        cfg: ``threshold`` (0..1), ``switch_evidence_s`` (seconds of a lead of 1; a lead of 0.2 takes five
            times as long).
        num_classes: K.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.threshold = float(cfg["threshold"])
        self.lead_s = float(cfg["switch_evidence_s"])
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Begin anew, as for another face."""
        self._shown: int | None = None
        self._time_s: float | None = None
        self._leads = np.zeros(self.num_classes)

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
        fresh = self._time_s is None
        passed = 0.0 if fresh else max(0.0, time_s - self._time_s)
        self._time_s = time_s
        if values[top] < self.threshold:
            self._show(None)
        elif fresh or self.lead_s == 0:
            self._show(top)
        elif top != self._shown or self._leads.any():
            shown = self.threshold if self._shown is None else values[self._shown]
            self._leads = np.maximum(0.0, self._leads + (values - shown) * passed)
            best = int(np.where(values < self.threshold, -1.0, self._leads).argmax())
            if self._leads[best] >= self.lead_s:
                self._show(best)
        return self._shown

    def _show(self, label: int | None) -> None:
        self._shown = label
        self._leads[:] = 0.0


class TrackSmoother:
    """One face over time: its smoother and the label it shows; throw it away with the track.

    Args:
        cfg: ``conf/smoothing/<name>.yaml`` as a plain dict.
        num_classes: K.

    Raises:
        UserError: If there is no smoother of that name.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self._smoother, self._steady = (
            smooth_for(cfg, num_classes),
            LabelHysteresis(cfg, num_classes),
        )

    def update(self, probabilities: np.ndarray, time_s: float) -> tuple[np.ndarray, int | None]:
        """Return the smoothed float32 (K,) and the index of the label, None while uncertain.

        Raises:
            ValueError: If ``probabilities`` is no distribution.
        """
        smoothed = self._smoother.update(probabilities, time_s)
        return smoothed, self._steady.update(smoothed, time_s)
