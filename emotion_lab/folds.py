"""Pool the folds of a cross-validation: ``python -m emotion_lab.folds runs=<sweep folder>``."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab import checks, config, runs
from emotion_lab.errors import UserError

RESULTS = ("folds.json", "metrics.json")


def places(cfg: DictConfig) -> list[Path]:
    """Return what ``runs=`` names.

    Raises:
        UserError: If it is nothing.
    """
    given = [Path(path) for path in checks.paths(cfg.runs)]
    if not given:
        raise UserError("runs is missing: give the folder of a sweep over data.fold, runs=<path>.")
    return given


def prepare(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Look at the runs, which takes no second, before Hydra makes the run folder."""
    from emotion_lab.evaluation.folds import pool

    pool(runs.find(places(cfg)))
    if not str(cfg.hydra.mode or "").endswith("MULTIRUN"):
        checks.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def folds(cfg: DictConfig) -> float:
    """Pool, write the results, print them; returns the accuracy out-of-fold."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.evaluation.folds import lines, pool, write

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    typed = shlex.join(["python", "-m", "emotion_lab.folds", *hydra_cfg.overrides.task])
    found = write(pool(runs.find(places(cfg))), run_dir, typed)
    print("\n".join(lines(found)))
    print(run_dir)
    return float(found["accuracy"])


def main() -> None:
    """Entry point of ``emotion-folds``."""
    config.run("folds", folds, prepare, RESULTS)


if __name__ == "__main__":
    main()
