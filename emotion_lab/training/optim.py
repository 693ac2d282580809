"""Optimisers and learning-rate schedules, built from ``conf/optim`` and ``conf/schedule``."""

from __future__ import annotations

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

from emotion_lab.core.errors import unknown


def build_optimizer(
    cfg: dict[str, Any], groups: list[dict[str, Any]], fused: bool = False
) -> Optimizer:
    """Build the optimiser over ready parameter groups.

    Args:
        cfg: The ``optim`` group.
        groups: Parameter groups of torch.
        fused: Whether to use torch's fused kernels; see :func:`supports_fused`.
    """
    name, lr = cfg["name"], cfg["lr"]
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=fused or None)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused or None)
    if name == "sgd":
        momentum = cfg["momentum"]
        return torch.optim.SGD(
            groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused or None
        )
    raise unknown("optim", name, ("adam", "adamw", "sgd"), "Set it with optim=<name>.")


def supports_fused(
    cfg: dict[str, Any], device: torch.device, precision: str, sharded: bool
) -> bool:
    """Return whether torch's fused optimiser kernels give correct results.

    Args:
        cfg: The whole config.
        device: Device of the parameters.
        precision: The Trainer's precision, for instance ``"bf16-mixed"``.
        sharded: Whether ``trainer=fsdp`` has sharded the parameters.
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


def build_schedule(
    cfg: dict[str, Any], optimizer: Optimizer, steps: int, epochs: int
) -> LRScheduler | ReduceLROnPlateau | None:
    """Build the learning-rate schedule.

    All schedules but ``plateau`` are stepped after every optimiser step.

    Args:
        cfg: The ``schedule`` group.
        optimizer: Its parameter groups keep the ratios of their learning rates.
        steps: Optimiser steps in an epoch.
        epochs: Epochs of the run.
    """
    name, total = cfg["name"], max(1, steps * epochs)
    if name == "none":
        return None
    if name == "plateau":
        return ReduceLROnPlateau(
            optimizer,
            mode=cfg["mode"],
            factor=cfg["factor"],
            patience=cfg["patience"],
            min_lr=cfg["min_lr"],
        )
    if name == "step":
        return StepLR(optimizer, cfg["step_size"] * steps, gamma=cfg["gamma"])
    if name == "cosine":
        warm = min(round(cfg["warmup_epochs"] * steps), total // 2)
        cosine = CosineAnnealingLR(optimizer, max(1, total - warm), eta_min=cfg["min_lr"])
        if warm == 0:
            return cosine
        start = LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        return SequentialLR(optimizer, [start, cosine], milestones=[warm])
    if name == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # Only the learning rate cycles; momentum keeps its configured value.
        return OneCycleLR(
            optimizer,
            rates,
            total_steps=max(2, total),
            pct_start=_avoid_one_step(cfg["warmup_fraction"], max(2, total)),
            cycle_momentum=False,
        )
    names = ("none", "plateau", "step", "cosine", "onecycle")
    raise unknown("schedule", name, names, "Set it with schedule=<name>.")


def _avoid_one_step(fraction: float, total: int) -> float:
    """Return the warm-up fraction; slightly less if it is one step, where torch divides by zero."""
    return fraction if fraction * total != 1 else fraction * 0.99


def plateau_value(cfg: dict[str, Any], metrics: dict[str, Any]) -> float:
    """Return the metric that ``schedule=plateau`` monitors."""
    key = cfg["monitor"]
    if key not in metrics:
        raise unknown("metric", key, metrics, "Set it with schedule.monitor=<metric>.")
    return float(metrics[key])
