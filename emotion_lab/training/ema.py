"""Exponential moving average of the weights; validation and checkpoints use the average."""

from __future__ import annotations

import itertools
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """Return the decay of the update after ``step`` optimiser steps, counted from 1.

    The decay warms up as (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.
    With a constant decay, the random initial weights would lower the scores of several epochs and
    could trigger early stopping.
    """
    return min(decay, (1 + step) / (10 + step))


class EMACallback(WeightAveraging):
    """Exponential moving average of weights and buffers, updated at every optimiser step.

    Lightning's EMAWeightAveraging copies the network before it moves to the accelerator and keeps
    the copy on the CPU, so every step would transfer all weights. Here the copy is moved with the
    network, all tensors are averaged in one call, and the steps are counted on the CPU. With a
    decay between 0 and 1, the average covers about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to the device of the network; the step count stays on the CPU."""
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Continue after the last step of a resumed run, which the average includes."""
        self._latest_update_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Update the average if the batch ended with an optimiser step."""
        if trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        average = self._average_model.module
        pairs = zip(
            itertools.chain(average.parameters(), average.buffers()),
            itertools.chain(pl_module.parameters(), pl_module.buffers()),
            strict=True,
        )
        floats: list[tuple[Tensor, Tensor]] = []
        others: list[tuple[Tensor, Tensor]] = []
        for target, source in pairs:
            kind = floats if target.is_floating_point() else others
            kind.append((target.detach(), source.detach()))
        if self._average_model.n_averaged:
            decay = decay_at(trainer.global_step, self.decay)
            targets, sources = (list(tensors) for tensors in zip(*floats, strict=True))
            get_ema_multi_avg_fn(decay)(targets, sources, None)
        else:
            others += floats
        # Integer buffers, such as counters, are copied.
        for target, source in others:
            target.copy_(source, non_blocking=True)
        self._average_model.n_averaged += 1
