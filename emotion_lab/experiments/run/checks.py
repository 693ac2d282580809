"""Checks of the command ``train`` before Hydra creates the run directory; no torch import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.config import compose, schema
from emotion_lab.config.overrides import parse, values
from emotion_lab.core import distributed, paths, runs
from emotion_lab.core.errors import UserError


def check_sweep_options(cfg: DictConfig, overrides: list[str], multirun: bool) -> None:
    """Refuse the options of a search, and without ``-m`` those of a sweep."""
    if cfg.sweep.name != "grid":
        name = cfg.sweep.name
        raise UserError(f"sweep={name} is a search: run python -m emotion_lab.sweep sweep={name}.")
    if multirun:
        return
    if any(text.startswith("hydra/launcher=") for text in overrides):
        raise UserError("hydra/launcher selects where the jobs of a sweep run: add -m.")
    if any(text.startswith("hydra.sweep.dir=") for text in overrides):
        raise UserError(
            "hydra.sweep.dir is the directory of a sweep: add -m, or name the directory of a "
            "single run with hydra.run.dir=<folder>."
        )
    if cfg.sweep.resume:
        raise UserError("sweep.resume=true continues a sweep: add -m and its options.")


def check_reproduce(
    cfg: DictConfig, overrides: list[str], multirun: bool, results: Sequence[str]
) -> None:
    """Check ``reproduce=``: it repeats one finished run, with its config, in a new directory."""
    if multirun or cfg.resume is not None:
        raise UserError("reproduce= repeats one run; use it neither with -m nor with resume=.")
    run = runs.read(Path(str(cfg.reproduce)))
    compose.check_unchanged(cfg, overrides, "reproduce= repeats the run with its own config")
    own_path = any(text.startswith("data.path=") for text in overrides)
    paths.check_exist({"data.path": cfg.data.path if own_path else run.config["data"]["path"]})
    if cfg.test:
        paths.check_appendable(Path(str(cfg.test_ledger)))
    paths.check_fresh(str(cfg.hydra.run.dir), *results)


def swept_keys(overrides: list[str]) -> set[str]:
    """Return the keys with several values."""
    return {o.key_or_group for o in parse(overrides) if o.is_sweep_override()}


def check_balance(cfg: DictConfig, overrides: list[str]) -> None:
    """Refuse to correct the class frequencies twice: by the sampler and by the loss.

    Args:
        cfg: The composed config, or that of the first job.
        overrides: As typed; several values of a key are all checked.
    """
    if "weighted" not in (values(overrides, "data.sampler") or [cfg.data.sampler]):
        return
    # Imports torch.
    from emotion_lab.losses import weighs_classes

    for name in values(overrides, "loss") or [cfg.loss.name]:
        own = name == cfg.loss.name
        loss = compose.to_container(cfg.loss) if own else compose.defaults("loss", str(name))
        if weighs_classes(loss):
            raise UserError(
                f"data.sampler=weighted already draws every class equally often, and loss={name} "
                "weights rare classes again (on FER2013, disgust would carry 63 % of the loss). "
                f"Set data.sampler=shuffle with loss={name}, or data.sampler=weighted with a loss "
                "without class weights, for instance loss=ce."
            )


def check_rates(cfg: DictConfig, overrides: list[str]) -> None:
    """Check the final learning rate of ``schedule=cosine``; every pair of a sweep is checked."""
    if "cosine" not in (values(overrides, "schedule") or [cfg.schedule.name]):
        return
    lowest = values(overrides, "schedule.min_lr") or [cfg.schedule.get("min_lr") or 0.0]
    schema.check_min_lr(max(lowest), min(values(overrides, "optim.lr") or [cfg.optim.lr]))


def check_inputs(cfg: DictConfig, swept: set[str]) -> None:
    """Check that the files of a new run exist; each job of a sweep checks ``swept`` keys itself."""
    if cfg.votes_head.weight and cfg.data.name == "fer2013" and not cfg.data.ferplus_csv:
        raise UserError(
            f"votes_head.weight={cfg.votes_head.weight:g} needs the FER+ votes: set "
            "data.ferplus_csv=<fer2013new.csv>."
        )
    # data.download=true creates the folder of data.path.
    path = None if cfg.data.get("download") else cfg.data.path
    lists = {f"data.{key}": cfg.data[key] for key in ("ferplus_csv", "drop_csv", "relabel_csv")}
    required = {"data.path": path, **lists, "model.weights": cfg.model.weights}
    paths.check_exist({key: required[key] for key in required if key not in swept})
    if cfg.test:
        paths.check_appendable(Path(str(cfg.test_ledger)))


def check_new_run_dir(run_dir: Path) -> None:
    """Refuse a run directory that holds a run or cannot be created."""
    if distributed.is_rank_zero() and (run_dir / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{run_dir} already holds a run: continue it with resume='{run_dir}', "
            "or choose another hydra.run.dir."
        )
    paths.check_training_folder(run_dir)
