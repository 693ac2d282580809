"""One run on several devices: which of Lightning's engines, and what it cannot do."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from emotion_lab.core.errors import UserError


def count(trainer: dict[str, Any], accelerator: str) -> int:
    """Return the number of processes of a run, over all machines.

    Args:
        trainer: The ``trainer`` group.
        accelerator: ``cuda``, ``mps`` or ``cpu``.

    Raises:
        UserError: If the machine has fewer GPUs than asked for, or "all" is asked of a CPU.
    """
    devices, found = trainer["devices"], torch.cuda.device_count()
    if devices == -1:
        if accelerator == "cpu":
            raise UserError(
                "trainer.devices=-1 counts GPUs; on the CPU give the number of processes, for "
                "instance trainer.devices=2."
            )
        devices = found if accelerator == "cuda" else 1
    if accelerator == "cuda" and devices > found:
        raise UserError(f"trainer.devices={devices}, but this machine has {found} GPU(s).")
    return devices * trainer["num_nodes"]


def check(cfg: dict[str, Any], accelerator: str) -> int:
    """Refuse what several devices would silently do differently; return their number.

    Raises:
        UserError: Naming the key.
    """
    trainer, world = cfg["trainer"], count(cfg["trainer"], accelerator)
    sharded = trainer["strategy"] == "fsdp"
    if world == 1:
        if sharded:
            raise UserError(
                "trainer=fsdp shares one network among several devices: set trainer.devices."
            )
        return 1
    if accelerator == "mps":
        raise UserError("trainer.devices: an mps machine has one device; set trainer.devices=1.")
    if cfg["model"]["unfreeze_at_epoch"] is not None:
        # Both engines settle at the start whose gradients are exchanged.
        raise UserError(
            "model.unfreeze_at_epoch works on one device: set trainer.devices=1, or train the head "
            "first and go on with a new run from model.weights=<its best.ckpt>."
        )
    if sharded:
        for key, bad in (
            ("trainer.ema_decay", trainer["ema_decay"]),
            ("model.compile", cfg["model"]["compile"]),
            ("trainer.channels_last", trainer["channels_last"] is True),
            ("trainer.precision", trainer["precision"] == "fp16"),
        ):
            if bad:
                group, name = key.split(".")
                raise UserError(f"{key}={cfg[group][name]} does not work with trainer=fsdp.")
    return world


def strategy(trainer: dict[str, Any], world: int) -> str | Strategy:
    """Return what the Trainer takes as ``strategy``."""
    if trainer["strategy"] != "fsdp":
        return "ddp" if world > 1 else "auto"
    # One whole file a checkpoint, as every other part of the program reads it.
    return ModelParallelStrategy(world, 1, save_distributed_checkpoint=False)


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Split weights, gradients and optimiser states of a network among the devices, in place."""
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=mesh["data_parallel"])
