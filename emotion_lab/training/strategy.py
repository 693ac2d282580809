"""Lightning strategies for several devices, and the options they do not support."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy

from emotion_lab.core.errors import UserError


def count_processes(trainer: dict[str, Any], accelerator: str) -> int:
    """Return the number of processes of a run, over all machines (the world size)."""
    devices, available = trainer["devices"], torch.cuda.device_count()
    if devices == -1:
        if accelerator == "cpu":
            raise UserError(
                "trainer.devices=-1 selects all GPUs; on the CPU set the number of processes, for "
                "instance trainer.devices=2."
            )
        devices = available if accelerator == "cuda" else 1
    if accelerator == "cuda" and devices > available:
        raise UserError(f"trainer.devices={devices}, but this machine has {available} GPU(s).")
    return devices * trainer["num_nodes"]


def check(cfg: dict[str, Any], accelerator: str) -> int:
    """Refuse options that do not work with several devices; return the world size."""
    trainer, world_size = cfg["trainer"], count_processes(cfg["trainer"], accelerator)
    sharded = trainer["strategy"] == "fsdp"
    if world_size == 1:
        if sharded:
            raise UserError(
                "trainer=fsdp shards one network across several devices: set trainer.devices."
            )
        return 1
    if accelerator == "mps":
        raise UserError("trainer.devices: mps has one device only; set trainer.devices=1.")
    if cfg["model"]["unfreeze_at_epoch"] is not None:
        # ddp and fsdp choose at the start which gradients they exchange.
        raise UserError(
            "model.unfreeze_at_epoch works on one device only: set trainer.devices=1, or train "
            "the head first and start a second run with model.weights=<its best.ckpt>."
        )
    if cfg["data"]["feature_cache"] != "none":
        raise UserError(
            "data.feature_cache works on one device only: set trainer.devices=1, or "
            "data.feature_cache=none."
        )
    if sharded:
        for key, unsupported in (
            ("trainer.ema_decay", trainer["ema_decay"]),
            ("model.compile", cfg["model"]["compile"]),
            ("trainer.channels_last", trainer["channels_last"] is True),
            ("trainer.precision", trainer["precision"] == "fp16"),
        ):
            if unsupported:
                group, name = key.split(".")
                raise UserError(f"{key}={cfg[group][name]} does not work with trainer=fsdp.")
    return world_size


def build(trainer: dict[str, Any], world_size: int) -> str | Strategy:
    """Return the ``strategy`` argument of the Trainer."""
    if trainer["strategy"] != "fsdp":
        return "ddp" if world_size > 1 else "auto"
    # A single file for each checkpoint, as with the other strategies.
    return ModelParallelStrategy(world_size, 1, save_distributed_checkpoint=False)
