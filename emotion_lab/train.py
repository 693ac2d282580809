"""Train: ``python -m emotion_lab.train model=senet loss=weighted_ce``."""

from __future__ import annotations

import contextlib
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app, preflight
from emotion_lab.config import compose
from emotion_lab.config.overrides import check_different, values
from emotion_lab.core import distributed
from emotion_lab.core.console_log import console_log
from emotion_lab.experiments import criterion
from emotion_lab.experiments.run import checks, multirun, resume
from emotion_lab.experiments.sweep import directory

#: Results of a finished run; a run directory that holds one is refused.
RESULTS = ("checkpoints/last.ckpt", "metrics.json")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Check the command before Hydra creates the run directory; return further overrides."""
    is_multirun = compose.is_multirun(cfg.hydra)
    checks.check_sweep_options(cfg, overrides, is_multirun)
    if is_multirun:
        multirun.check_single_device(cfg.trainer)
        preflight.check_launcher(cfg.hydra)
        check_different(overrides)
    if cfg.reproduce is not None:
        checks.check_reproduce(cfg, overrides, is_multirun, RESULTS)
        return []
    if cfg.resume is not None:
        return resume.check_resume(cfg, overrides, is_multirun)
    swept = checks.swept_keys(overrides)
    if "distill.teacher" not in swept:
        preflight.check_teacher(cfg.distill.teacher)
    folds, fold = (values(overrides, f"data.{key}") for key in ("folds", "fold"))
    preflight.check_fold(folds or [cfg.data.folds], fold or [cfg.data.fold], fold is not None)
    checks.check_inputs(cfg, swept)
    checks.check_balance(cfg, overrides)
    checks.check_rates(cfg, overrides)
    if is_multirun:
        for monitor in values(overrides, "monitor") or [cfg.monitor]:
            criterion.check_searched(str(monitor), swept)
        return [directory.directory_override(directory.open_directory(cfg, overrides))]
    checks.check_new_run_dir(Path(str(cfg.hydra.run.dir)))
    return []


def train(cfg: DictConfig) -> float:
    """Train, evaluate the best checkpoint on val (and test if asked); return the best metric."""
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    run_dir, overrides = Path(hydra_cfg.runtime.output_dir), list(hydra_cfg.overrides.task)
    if compose.is_multirun(hydra_cfg):
        # Before torch is imported: the process of the job does that.
        return multirun.run_job(cfg, overrides, run_dir, Path(hydra_cfg.sweep.dir))

    log = console_log(run_dir / "train.log")
    with log if distributed.is_rank_zero() else contextlib.nullcontext():
        from emotion_lab.experiments.run.training import run_training

        return run_training(cfg, overrides, run_dir)


def main() -> None:
    """Entry point of ``emotion-lab train``."""
    app.run("train", train, validate, RESULTS, multirun.locked_sweep)


if __name__ == "__main__":
    main()
