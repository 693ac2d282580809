"""Pool the folds of a cross-validation: ``python -m emotion_lab.crossval runs=<sweep folder>``."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.core import paths, runs
from emotion_lab.core.errors import UserError

RESULTS = ("folds.json", "metrics.json")


def run_paths(cfg: DictConfig) -> list[Path]:
    """Return what ``runs=`` names.

    Raises:
        UserError: If it is nothing.
    """
    given = [Path(path) for path in paths.as_list(cfg.runs)]
    if not given:
        raise UserError("runs is missing: give the folder of a sweep over data.fold, runs=<path>.")
    return given


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Look at the runs, which takes no second, before Hydra makes the run folder."""
    from emotion_lab.experiments.crossval.pool import pool

    pool(runs.find(run_paths(cfg)))
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def crossval(cfg: DictConfig) -> float:
    """Pool, write the results, print them; returns the accuracy out-of-fold."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.experiments.crossval.pool import lines, pool, write

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    typed = shlex.join(["python", "-m", "emotion_lab.crossval", *hydra_cfg.overrides.task])
    found = write(pool(runs.find(run_paths(cfg))), run_dir, typed)
    print("\n".join(lines(found)))
    print(run_dir)
    return float(found["accuracy"])


def main() -> None:
    """Entry point of ``emotion-crossval``."""
    app.run("crossval", crossval, validate, RESULTS)


if __name__ == "__main__":
    main()
