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
        groups: What the optimiser takes.
        fused: Whether one kernel updates everything; see :func:`fuses`.

    Raises:
        UserError: For an unknown ``optim.name``.
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


def fuses(cfg: dict[str, Any], device: torch.device, precision: str, split: bool) -> bool:
    """Tell whether a fused optimiser is safe.

    Args:
        cfg: The whole config.
        device: Of the parameters.
        precision: Of the Trainer, for instance ``"bf16-mixed"``.
        split: Whether ``trainer=fsdp`` has split them.
    """
    # It would undo the scaling of 16-bit gradients itself, and Lightning clips none that might be.
    scaled = precision == "16-mixed" or (cfg["trainer"]["gradient_clip_val"] and precision.endswith("-mixed"))
    # Fused SGD wants the momentum of all parameters, or of none.
    late = cfg["optim"]["name"] == "sgd" and cfg["model"]["unfreeze_at_epoch"] is not None
    return device.type in ("cpu", "cuda") and not (scaled or late or split)


def align(optimizer: Optimizer) -> None:
    """Lay out what an optimiser remembers of its parameters in memory as they are, in place.

    A checkpoint may hold it otherwise (channels_last against contiguous), and PyTorch's fused
    kernels for the CPU go through both without looking: they would mix up the numbers.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same = isinstance(value, Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def build_schedule(
    cfg: dict[str, Any], optimizer: Optimizer, steps: int, epochs: int
) -> LRScheduler | ReduceLROnPlateau | None:
    """Build the schedule. All but ``plateau`` are stepped after every optimiser step.

    Args:
        cfg: The ``schedule`` group.
        optimizer: Its groups keep their relative rates.
        steps: Optimiser steps in an epoch.
        epochs: Epochs of the run.

    Raises:
        UserError: For an unknown ``schedule.name``, or a warm-up longer than the run.
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
        # Momentum stays as it is set: cycling it is a second idea, and Adam's betas are none.
        return OneCycleLR(
            optimizer,
            rates,
            total_steps=max(2, total),
            # torch divides by the steps of the warm-up less one.
            pct_start=_not_one_step(cfg["warmup_fraction"], max(2, total)),
            cycle_momentum=False,
        )
    names = ("none", "plateau", "step", "cosine", "onecycle")
    raise unknown("schedule", name, names, "Set it with schedule=<name>.")


def _not_one_step(share: float, total: int) -> float:
    """Return a share of the steps that is not exactly one step, where torch would divide by 0."""
    return share if share * total != 1 else share * 0.99


def plateau_value(cfg: dict[str, Any], metrics: dict[str, Any]) -> float:
    """Return the metric that ``schedule=plateau`` watches.

    Raises:
        UserError: If it is not logged, or is of the test split.
    """
    key = cfg["monitor"]
    if key not in metrics:
        raise unknown("metric", key, metrics, "Set it with schedule.monitor=<metric>.")
    return float(metrics[key])
