"""A trained temporal model as a smoother."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.inference.classifier import Classifier
from emotion_lab.temporal import smoother_file
from emotion_lab.temporal.steps import MAX_GAP_S, log_ratio, step_number
from emotion_lab.video.smoothing.base import distribution, from_space
from emotion_lab.video.types import SMOOTHERS


@SMOOTHERS.register("temporal")
class TemporalSmoother:
    """Output of a temporal model after each look, see :mod:`emotion_lab.temporal`.

    Args:
        cfg: ``ckpt``, the run directory of the temporal model.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        self.model = smoother_file.read(cfg["ckpt"])
        self.num_classes = num_classes
        self._step_s = float(self.model.meta["step_s"])
        self._temperature = float(self.model.meta["temperature"])
        self._state = self._next_state = self.model.body.start()
        self._start_s: float | None = None
        self._time_s = self._previous_s = 0.0  # of the last look, and of the step before
        self._number = 0
        self._sum, self._count = np.zeros(num_classes, np.float32), 0

    @staticmethod
    def check_network(cfg: dict[str, Any], classifier: Classifier) -> None:
        """Refuse a network that the temporal model was not trained with; say if it is no gain."""
        model = smoother_file.read(cfg["ckpt"])
        classes, frame = model.meta["classes"], model.meta["frame"]
        if classes != classifier.classes:
            raise UserError(
                f"smoothing.ckpt={cfg['ckpt']} has the classes {', '.join(classes)}, ckpt has "
                f"{', '.join(classifier.classes)}: set ckpt={frame['ckpt']}."
            )
        if classifier.model_id != frame["sha256"]:
            raise UserError(
                f"smoothing.ckpt={cfg['ckpt']} was trained on the outputs of another network: set "
                f"ckpt={frame['ckpt']}, or train a temporal model for this one."
            )
        comparison = model.meta.get("comparison") or {}
        if "ema" not in comparison.get("beats", ["ema"]):
            print(
                f"note: smoothing.ckpt={cfg['ckpt']} did not beat smoothing=ema on its "
                f"{comparison['clips']} held-out clips: {comparison['line']}",
                file=sys.stderr,
            )

    def _begin_step(self, time_s: float) -> None:
        """Start a new step if ``time_s`` lies after the present one."""
        if self._start_s is None:
            self._start_s = self._previous_s = time_s
        number = int(step_number(time_s, self._start_s, self._step_s))
        if number > self._number:
            self._state, self._previous_s = self._next_state, self._time_s
            self._number, self._sum, self._count = number, np.zeros_like(self._sum), 0
        self._time_s = time_s

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Return float32 (K,) that sum to 1."""
        self._begin_step(time_s)
        self._sum = self._sum + log_ratio(distribution(probabilities, self.num_classes))
        self._count += 1
        gap = min(max(0.0, time_s - self._previous_s), MAX_GAP_S)
        gap = gap if self._number else 0.0
        inputs = np.append(self._sum / self._count, np.float32(gap))
        features, self._next_state = self.model.body.step(self._state, inputs)
        logits = (self.model.weight @ features + self.model.bias) / self._temperature
        return from_space(logits, "logit")
