"""Displayed label with hysteresis, by Page's CUSUM test."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.video.smoothing.base import distribution


class LabelHysteresis:
    """Selects the displayed label from smoothed probabilities.

    CUSUM test (Page 1954, "Continuous Inspection Schemes"): the lead of each class over the
    displayed one is integrated over time and clipped at 0. The first class that reaches
    ``switch_evidence_s`` replaces the displayed label. Clear changes are displayed early, doubtful
    ones late, and alternation around the same level never. If no class reaches ``threshold``, the
    label is None at once; after that, the lead over the threshold is integrated.

    Args:
        cfg: ``threshold`` (0..1), ``switch_evidence_s`` (seconds of a lead of 1; a lead of 0.2
            takes five times as long).
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.threshold = float(cfg["threshold"])
        self.switch_evidence_s = float(cfg["switch_evidence_s"])
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Clear all state."""
        self._label: int | None = None
        self._time_s: float | None = None
        self._evidence = np.zeros(self.num_classes)  # integrated lead of each class, seconds

    @property
    def settled(self) -> int | None:
        """The displayed label while no other class gains on it, else None."""
        return None if self._evidence.any() else self._label

    def update(self, smoothed: np.ndarray, time_s: float) -> int | None:
        """Return the label index for ``smoothed``, float (K,), at ``time_s``; None if uncertain."""
        values = distribution(smoothed, self.num_classes)
        top = int(values.argmax())
        is_first = self._time_s is None
        elapsed_s = 0.0 if self._time_s is None else max(0.0, time_s - self._time_s)
        self._time_s = time_s
        if values[top] < self.threshold:
            self._set_label(None)
        elif is_first or self.switch_evidence_s == 0:
            self._set_label(top)
        elif top != self._label or self._evidence.any():
            reference = self.threshold if self._label is None else values[self._label]
            self._evidence = np.maximum(0.0, self._evidence + (values - reference) * elapsed_s)
            best = int(np.where(values < self.threshold, -1.0, self._evidence).argmax())
            if self._evidence[best] >= self.switch_evidence_s:
                self._set_label(best)
        return self._label

    def _set_label(self, label: int | None) -> None:
        self._label = label
        self._evidence[:] = 0.0
