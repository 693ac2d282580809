"""One fit, from a checked config to checkpoints in a run folder."""

from __future__ import annotations

import logging
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
from emotion_lab.core.environment import choose_accelerator, git_commit, hardware, versions
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import monitor_mode
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.models.base import InputSpec, build_model
from emotion_lab.models.finetune import apply_freeze, count_parameters
from emotion_lab.training import distill, strategy
from emotion_lab.training.callbacks import MetricsHistory
from emotion_lab.training.factory import make_module, make_trainer
from emotion_lab.training.failure_propagation import FailurePropagation, rank_zero_stdout
from emotion_lab.training.loggers import LoggerContext, build_loggers, close, trackers


@dataclass
class FitResult:
    """What a fit leaves behind.

    Attributes:
        data: The data module (train and val only).
        loggers: Still open; the caller closes them.
        history: Rows and seconds of every epoch.
        facts: Builtins for ``metrics.json``: epochs, seconds, hardware, parameters, ...
        main: Whether this process writes the results; of several, one does.
    """

    data: EmotionData
    loggers: list[Logger]
    history: MetricsHistory
    facts: dict[str, Any]
    main: bool = True


def quiet() -> None:
    """Silence what libraries say that helps nobody who runs an experiment."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory.*exists.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*No device id is provided.*",
        # Of networks that are split among devices: those cannot be averaged, and say so.
        ".*overrides the configure_model.*",
        ".*ModuleAvailableCache.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*found .* module.*in eval mode.*",
        ".*epoch parameter in `scheduler.step.*",
        ".*experiment.*already been.*",
        ".*sync_dist=True.*",
        ".*Experiment logs directory.*",
    ):
        warnings.filterwarnings("ignore", message=text)


def make_card(
    cfg: dict[str, Any], data: EmotionData, spec: InputSpec, fingerprints: dict[str, Any]
) -> dict[str, Any]:
    """Return what a checkpoint says of itself; builtins only."""
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
    }


def _show_data(data: EmotionData) -> None:
    names = list(data.source.splits)
    width = max(len(name) for name in data.classes) + 2
    print(f"data: {data.source.location}")
    for note in data.source.notes:
        print(f"  {note}")
    table = {name: data.counts(name) for name in names}
    print("  " + " " * width + "".join(f"{name:>8}" for name in names))
    for index, label in enumerate(data.classes):
        print(f"  {label:<{width}}" + "".join(f"{table[name][index]:>8}" for name in names))
    print(f"  {'all':<{width}}" + "".join(f"{int(table[name].sum()):>8}" for name in names))


def check_same_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with other images or labels than the run began with.

    Raises:
        UserError: Naming the split.
    """
    for name, found in now.items():
        old = before.get(name)
        if old is not None and old["hash"] != found["hash"]:
            raise UserError(
                f"the {name} split is not what this run began with: {found['n']} images, then "
                f"{old['n']} (fingerprint {found['hash'][:8]}, then {old['hash'][:8]}). Give "
                "data.path=<the same data>, or start a new run."
            )


def fit(
    cfg: dict[str, Any],
    run_dir: Path,
    resume: Path | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
    callbacks: Sequence[L.Callback] = (),
) -> FitResult:
    """Train as ``cfg`` says; everything of value lands in ``run_dir``.

    Args:
        cfg: The resolved config, plain dicts.
        run_dir: The run folder.
        resume: A ``last.ckpt`` to go on from.
        check: Called with the fingerprints of the splits before anything is trained; it may raise.
        callbacks: Further ones, which only look on.

    Of several processes the first prints, and the one that fails first tells why.

    Raises:
        UserError: For a user's mistake, a full disk, a NaN loss, or Ctrl-C (its subclass).
    """
    with rank_zero_stdout():
        return _fit(cfg, run_dir, resume, check, callbacks)


def _fit(
    cfg: dict[str, Any],
    run_dir: Path,
    resume: Path | None,
    check: Callable[[dict[str, Any]], None] | None,
    callbacks: Sequence[L.Callback],
) -> FitResult:
    quiet()
    # Asked now: by the end of a long run the checkout may have moved on.
    commit = git_commit()
    accelerator = choose_accelerator(cfg["trainer"]["accelerator"])
    if cfg["trainer"]["num_threads"]:
        torch.set_num_threads(int(cfg["trainer"]["num_threads"]))
    strategy.check(cfg, accelerator)
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    data = EmotionData(cfg["data"], ("train", "val"), cfg["seed"], cfg["augment"]["name"])
    _show_data(data)
    net, spec = build_model(cfg["model"], len(data.classes))
    apply_freeze(net, cfg["model"]["freeze"], cfg["model"]["unfreeze_last"])
    trainable, total = count_parameters(net)
    print(
        f"model: {cfg['model']['name']}, {spec.image_size} px, "
        f"{'RGB' if spec.channels == 3 else 'grey'}, {trainable:,} of {total:,} parameters train; "
        f"{net.weights_report}"
    )
    data.prepare_for(spec.image_size, spec.channels)
    for name in ("train", "val"):
        skipped = data.dataset(name).skipped
        if skipped:
            some = ", ".join(skipped[:3]) + (" ..." if len(skipped) > 3 else "")
            print(f"  {name}: {len(skipped)} images could not be decoded, left out: {some}")
    fingerprints = data.fingerprints()
    if check is not None:
        check(fingerprints)
    step = None
    if resume is not None:
        content = ckpt.read(resume)
        step = int(content["global_step"])
        check_same_data(content[ckpt.CARD].get("fingerprints", {}), fingerprints)
        # Now and not by Lightning alone: with fsdp it counts the batches before it restores.
        data.load_state_dict(content[type(data).__qualname__])
    card = make_card(cfg, data, spec, fingerprints)
    module = make_module(cfg, data, net, card)
    module.distillation, teacher = distill.build(cfg["distill"], spec, data.classes, fingerprints)
    # What a killed process was writing when it died; the files themselves are whole.
    for torn in (run_dir / "checkpoints").glob(".*.tmp"):
        torn.unlink(missing_ok=True)
    history = MetricsHistory(run_dir, cfg["monitor"], monitor_mode(cfg), cfg["trainer"]["patience"])
    loggers = build_loggers(LoggerContext(cfg, run_dir, step))
    trainer = make_trainer(cfg, run_dir, history, loggers, accelerator)
    trainer.callbacks.extend(callbacks)
    together = next(c for c in trainer.callbacks if isinstance(c, FailurePropagation))
    engine = "fsdp" if cfg["trainer"]["strategy"] == "fsdp" else "ddp"
    shared = f"{engine} of {trainer.world_size} processes, "
    print(
        f"trainer: {accelerator}, {trainer.precision}, "
        f"{'channels_last' if module.channels_last else 'contiguous'}, "
        f"{shared if trainer.world_size > 1 else ''}"
        f"{torch.get_num_threads()} threads, seed {cfg['seed']}",
        flush=True,
    )
    begin = time.perf_counter()
    try:
        for logger in loggers:
            logger.log_hyperparams(cfg)
        for tracker in trackers(loggers):
            tracker.network(net)
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None)
    except BaseException as error:
        close(loggers, "failed")
        together.leave(error)
        raise
    together.finish()
    seconds = time.perf_counter() - begin
    if not (run_dir / "checkpoints" / "best.ckpt").exists():
        raise UserError("training ended before the first epoch was over: nothing was saved.")
    epochs = len(history.rows)
    # limit_train_batches may have left most of an epoch out.
    done = trainer.global_step * data.step * cfg["trainer"]["accumulate_grad_batches"]
    images = min(done, len(data.split("train")) * epochs)
    spent = sum(history.seconds)
    facts = {
        "commit": commit,
        "epochs": epochs,
        "steps": trainer.global_step,
        "best_epoch": max(i for i, row in enumerate(history.rows) if row["best"]),
        "seconds": round(spent, 3),
        "seconds_this_session": round(seconds, 3),
        "epoch_seconds": [round(value, 3) for value in history.seconds],
        "images_per_s": round(images / spent, 2) if spent else None,
        "parameters": {"trainable": trainable, "total": total},
        "precision": str(trainer.precision),
        "channels_last": module.channels_last,
        "monitor": {"name": cfg["monitor"], "best": history.best},
        "hardware": hardware(accelerator),
        "processes": trainer.world_size,
        "versions": card["versions"],
        "fingerprints": fingerprints,
        **({} if teacher is None else {"teacher": teacher}),
    }
    return FitResult(data, loggers, history, facts, trainer.is_global_zero)
