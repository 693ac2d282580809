"""Temporal smoothing of class probabilities, one file per smoother."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.config import compose, schema
from emotion_lab.core.labels import QUANTITY_RANGES
from emotion_lab.inference.classifier import Classifier
from emotion_lab.video.smoothing.label_hysteresis import LabelHysteresis
from emotion_lab.video.types import SMOOTHERS, Smoother


def build_smoother(cfg: dict[str, Any], num_classes: int) -> Smoother:
    """Build the smoother of ``conf/smoothing/<name>.yaml`` for one track."""
    schema.check_group("smoothing", cfg)
    return SMOOTHERS.build(cfg["name"], cfg, num_classes)


def untrained() -> list[str]:
    """Return the names of the smoothers that need no trained model."""
    names = compose.options("smoothing")
    return [name for name in names if "ckpt" not in compose.defaults("smoothing", name)]


def check_network(cfg: dict[str, Any], classifier: Classifier) -> None:
    """Check that a smoother fits the network, if it depends on one."""
    schema.check_group("smoothing", cfg)
    check = getattr(SMOOTHERS.get(cfg["name"]), "check_network", None)
    if check is not None:
        check(cfg, classifier)


class TrackSmoother:
    """Smoothed probabilities and displayed label of one track.

    Attributes:
        latest: Probabilities of the last update, float32 (K,); equal ones before the first.
        smoothed: Result of the last update, likewise.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self._smoother = build_smoother(cfg, num_classes)
        self._hysteresis = LabelHysteresis(cfg, num_classes)
        self.latest = self.smoothed = np.full(num_classes, 1 / num_classes, np.float32)

    def update(self, probabilities: np.ndarray, time_s: float) -> tuple[np.ndarray, int | None]:
        """Return smoothed float32 (K,) and the label index, None while uncertain."""
        self.latest = probabilities
        self.smoothed = self._smoother.update(probabilities, time_s)
        return self.smoothed, self._hysteresis.update(self.smoothed, time_s)

    @property
    def settled(self) -> int | None:
        """The displayed label while no other class gains on it, else None."""
        return self._hysteresis.settled


class QuantitySmoother:
    """Smooths the learned quantities of one track over time.

    A smoother whose result is linear in its inputs (``linear``) smooths them with the settings for
    the probabilities; the others work on classes, and the moving average with its default time
    constant takes their place.

    Args:
        cfg: ``conf/smoothing/<name>.yaml`` as a dict.
        names: Learned quantities.
    """

    def __init__(self, cfg: dict[str, Any], names: Sequence[str]) -> None:
        if not names:
            self._smoothers: list[Smoother] = []
            return
        if not getattr(SMOOTHERS.get(cfg["name"]), "linear", False):
            cfg = compose.defaults("smoothing", "ema")
        if "space" in cfg:
            cfg = {**cfg, "space": "probability"}
        self._smoothers = [build_smoother(cfg, 2) for _ in names]
        self._low, high = np.array([QUANTITY_RANGES[name] for name in names]).T
        self._width = high - self._low

    def update(self, values: np.ndarray, time_s: float) -> np.ndarray:
        """Return smoothed float (Q,) for ``values`` (Q,), which lie in their ranges."""
        if not self._smoothers:
            return values
        # Two probabilities, whose second is the position within the range.
        shares = np.clip((values - self._low) / self._width, 0, 1)
        smoothed = [
            smoother.update(np.array([1 - share, share]), time_s)[1]
            for smoother, share in zip(self._smoothers, shares, strict=True)
        ]
        return self._low + self._width * np.array(smoothed, np.float64)
