"""``sweep=lr_find``: Lightning's learning-rate range test (Smith 2017) on the composed config."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.tuner import Tuner
from scipy.ndimage import gaussian_filter1d

from emotion_lab.core.environment import choose_accelerator, choose_precision, hardware
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, write_json
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.experiments.tuning import figures
from emotion_lab.models.base import build_model
from emotion_lab.models.finetune import freeze_at
from emotion_lab.models.load import checkpoint_model
from emotion_lab.reports.style import LIGHT, render
from emotion_lab.training.factory import SafeCheckpointIO, make_module
from emotion_lab.training.fit import make_card, quiet
from emotion_lab.training.module import EmotionModule

#: Minimum number of batches with a finite loss.
MIN_BATCHES = 15
#: Batches at the start that are not suggested, because their smoothing is one-sided.
EDGE = 3
#: Standard deviation of the smoothing, as a fraction of the steps.
SMOOTHING = 0.03


def _trainer(cfg: dict[str, Any], batches_per_epoch: int, folder: Path) -> L.Trainer:
    """Build a trainer for ``sweep.num_steps`` optimiser steps that saves no files."""
    trainer = cfg["trainer"]
    accelerator = choose_accelerator(trainer["accelerator"])
    batches = cfg["sweep"]["num_steps"] * trainer["accumulate_grad_batches"]
    return L.Trainer(
        accelerator=accelerator,
        devices=1,
        # choose_precision returns Lightning's names only.
        precision=choose_precision(trainer["precision"], accelerator),  # type: ignore[arg-type]
        # At least num_steps; the tuner stops after the last one.
        max_epochs=1 + math.ceil(batches / batches_per_epoch),
        gradient_clip_val=trainer["gradient_clip_val"],
        accumulate_grad_batches=trainer["accumulate_grad_batches"],
        deterministic=bool(cfg["deterministic"]),
        logger=False,
        plugins=[SafeCheckpointIO()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def keep_relative_rates(optimizer: torch.optim.Optimizer) -> None:
    """Scale the rates of the parameter groups (``model.layer_decay``) before every step.

    The tuner and its schedule give all groups one rate.
    """
    rates = [group["lr"] for group in optimizer.param_groups]

    def scale(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] *= rate / max(rates)

    if len(set(rates)) > 1:
        optimizer.register_step_pre_hook(scale)


class _RangeTestModule(EmotionModule):
    """A module whose parameter groups keep the ratios of their rates in a range test."""

    def configure_optimizers(self) -> Any:
        """Build the optimiser."""
        optimizer = super().configure_optimizers()
        keep_relative_rates(optimizer)
        return optimizer


def range_test(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Increase the learning rate from batch to batch and find where the loss falls fastest.

    Reads the train split only. Writes ``lr_find.json`` and ``lr_find.png``.

    Returns:
        The content of ``lr_find.json``: see :func:`suggest_lr`, and the conditions of the test.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    # A schedule would change the learning rate too.
    cfg = {**cfg, "schedule": {"name": "none"}}
    if cfg["trainer"]["num_threads"]:
        torch.set_num_threads(int(cfg["trainer"]["num_threads"]))
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    data = EmotionData(cfg["data"], ("train",), cfg["seed"], cfg["augment"]["name"])
    net, spec = build_model(checkpoint_model(cfg["model"]), len(data.classes))
    freeze_at(net, cfg["model"])
    data.prepare_for(spec.image_size, spec.channels)
    module = make_module(cfg, data, net, make_card(cfg, data, spec, {}), _RangeTestModule)
    loader = data.train_dataloader()
    trainer = _trainer(cfg, len(loader), folder)
    finder = Tuner(trainer).lr_find(
        module,
        train_dataloaders=loader,
        min_lr=cfg["sweep"]["min_lr"],
        max_lr=cfg["sweep"]["max_lr"],
        num_training=cfg["sweep"]["num_steps"],
        update_attr=False,
    )
    assert finder is not None  # None only under fast_dev_run
    result = suggest_lr(finder.results["lr"], finder.results["loss"]) | {
        "optim": cfg["optim"]["name"],
        "model": cfg["model"]["name"],
        "batch_size": cfg["data"]["batch_size"],
        "seed": cfg["seed"],
        "precision": str(trainer.precision),
        "hardware": hardware(choose_accelerator(cfg["trainer"]["accelerator"])),
    }
    write_json(folder / "lr_find.json", result)
    rates, losses, suggestion = result["lr"], result["loss"], result["suggestion"]
    picture = render(lambda style: figures.lr_curve(rates, losses, suggestion, style), LIGHT)
    atomic_write(folder / "lr_find.png", picture)
    return result


def find_lr(cfg: dict[str, Any], folder: Path) -> float:
    """Run the range test, print and return the suggested learning rate."""
    result = range_test(cfg, folder)
    low, high = result["lr"][0], result["lr"][-1]
    print(f"{result['steps']} steps, learning rate {low:.1e} to {high:.1e}")
    print(f"steepest decrease of the loss at:\n  optim.lr={result['suggestion']:g}")
    print(folder)
    return float(result["suggestion"])


def batch_losses(smoothed: Sequence[float], beta: float = 0.98) -> np.ndarray:
    """Recover the losses of the batches from Lightning's exponential moving average.

    In a test of a hundred batches, the average lags by tens of batches, which are decades of the
    learning rate.

    Args:
        smoothed: Bias-corrected moving average (N,), as in Lightning's ``_LRCallback``.
        beta: Its smoothing factor.

    Returns:
        float64 (N,).
    """
    mean = np.asarray(smoothed, dtype=float)
    mean = mean * (1 - beta ** (np.arange(len(mean)) + 2))
    return np.diff(mean, prepend=0.0) / (1 - beta) + np.concatenate([[0.0], mean[:-1]])


def suggest_lr(rates: Sequence[float], smoothed: Sequence[float]) -> dict[str, Any]:
    """Find the learning rate with the steepest loss over the logarithm of the learning rate.

    Lightning's own suggestion divides by differences of the learning rate itself, so that the
    smallest rates win regardless of the loss.

    Args:
        rates: Learning rates (N,), increasing.
        smoothed: Lightning's smoothed losses (N,).

    Returns:
        ``suggestion``; ``lowest``, the rate with the lowest loss; ``steps``, ``lr`` and ``loss``
        (smoothed symmetrically) of all batches with a finite loss.
    """
    losses = batch_losses(smoothed)
    finite = np.isfinite(losses)
    x, y = np.asarray(rates, dtype=float)[finite], losses[finite]
    if len(x) < MIN_BATCHES:
        raise UserError(
            f"the loss is finite for {len(x)} batches only: set lower values of sweep.min_lr and "
            "sweep.max_lr."
        )
    curve = gaussian_filter1d(y, SMOOTHING * len(rates))
    # A decrease after the loss has diverged is ignored.
    diverged = np.flatnonzero(curve > 1.1 * curve[0])
    lowest = int(np.argmin(curve[: diverged[0]] if len(diverged) else curve))
    if lowest <= EDGE or curve[lowest] > 0.98 * curve[0]:
        raise UserError(
            f"the loss does not fall between sweep.min_lr={min(rates):g} and sweep.max_lr="
            f"{max(rates):g}: raise sweep.max_lr or sweep.num_steps."
        )
    slope = np.gradient(curve, np.log(x))
    steepest = int(np.argmin(slope[EDGE:lowest])) + EDGE
    return {
        "suggestion": float(f"{x[steepest]:.3g}"),
        "lowest": float(f"{x[lowest]:.3g}"),
        "steps": len(x),
        "lr": x.tolist(),
        "loss": curve.tolist(),
    }
