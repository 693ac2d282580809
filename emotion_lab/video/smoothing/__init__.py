"""Temporal smoothing of class probabilities, one file per smoother."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.config import schema
from emotion_lab.video.smoothing.label_hysteresis import LabelHysteresis
from emotion_lab.video.types import SMOOTHERS, Smoother


def build_smoother(cfg: dict[str, Any], num_classes: int) -> Smoother:
    """Build the smoother of ``conf/smoothing/<name>.yaml`` for one track."""
    schema.check_group("smoothing", cfg)
    return SMOOTHERS.build(cfg["name"], cfg, num_classes)


class TrackSmoother:
    """Smoothed probabilities and displayed label of one track."""

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self._smoother = build_smoother(cfg, num_classes)
        self._hysteresis = LabelHysteresis(cfg, num_classes)

    def update(self, probabilities: np.ndarray, time_s: float) -> tuple[np.ndarray, int | None]:
        """Return smoothed float32 (K,) and the label index, None while uncertain."""
        smoothed = self._smoother.update(probabilities, time_s)
        return smoothed, self._hysteresis.update(smoothed, time_s)
