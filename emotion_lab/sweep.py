"""Search for hyperparameters: ``python -m emotion_lab.sweep optim.lr=1e-3,1e-2 loss=ce,focal``.

This is a command and not a Hydra sweeper: hydra-optuna-sweeper pins optuna 2.10, whose studies on
disk fail with SQLAlchemy 2.1, so that no study would survive the end of its process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app, preflight
from emotion_lab.config import compose
from emotion_lab.config.overrides import quote, values
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.experiments import criterion
from emotion_lab.experiments.run import checks
from emotion_lab.experiments.tuning import space as spaces
from emotion_lab.experiments.tuning import spec as search_spec

RESULTS = (search_spec.FILE, "lr_find.json")


def _check_options(cfg: DictConfig, overrides: list[str]) -> None:
    """Check the options of the search itself."""
    name = cfg.sweep.name
    if cfg.test:
        raise UserError(
            "test=true: a search selects on val and never opens the test split. Add test=false."
        )
    if cfg.trainer.devices != 1 or cfg.trainer.num_nodes > 1:
        raise UserError("a search uses one device per trial: set trainer.devices=1.")
    if name == "lr_find":
        if cfg.sweep.min_lr >= cfg.sweep.max_lr:
            raise UserError(
                f"sweep.min_lr={cfg.sweep.min_lr:g} is not below sweep.max_lr={cfg.sweep.max_lr:g}."
            )
        return
    if name == "halving" and cfg.sweep.pruner not in ("hyperband", "halving"):
        raise UserError(
            f"sweep=halving prunes by hyperband or halving, not sweep.pruner={cfg.sweep.pruner}."
        )
    if not str(cfg.monitor).startswith("val/"):
        raise UserError(f"monitor={cfg.monitor}: a search selects on val, monitor=val/macro_f1.")
    space = spaces.read(list(cfg.sweep.space), search_spec.trial_overrides(overrides))
    criterion.check_searched(str(cfg.monitor), [dimension.key for dimension in space.dimensions])
    checks.check_balance(cfg, [*overrides, *space.typed])


def _check_files(cfg: DictConfig, overrides: list[str]) -> None:
    """Check the files that a trial reads and the directory of the search."""
    fold = values(overrides, "data.fold")
    preflight.check_fold([cfg.data.folds], [cfg.data.fold], fold is not None)
    searched = {str(text).split("=", 1)[0] for text in cfg.sweep.get("space") or ()}
    if "distill.teacher" not in searched:
        preflight.check_teacher(cfg.distill.teacher)
    files = {f"data.{key}": cfg.data[key] for key in ("ferplus_csv", "drop_csv", "relabel_csv")}
    data_path = None if cfg.data.get("download") else cfg.data.path
    paths.check_exist({"data.path": data_path, **files, "model.weights": cfg.model.weights})
    paths.check_training_folder(str(cfg.hydra.run.dir))
    paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Run the cheap checks before Hydra creates the run directory; return further overrides."""
    for text in overrides:
        if text.startswith(("hydra/launcher", "hydra.launcher", "hydra.sweep")):
            raise UserError(
                f"'{text}' does not apply: a search runs one trial at a time in hydra.run.dir. "
                "Launchers are for python -m emotion_lab.train -m."
            )
    if cfg.resume is not None:
        search_spec.check_resume(Path(str(cfg.resume)), overrides)
        run_dir = quote(str(cfg.resume), interpolate=True)
        return [f"hydra.run.dir={run_dir}", "hydra.output_subdir=null"]
    _check_files(cfg, overrides)
    _check_options(cfg, overrides)
    return []


def sweep(cfg: DictConfig) -> float:
    """Run a search, or the learning-rate range test; return the best value or learning rate."""
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    if cfg.resume is None and cfg.sweep.name == "lr_find":
        # Hide the progress bar of Lightning's tuner in a pipe; tqdm reads this when imported.
        if not sys.stderr.isatty():
            os.environ.setdefault("TQDM_DISABLE", "1")
        from emotion_lab.experiments.tuning.lr_finder import find_lr

        return find_lr(compose.to_container(cfg), run_dir)
    from emotion_lab.experiments.tuning.search import search

    return search(cfg, list(hydra_cfg.overrides.task), run_dir)


def main() -> None:
    """Entry point of ``emotion-lab sweep``."""
    try:
        sys.argv[1:] = spaces.gather(sys.argv[1:])
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        app.fail(error)
    app.run("sweep", sweep, validate, RESULTS)


if __name__ == "__main__":
    main()
