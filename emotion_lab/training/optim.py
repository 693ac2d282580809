"""Optimisers and learning-rate schedules, built from ``conf/optim`` and ``conf/schedule``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from emotion_lab.config.schema import check_min_lr
from emotion_lab.core.errors import unknown


def build_optimizer(
    cfg: dict[str, Any], groups: list[dict[str, Any]], fused: bool = False
) -> Optimizer:
    """Build the optimiser of the ``optim`` group; for ``fused``, see :func:`supports_fused`."""
    options: dict[str, Any] = {"lr": cfg["lr"], "fused": fused or None}
    if cfg["name"] == "sgd":
        options |= {"momentum": cfg["momentum"], "nesterov": cfg["momentum"] > 0}
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    if cfg["name"] not in classes:
        raise unknown("optim", cfg["name"], classes, "Set it with optim=<name>.")
    return classes[cfg["name"]](groups, **options)


def supports_fused(
    cfg: dict[str, Any], device: torch.device, precision: str, sharded: bool
) -> bool:
    """Return whether torch's fused optimiser kernels give correct results.

    ``precision`` is the Trainer's, for instance ``"bf16-mixed"``; ``sharded`` parameters are those
    of ``trainer=fsdp``.
    """
    clips = cfg["trainer"]["gradient_clip_val"]
    # A fused optimiser unscales fp16 gradients itself; Lightning refuses to clip such gradients.
    scaled = precision == "16-mixed" or (clips and precision.endswith("-mixed"))
    # Fused SGD needs momentum buffers for all parameters or for none.
    late = cfg["optim"]["name"] == "sgd" and cfg["model"]["unfreeze_at_epoch"] is not None
    return device.type in ("cpu", "cuda") and not (scaled or late or sharded)


def match_memory_format(optimizer: Optimizer) -> None:
    """Convert the optimiser's states to the memory format of their parameters, in place.

    A checkpoint may hold another format (channels_last or contiguous). PyTorch's fused CPU kernels
    do not compare the strides of a parameter and its states, and would pair the wrong numbers.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same_shape = isinstance(value, Tensor) and value.shape == parameter.shape
            if same_shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


class RelativeCosineAnnealingLR(CosineAnnealingLR):
    """Cosine decay of parameter groups that keep the ratios of their learning rates.

    ``eta_min`` is the minimum of the group with the highest rate; torch's class would raise a group
    that starts below it. The state is that of torch's class.
    """

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group at the current step."""
        low = self.eta_min / max(self.base_lrs)
        factor = low + (1 - low) * (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [base * factor for base in self.base_lrs]

    # torch calls it for a given step, for instance by SequentialLR at the end of the warm-up.
    _get_closed_form_lr = get_lr


def build_schedule(
    cfg: dict[str, Any], optimizer: Optimizer, steps: int, epochs: int
) -> LRScheduler | ReduceLROnPlateau | None:
    """Build the learning-rate schedule for ``epochs`` of ``steps`` optimiser steps each.

    Parameter groups keep the ratios of their learning rates. All schedules but ``plateau`` are
    stepped after every optimiser step.
    """
    name, total = cfg["name"], max(1, steps * epochs)
    rates = [group["lr"] for group in optimizer.param_groups]
    is_uniform = len(set(rates)) == 1
    if name == "none":
        return None
    if name == "plateau":
        options = {key: cfg[key] for key in ("mode", "factor", "patience")}
        low = cfg["min_lr"]
        lows = low if is_uniform else [low * rate / max(rates) for rate in rates]
        return ReduceLROnPlateau(optimizer, min_lr=lows, **options)
    if name == "step":
        return StepLR(optimizer, cfg["step_size"] * steps, gamma=cfg["gamma"])
    if name == "cosine":
        warm = min(round(cfg["warmup_epochs"] * steps), total // 2)
        check_min_lr(cfg["min_lr"], max(rates))
        kind = CosineAnnealingLR if is_uniform else RelativeCosineAnnealingLR
        cosine = kind(optimizer, max(1, total - warm), eta_min=cfg["min_lr"])
        if warm == 0:
            return cosine
        start = LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        return SequentialLR(optimizer, [start, cosine], milestones=[warm])
    if name == "onecycle":
        total, fraction = max(2, total), cfg["warmup_fraction"]
        if fraction * total == 1:
            fraction *= 0.99  # torch divides by zero if the warm-up is one step
        # Only the learning rate cycles; momentum keeps its configured value.
        return OneCycleLR(
            optimizer, rates, total_steps=total, pct_start=fraction, cycle_momentum=False
        )
    names = ("none", "plateau", "step", "cosine", "onecycle")
    raise unknown("schedule", name, names, "Set it with schedule=<name>.")
