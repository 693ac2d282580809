"""What a fit is made of: the module with its loss and augmentation, the Trainer, how it saves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from emotion_lab import checkpoint as ckpt
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.device_augment import DeviceAugment
from emotion_lab.errors import UserError
from emotion_lab.losses import build_loss
from emotion_lab.models.base import EmotionNet
from emotion_lab.training import devices
from emotion_lab.training.averaging import Averaging
from emotion_lab.training.callbacks import Bar, Checkpoints, History, Place, StopCleanly
from emotion_lab.training.hardware import choose_precision
from emotion_lab.training.module import EmotionModule
from emotion_lab.training.together import Together

#: What ``best.ckpt`` keeps: it is for use, ``last.ckpt`` is for going on.
SHIPPED = ("state_dict", ckpt.CARD, "epoch", "global_step", "pytorch-lightning_version")


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes through :mod:`emotion_lab.checkpoint`: whole or not at all, builtins only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; see :func:`emotion_lab.checkpoint.write`."""
        # Not by Lightning's weights_only=True: that skips the callbacks, and with them the
        # averaged weights.
        if Path(path).name == "best.ckpt":
            checkpoint = {key: checkpoint[key] for key in SHIPPED}
        ckpt.write(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; see :func:`emotion_lab.checkpoint.read`."""
        return ckpt.read(Path(path))


def device_augment(cfg: dict[str, Any], net: EmotionNet) -> DeviceAugment:
    """Build ``augment=device``.

    Raises:
        UserError: If it changes the size for a network that is built for one.
    """
    if cfg["sizes"] and not net.backbone.conv:
        raise UserError(
            "augment.sizes needs a convolutional network: this one takes "
            f"{net.spec.image_size} pixels only. Set augment.sizes=null."
        )
    augment = DeviceAugment(cfg, net.spec.image_size, net.spec.channels)
    training = net.training
    net.eval()
    for _, size in augment.sizes:
        try:
            with torch.no_grad():
                net(torch.zeros(2, net.spec.channels, size, size))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0][:100]
            raise UserError(
                f"augment.sizes: this network cannot take {size} pixels ({reason}). "
                "Set larger ones, or augment.sizes=null."
            ) from None
    net.train(training)
    return augment


def compile_backbone(net: EmotionNet) -> None:
    """Compile the backbone in place, so that checkpoint keys stay as they are."""
    try:
        import torch._inductor  # noqa: F401

        net.backbone.compile()
        print("model: compiled (the first batches are slow)")
    except (ImportError, RuntimeError) as error:
        print(f"model: not compiled, {str(error).splitlines()[0]}; going on without")


def make_module(
    cfg: dict[str, Any], data: EmotionData, net: EmotionNet, card: dict[str, Any]
) -> EmotionModule:
    """Return what the Trainer trains: loss, augmentation on the device, memory format, compiled.

    Args:
        cfg: The resolved config.
        data: With an opened train split.
        net: Changed in place (memory format, compilation).
        card: What checkpoints will say of themselves; ``classes`` at least.
    """
    weights, counts = data.weights(), data.counts("train")
    criterion = build_loss(
        cfg["loss"], len(data.classes), [float(w) for w in weights], [int(n) for n in counts]
    )
    module = EmotionModule(net, criterion, cfg, card)
    if cfg["augment"]["name"] == "device":
        module.augment = device_augment(cfg["augment"], net)
    wanted = cfg["trainer"]["channels_last"]
    # What is split among devices has to lie in one piece.
    fits = net.backbone.conv and cfg["trainer"]["strategy"] != "fsdp"
    module.channels_last = fits if wanted == "auto" else bool(wanted)
    if module.channels_last:
        net.to(memory_format=torch.channels_last)
    if cfg["model"]["compile"]:
        compile_backbone(net)
    return module


def make_trainer(
    cfg: dict[str, Any], run_dir: Path, history: History, loggers: list[Logger], accelerator: str
) -> L.Trainer:
    """Build the Trainer with its callbacks, in the order that resume depends on."""
    options = cfg["trainer"]
    folder = run_dir / "checkpoints"
    world = devices.check(cfg, accelerator)
    callbacks: list[L.Callback] = [Together(run_dir), Place()]
    if options["ema"]:
        callbacks.append(Averaging(options["ema"]))
    # History before StopCleanly and Checkpoints: both save what it has just counted.
    callbacks += [history, StopCleanly(folder, run_dir), Checkpoints(folder, history)]
    bar = options["progress"]
    if bar is True or (bar == "auto" and sys.stdout.isatty()):
        callbacks.append(Bar())
    return L.Trainer(
        accelerator=accelerator,
        devices=options["devices"],
        num_nodes=options["num_nodes"],
        strategy=devices.strategy(options, world),
        precision=choose_precision(options["precision"], accelerator),
        max_epochs=options["max_epochs"],
        max_time=options["max_time"],
        gradient_clip_val=options["clip"],
        accumulate_grad_batches=options["accumulate"],
        limit_train_batches=options["limit_train_batches"],
        limit_val_batches=options["limit_val_batches"],
        log_every_n_steps=options["log_every"],
        deterministic=bool(cfg["deterministic"]),
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[SafeCheckpointIO()],
        default_root_dir=run_dir,
        enable_progress_bar=any(isinstance(callback, Bar) for callback in callbacks),
        enable_model_summary=False,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        benchmark=accelerator == "cuda" and not cfg["deterministic"],
    )
