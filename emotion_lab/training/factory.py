"""Build the LightningModule and the Trainer from a config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.environment import choose_precision
from emotion_lab.core.errors import UserError, first_line
from emotion_lab.data.batch_augment import BatchAugment
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.losses import build_loss
from emotion_lab.models.base import EmotionNet
from emotion_lab.training import strategy
from emotion_lab.training.callbacks import (
    BestLastCheckpoint,
    DataPositionCallback,
    EarlyStopping,
    GracefulStop,
    MetricsHistory,
)
from emotion_lab.training.ema import EMACallback
from emotion_lab.training.failure_propagation import FailurePropagation
from emotion_lab.training.module import EmotionModule
from emotion_lab.training.progress_bar import ProgressBar
from emotion_lab.training.val_predictions import ValPredictionsCallback

#: Keys of ``best.ckpt``, which is for inference; ``last.ckpt`` has everything to resume.
BEST_KEYS = ("state_dict", ckpt.CARD, "epoch", "global_step", "pytorch-lightning_version")


class SafeCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin: atomic writes, builtins only; see :mod:`emotion_lab.core.checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; see :func:`emotion_lab.core.checkpoint.write`."""
        # Lightning's weights_only=True would skip the callbacks, and so the averaged weights.
        if Path(path).name == "best.ckpt":
            checkpoint = {key: checkpoint[key] for key in BEST_KEYS}
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {
                key: weights[key] for key in weights if not key.startswith("votes_head.")
            }
        ckpt.write(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; see :func:`emotion_lab.core.checkpoint.read`."""
        return ckpt.read(Path(path))


def device_augment(cfg: dict[str, Any], net: EmotionNet) -> BatchAugment:
    """Build ``augment=device`` and check that the network accepts every image size it produces."""
    if cfg["progressive_resize"] and not net.backbone.conv:
        raise UserError(
            "augment.progressive_resize needs a convolutional network: this one accepts "
            f"{net.spec.image_size} pixels only. Set augment.progressive_resize=null."
        )
    augment = BatchAugment(cfg, net.spec.image_size, net.spec.channels)
    training = net.training
    net.eval()
    for _, size in augment.sizes:
        try:
            with torch.no_grad():
                net(torch.zeros(2, net.spec.channels, size, size))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"augment.progressive_resize: this network does not accept {size} pixels "
                f"({first_line(error)}). Set larger sizes, or augment.progressive_resize=null."
            ) from None
    net.train(training)
    return augment


def compile_backbone(net: EmotionNet) -> None:
    """Compile the backbone in place, so that checkpoint keys stay as they are."""
    try:
        import torch._inductor  # noqa: F401

        net.backbone.compile()
        print("model: compiled with torch.compile (the first batches are slow)")
    except (ImportError, RuntimeError) as error:
        print(f"warning: model not compiled: {first_line(error)}")


def make_module(
    cfg: dict[str, Any],
    data: EmotionData,
    net: EmotionNet,
    card: dict[str, Any],
    kind: type[EmotionModule] = EmotionModule,
) -> EmotionModule:
    """Build the LightningModule: loss, batch augmentation, memory format and compilation.

    ``net`` is changed in place. ``card``, the metadata of checkpoints, needs ``classes`` at least.
    """
    weights, counts = data.class_weights(), data.class_counts("train")
    criterion = build_loss(
        cfg["loss"], len(data.classes), [float(w) for w in weights], [int(n) for n in counts]
    )
    module = kind(net, criterion, cfg, card)
    if cfg["augment"]["name"] == "device":
        module.augment = device_augment(cfg["augment"], net)
    channels_last = cfg["trainer"]["channels_last"]
    if channels_last == "auto":
        # fsdp shards contiguous parameters only.
        channels_last = net.backbone.conv and cfg["trainer"]["strategy"] != "fsdp"
    module.channels_last = bool(channels_last)
    if module.channels_last:
        net.to(memory_format=torch.channels_last)
    if cfg["model"]["compile"]:
        compile_backbone(net)
    return module


def make_trainer(
    cfg: dict[str, Any],
    run_dir: Path,
    history: MetricsHistory,
    loggers: list[Logger],
    accelerator: str,
    more_callbacks: Sequence[L.Callback] = (),
) -> L.Trainer:
    """Build the Trainer with its callbacks; ``more_callbacks`` run after all others."""
    options = cfg["trainer"]
    folder = run_dir / "checkpoints"
    world_size = strategy.check(cfg, accelerator)
    callbacks: list[L.Callback] = [FailurePropagation(run_dir), DataPositionCallback()]
    if options["ema_decay"]:
        callbacks.append(EMACallback(options["ema_decay"]))
    # MetricsHistory precedes the callbacks that save its state or read it.
    callbacks += [history, ValPredictionsCallback(run_dir, history)]
    if options["patience"] is not None:
        callbacks.append(EarlyStopping(history, options["patience"]))
    callbacks += [GracefulStop(folder, run_dir), BestLastCheckpoint(folder, history)]
    progress_bar = options["enable_progress_bar"]
    if progress_bar == "auto":
        progress_bar = sys.stdout.isatty()
    if progress_bar:
        callbacks.append(ProgressBar())
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=options["devices"],
        num_nodes=options["num_nodes"],
        strategy=strategy.build(options, world_size),
        # choose_precision returns Lightning's names only.
        precision=choose_precision(options["precision"], accelerator),  # type: ignore[arg-type]
        max_epochs=options["max_epochs"],
        max_time=options["max_time"],
        gradient_clip_val=options["gradient_clip_val"],
        accumulate_grad_batches=options["accumulate_grad_batches"],
        limit_train_batches=options["limit_train_batches"],
        log_every_n_steps=options["log_every_n_steps"],
        deterministic=bool(cfg["deterministic"]),
        callbacks=callbacks,
        logger=loggers or False,
        plugins=[SafeCheckpointIO()],
        default_root_dir=run_dir,
        enable_progress_bar=bool(progress_bar),
        enable_model_summary=False,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        benchmark=accelerator == "cuda" and not cfg["deterministic"],
    )
    # Lightning moves checkpoint callbacks to the end of the list it is given.
    trainer.callbacks.extend(more_callbacks)  # type: ignore[attr-defined] # set at run time
    return trainer
