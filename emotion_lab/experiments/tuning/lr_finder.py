"""``sweep=lr_find``: Lightning's learning-rate range test (Smith 2017) on the composed config."""

from __future__ import annotations

import json
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
from emotion_lab.core.io import atomic_write
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.experiments.tuning import figures
from emotion_lab.models.base import build_model
from emotion_lab.models.finetune import apply_freeze
from emotion_lab.reports.style import LIGHT, render
from emotion_lab.training.factory import SafeCheckpointIO, make_module
from emotion_lab.training.fit import make_card, quiet

#: Batches with a finite loss without which nothing is suggested.
LEAST = 15
#: Batches at the start where smoothing sees one side only.
EDGE = 3
#: Standard deviation of the smoothing, as a share of the steps.
WIDTH = 0.03


def find(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Raise the learning rate from batch to batch and see where the loss falls fastest.

    Only train is opened; nothing is saved but ``lr_find.json`` and ``lr_find.png``.

    Args:
        cfg: The resolved config, plain dicts.
        folder: The run folder.

    Returns:
        The content of ``lr_find.json``: ``suggestion``, ``lr``, ``loss`` (smoothed), ``steps``, ...

    Raises:
        UserError: If the loss never falls: then there is nothing to suggest.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    options = cfg["sweep"]
    # The test is about the rate alone: the schedule would change it too.
    cfg = {**cfg, "schedule": {"name": "none"}}
    accelerator = choose_accelerator(cfg["trainer"]["accelerator"])
    if cfg["trainer"]["num_threads"]:
        torch.set_num_threads(int(cfg["trainer"]["num_threads"]))
    L.seed_everything(cfg["seed"], workers=True, verbose=False)
    data = EmotionData(cfg["data"], ("train",), cfg["seed"], cfg["augment"]["name"])
    net, spec = build_model(cfg["model"], len(data.classes))
    apply_freeze(net, cfg["model"]["freeze"], cfg["model"]["unfreeze_last"])
    data.prepare_for(spec.image_size, spec.channels)
    module = make_module(cfg, data, net, make_card(cfg, data, spec, {}))
    loader = data.train_dataloader()
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=choose_precision(cfg["trainer"]["precision"], accelerator),
        # Enough for all steps; the tuner stops at the last.
        max_epochs=1 + math.ceil(options["num_steps"] * cfg["trainer"]["accumulate_grad_batches"] / len(loader)),
        gradient_clip_val=cfg["trainer"]["gradient_clip_val"],
        accumulate_grad_batches=cfg["trainer"]["accumulate_grad_batches"],
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
    finder = Tuner(trainer).lr_find(
        module,
        train_dataloaders=loader,
        min_lr=options["min_lr"],
        max_lr=options["max_lr"],
        num_training=options["num_steps"],
        update_attr=False,
    )
    assert finder is not None  # None only under fast_dev_run
    result = judged(finder.results["lr"], finder.results["loss"])
    result |= {
        "optim": cfg["optim"]["name"],
        "model": cfg["model"]["name"],
        "batch_size": cfg["data"]["batch_size"],
        "seed": cfg["seed"],
        "precision": str(trainer.precision),
        "hardware": hardware(accelerator),
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    atomic_write(folder / "lr_find.json", text.encode())
    suggestion = result["suggestion"]
    picture = render(
        lambda style: figures.lr_curve(result["lr"], result["loss"], suggestion, style), LIGHT
    )
    atomic_write(folder / "lr_find.png", picture)
    return result


def raw(smoothed: Sequence[float], beta: float = 0.98) -> np.ndarray:
    """Return the losses of the batches from the running mean that Lightning keeps of them.

    Over a hundred batches that mean is tens of batches late, decades of the learning rate.

    Args:
        smoothed: (N,), as ``_LRCallback`` computes it.
        beta: Its smoothing.

    Returns:
        float64 (N,).
    """
    mean = np.asarray(smoothed, dtype=float)
    mean = mean * (1 - beta ** (np.arange(len(mean)) + 2))
    return np.diff(mean, prepend=0.0) / (1 - beta) + np.concatenate([[0.0], mean[:-1]])


def judged(rates: Sequence[float], smoothed: Sequence[float]) -> dict[str, Any]:
    """Return where the loss falls fastest as the logarithm of the learning rate grows.

    Lightning's own suggestion divides by differences of the rate itself: the smallest rates win,
    whatever the loss does.

    Args:
        rates: Learning rates (N,), rising.
        smoothed: The losses as Lightning has them (N,).

    Returns:
        ``suggestion``; ``lowest``, the rate where the loss is lowest; ``lr`` and ``loss`` (smoothed
        evenly to both sides) of every batch with a finite loss.

    Raises:
        UserError: If the loss never falls, or too few batches have one.
    """
    losses = raw(smoothed)
    finite = np.isfinite(losses)
    x, y = np.asarray(rates, dtype=float)[finite], losses[finite]
    if len(x) < LEAST:
        raise UserError(
            f"the loss was finite for {len(x)} batches only: set a lower sweep.min_lr and sweep.max_lr."
        )
    curve = gaussian_filter1d(y, WIDTH * len(rates))
    # Once it has exploded it may fall again; that says nothing.
    above = np.flatnonzero(curve > 1.1 * curve[0])
    lowest = int(np.argmin(curve[: above[0]] if len(above) else curve))
    if lowest <= EDGE or curve[lowest] > 0.98 * curve[0]:
        raise UserError(
            f"the loss does not fall between sweep.min_lr={min(rates):g} and sweep.max_lr="
            f"{max(rates):g}: raise sweep.max_lr or sweep.num_steps."
        )
    slope = np.gradient(curve, np.log(x))
    at = int(np.argmin(slope[EDGE:lowest])) + EDGE
    return {
        "suggestion": float(f"{x[at]:.3g}"),
        "lowest": float(f"{x[lowest]:.3g}"),
        "steps": len(x),
        "lr": [float(value) for value in x],
        "loss": [float(value) for value in curve],
    }
