"""Train one model: from a resolved config to checkpoints and a history in a run directory."""

from __future__ import annotations

import logging
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from emotion_lab import __version__
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import plugins
from emotion_lab.core.environment import (
    LIGHTNING_PRECISION,
    choose_accelerator,
    git_commit,
    hardware,
    versions,
)
from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry
from emotion_lab.core.runs import monitor_mode
from emotion_lab.core.tables import TextTable, show
from emotion_lab.core.wording import counted
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import DATASETS
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.losses import LOSSES
from emotion_lab.models.base import MODELS, EmotionNet, InputSpec
from emotion_lab.models.finetune import count_parameters, freeze_at
from emotion_lab.models.temporal import build_network
from emotion_lab.temporal.base import TEMPORAL, is_temporal
from emotion_lab.training import (
    distill,
    feature_cache,
    frame_network,
    quantities_head,
    source_checkpoints,
    strategy,
    votes_head,
)
from emotion_lab.training.callbacks import MetricsHistory
from emotion_lab.training.factory import make_module, make_trainer
from emotion_lab.training.failure_propagation import FailurePropagation, rank_zero_stdout
from emotion_lab.training.feature_cache import FeatureCache
from emotion_lab.training.loggers import LoggerContext, build_loggers, close, media_loggers
from emotion_lab.training.module import EmotionModule

#: Warnings of Lightning, torch and W&B that do not concern the user of this program.
_IGNORED_WARNINGS = (
    ".*does not have many workers.*",
    # The sampler of this package continues in the middle of an epoch.
    ".*ended before the epoch ended and your dataloader is not resumable.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory.*exists.*",
    ".*`isinstance\\(treespec, LeafSpec\\)`.*",
    ".*No device id is provided.*",
    # fsdp with weight averaging is refused earlier, with our own message.
    ".*overrides the configure_model.*",
    ".*ModuleAvailableCache.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",
    ".*found .* module.*in eval mode.*",
    ".*epoch parameter in `scheduler.step.*",
    ".*experiment.*already been.*",
    ".*sync_dist=True.*",
    ".*Experiment logs directory.*",
)


@dataclass
class FitResult:
    """Result of :func:`fit`.

    Attributes:
        data: The data module (train and val only).
        loggers: Still open; the caller closes them.
        facts: Builtins for ``metrics.json``: epochs, seconds, hardware, parameters, ...
        is_global_zero: Whether this process writes the results; true in one process of a run.
    """

    data: EmotionData
    loggers: list[Logger]
    history: MetricsHistory
    facts: dict[str, Any]
    is_global_zero: bool = True


def quiet() -> None:
    """Silence the info messages of Lightning and :data:`_IGNORED_WARNINGS`."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for pattern in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)


def make_card(
    cfg: dict[str, Any], data: EmotionData, spec: InputSpec, fingerprints: dict[str, Any]
) -> dict[str, Any]:
    """Return the metadata of a checkpoint; builtins only."""
    return {
        "format": ckpt.FORMAT,
        "config": cfg,
        "classes": list(data.classes),
        "input": {
            "image_size": spec.image_size,
            "channels": spec.channels,
            "colour": "RGB" if spec.channels == 3 else "grey",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "crop_margin": float(cfg["data"]["crop_margin"]),
        },
        "temperature": 1.0,
        "fingerprints": fingerprints,
        "monitor": cfg["monitor"],
        "seed": cfg["seed"],
        "versions": {**versions(), "emotion_lab": __version__},
        "plugins": _providers(cfg),
    }


def _providers(cfg: dict[str, Any]) -> dict[str, str]:
    """Return group -> plug-in of all that a config takes from plug-ins."""
    models: Registry[Any] = TEMPORAL if is_temporal(cfg["model"]) else MODELS
    registries: dict[str, Registry[Any]] = {"model": models, "loss": LOSSES, "data": DATASETS}
    found = {
        group: plugins.provider(registry.get(str(cfg[group]["name"])))
        for group, registry in registries.items()
    }
    return {group: name for group, name in found.items() if name is not None}


def check_same_data(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuse to resume if the fingerprints of the splits differ from those in the checkpoint."""
    for split, fingerprint in current.items():
        old = saved.get(split)
        if old is not None and old["hash"] != fingerprint["hash"]:
            raise UserError(
                f"the {split} split differs from the one this run started with: {old['n']} images "
                f"at the start, {fingerprint['n']} now (fingerprint {old['hash'][:8]}, now "
                f"{fingerprint['hash'][:8]}). Give data.path=<the same data>, or start a new run."
            )


def _print_wrapped(text: str) -> None:
    """Print text in lines of at most 80 characters."""
    print(textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False), flush=True)


def _print_config(cfg: dict[str, Any], run_dir: Path) -> None:
    """Print the run directory, the choice of each config group and the main settings."""
    print(f"run: {run_dir}")
    groups = ("data", "model", "augment", "loss", "optim", "schedule")
    choices, trainer = " ".join(f"{g}={cfg[g]['name']}" for g in groups), cfg["trainer"]
    _print_wrapped(
        f"config: {choices}, {counted(trainer['max_epochs'], 'epoch')}, "
        f"batch size {cfg['data']['batch_size']}, learning rate {cfg['optim']['lr']:g}, "
        f"best epoch by {cfg['monitor']} ({monitor_mode(cfg)}), random seed {cfg['seed']}"
    )


def _print_class_counts(data: EmotionData) -> None:
    print(f"data: {data.source.location}")
    for note in data.source.notes:
        print(f"  {note}")
    counts = [data.class_counts(split) for split in data.source.splits]
    rows = [(name, *(n[i] for n in counts)) for i, name in enumerate(data.classes)]
    rows.append(("all", *(n.sum() for n in counts)))
    show(TextTable(("class", *data.source.splits), rows))


def _check_val_size(data: EmotionData) -> None:
    """Refuse a val split of fewer than two images, which cannot select an epoch."""
    n = len(data.split("val"))
    if n < 2:
        raise UserError(
            f"val has {n} image(s), too few to select an epoch: add images (train has "
            f"{len(data.split('train'))}), set a larger data.val_fraction, or give a val folder."
        )


def _open_data(cfg: dict[str, Any]) -> tuple[EmotionData, FrameOutputs | None]:
    """Return train and val, and the frame network of a temporal model; print what they hold."""
    data = EmotionData(cfg["data"], ("train", "val"), cfg["seed"], cfg["augment"]["name"])
    # Not by the Trainer, which would use the first batches of val.
    data.limit_val_batches = cfg["trainer"]["limit_val_batches"]
    frame = frame_network.open_for(cfg, data)
    _print_class_counts(data)
    _check_val_size(data)
    return data, frame


def _build_network(cfg: dict[str, Any], classes: list[str]) -> tuple[EmotionNet, dict[str, int]]:
    """Return the network and its numbers of parameters; print one line."""
    net, spec = build_network(cfg["model"], len(classes), classes)
    freeze_at(net, cfg["model"])
    trainable, total = count_parameters(net)
    frozen = f" ({trainable:,} of them trained)" if trainable < total else ""
    _print_wrapped(
        f"model: {cfg['model']['name']}, {spec.image_size} px, "
        f"{'RGB' if spec.channels == 3 else 'grey'}, {total:,} parameters{frozen}; "
        f"{net.weights_report}"
    )
    return net, {"trainable": trainable, "total": total}


def _restore_position(resume: Path, data: EmotionData, fingerprints: dict[str, Any]) -> int:
    """Check the data of a resumed run, restore the data module and return the optimiser step.

    Lightning restores the data module too, but with fsdp only after it has counted the batches.
    """
    content = ckpt.read(resume)
    check_same_data(content[ckpt.CARD].get("fingerprints", {}), fingerprints)
    data.load_state_dict(content[type(data).__qualname__])
    return int(content["global_step"])


def _print_trainer(accelerator: str, trainer: L.Trainer, module: EmotionModule) -> None:
    engine = "fsdp" if module.cfg["trainer"]["strategy"] == "fsdp" else "ddp"
    parallel = f"{engine}, {trainer.world_size} processes, " if trainer.world_size > 1 else ""
    precision = {name: key for key, name in LIGHTNING_PRECISION.items()}[str(trainer.precision)]
    _print_wrapped(
        f"trainer: {accelerator}, precision {precision}, "
        f"{'channels_last' if module.channels_last else 'contiguous'} memory format, "
        f"{parallel}{counted(torch.get_num_threads(), 'thread')}"
    )


def _run_trainer(
    trainer: L.Trainer, module: EmotionModule, data: EmotionData, resume: Path | None, run_dir: Path
) -> float:
    """Run ``trainer.fit`` and return its seconds; a failure closes the loggers and all ranks."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined] # set at run time
    propagation = next(c for c in callbacks if isinstance(c, FailurePropagation))
    start = time.perf_counter()
    try:
        for logger in trainer.loggers:
            logger.log_hyperparams(module.cfg)
        for media_logger in media_loggers(trainer.loggers):
            media_logger.log_network(module.model)
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
    except BaseException as error:
        close(trainer.loggers, "failed")
        propagation.end_others(error)
        raise
    propagation.wait_for_others()
    seconds = time.perf_counter() - start
    if not (run_dir / "checkpoints" / "best.ckpt").exists():
        raise UserError("training ended before the first epoch was complete: nothing was saved.")
    return seconds


def _facts(
    cfg: dict[str, Any], trainer: L.Trainer, data: EmotionData, history: MetricsHistory
) -> dict[str, Any]:
    """Return the facts of a finished fit: epochs, steps, durations, throughput."""
    epochs, seconds = len(history.rows), sum(history.seconds)
    # With limit_train_batches, an epoch is shorter than the split.
    batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
    images = min(batches * data.global_batch_size, len(data.split("train")) * epochs)
    return {
        "epochs": epochs,
        "steps": trainer.global_step,
        "best_epoch": max(row["epoch"] for row in history.rows if row["best"]),
        "seconds": round(seconds, 3),
        "epoch_seconds": [round(value, 3) for value in history.seconds],
        "images_per_s": round(images / seconds, 2) if seconds else None,
        "precision": str(trainer.precision),
        "monitor": {"name": cfg["monitor"], "best": history.best},
        "processes": trainer.world_size,
    }


def _setup(cfg: dict[str, Any]) -> str:
    """Set verbosity, threads and seed of the process, check options; return the accelerator."""
    quiet()
    accelerator = choose_accelerator(cfg["trainer"]["accelerator"])
    if cfg["trainer"]["num_threads"]:
        torch.set_num_threads(int(cfg["trainer"]["num_threads"]))
    strategy.check(cfg, accelerator)
    distill.check_precompute(cfg)
    frame_network.check(cfg)
    feature_cache.check(cfg)
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    return accelerator


def _add_auxiliary_losses(
    cfg: dict[str, Any], module: EmotionModule, net: EmotionNet, data: EmotionData
) -> dict[str, Any] | None:
    """Add heads and teacher to the module; return the teacher's entry in the facts."""
    module.votes_head = votes_head.build(cfg, data, net)
    module.quantities_head = quantities_head.build(cfg, data, net)
    if module.quantities_head is not None:
        module.card["quantities"] = module.quantities_head.names
    module.distillation, teacher = distill.build(cfg["distill"], net.spec, data.classes)
    return teacher


@rank_zero_stdout()
def fit(
    cfg: dict[str, Any],
    run_dir: Path,
    resume: Path | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> FitResult:
    """Train a model; checkpoints, history and logs are written to ``run_dir``.

    With several processes, only rank 0 prints.

    Args:
        cfg: The resolved config, plain dicts.
        run_dir: The run directory.
        resume: The ``last.ckpt`` to resume from.
        check: Called with the fingerprints of the splits before training; it may raise.
        callbacks: Additional callbacks, for instance for monitoring; they run last.
    """
    # Read first: the checkout may change during a long run.
    commit = git_commit()
    accelerator = _setup(cfg)
    _print_config(cfg, run_dir)
    # Fails before the data is loaded, which can take minutes.
    checkpoints = source_checkpoints.read(cfg)
    data, frame = _open_data(cfg)
    net, parameters = _build_network(cfg, data.classes)
    data.prepare_for(net.spec.image_size, net.spec.channels)
    fingerprints = data.fingerprints()
    if check is not None:
        check(fingerprints)
    step = None if resume is None else _restore_position(resume, data, fingerprints)
    images, entered = source_checkpoints.check(checkpoints, data)
    card = {**make_card(cfg, data, net.spec, fingerprints), "trained_on": images.entry()}
    if frame is not None:
        card["frame"] = frame.entry()
    module = make_module(cfg, data, net, card)
    teacher = _add_auxiliary_losses(cfg, module, net, data)
    for temporary in (run_dir / "checkpoints").glob(".*.tmp"):  # of a process killed while saving
        temporary.unlink(missing_ok=True)
    history = MetricsHistory(run_dir, cfg["monitor"], monitor_mode(cfg))
    loggers = build_loggers(LoggerContext(cfg, run_dir, step))
    if cfg["data"]["feature_cache"] != "none":
        callbacks = [FeatureCache(), *callbacks]
    trainer = make_trainer(cfg, run_dir, history, loggers, accelerator, callbacks)
    _print_trainer(accelerator, trainer, module)

    seconds = _run_trainer(trainer, module, data, resume, run_dir)
    facts = {
        "commit": commit,
        **_facts(cfg, trainer, data, history),
        "seconds_this_session": round(seconds, 3),
        "parameters": parameters,
        "channels_last": module.channels_last,
        "hardware": hardware(accelerator),
        "versions": card["versions"],
        "fingerprints": fingerprints,
        **({} if teacher is None else {"teacher": teacher}),
        **({"checkpoints": entered} if entered else {}),
    }
    return FitResult(data, loggers, history, facts, trainer.is_global_zero)
