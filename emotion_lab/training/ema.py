"""Averaged weights: what is scored and saved while the optimiser goes on with its own."""

from __future__ import annotations

import itertools
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """Return the decay of the update after ``step`` optimiser steps, counted from 1.

    The first averages are short, (1 + step) / (10 + step) as in TensorFlow's
    ExponentialMovingAverage: with a plain average of 500 steps the random weights of the beginning
    would spoil the scores of several epochs, and early stopping with them.
    """
    return min(decay, (1 + step) / (10 + step))


class EMACallback(WeightAveraging):
    """Exponential moving average of weights and buffers, updated at every optimiser step.

    Lightning's own makes its copy before the network goes to the accelerator, and leaves it on the
    CPU: every step would wait for all weights to come over. Here the copy follows the network, all
    tensors are averaged in one call, and the step is counted on the CPU.

    Args:
        decay: Between 0 and 1; the average reaches back some 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the average to where the network is by now; its count stays on the CPU."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on from the last step: every one before it is in the average."""
        self._latest_update_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Average, where the batch ended in an optimiser step."""
        if trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        kept, net = self._average_model.module, pl_module
        pairs = zip(
            (tensor.detach() for tensor in itertools.chain(kept.parameters(), kept.buffers())),
            (tensor.detach() for tensor in itertools.chain(net.parameters(), net.buffers())),
            strict=True,
        )
        floats, others = [], []
        for pair in pairs:
            (floats if pair[0].is_floating_point() else others).append(pair)
        if self._average_model.n_averaged:
            decay = decay_at(trainer.global_step, self.decay)
            averaged, current = zip(*floats, strict=True)
            get_ema_multi_avg_fn(decay)(list(averaged), list(current), None)
        else:
            others += floats
        # Counters and indices have no average.
        for averaged, current in others:
            averaged.copy_(current, non_blocking=True)
        self._average_model.n_averaged += 1
