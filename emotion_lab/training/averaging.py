"""Averaged weights: what is scored and saved while the optimiser goes on with its own."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """Return the decay of the update after ``step`` optimiser steps, counted from 1.

    The first averages are short, (1 + step) / (10 + step) as in TensorFlow's
    ExponentialMovingAverage: with a plain average of 500 steps the random weights of the beginning
    would spoil the scores of several epochs, and early stopping with them.
    """
    return min(decay, (1 + step) / (10 + step))


class Averaging(WeightAveraging):
    """Exponential moving average of weights and buffers, updated at every optimiser step.

    Lightning's own makes its copy before the network goes to the accelerator, and leaves it on the
    CPU: every step would wait for all weights to come over. Here the copy follows the network, all
    tensors are averaged in one call, and the step is counted on the CPU.

    Args:
        decay: Between 0 and 1; the average reaches back some 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.decay = decay
        self._step = 0

    def _average(self, averaged: list[Tensor], current: list[Tensor], _: Any) -> None:
        get_ema_multi_avg_fn(decay_at(self._step, self.decay))(averaged, current, None)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the average to where the network is by now."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Average, where the batch ended in an optimiser step."""
        self._step = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, index)
