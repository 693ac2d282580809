"""Pool the folds of a cross-validation: ``python -m emotion_lab.crossval runs=<sweep>``."""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.cli import app
from emotion_lab.config import compose
from emotion_lab.config.overrides import as_typed
from emotion_lab.core import paths, runs

RESULTS = ("folds.json", "metrics.json")


def validate(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Read and check the folds, which takes less than a second, before a directory is created."""
    from emotion_lab.experiments.crossval.pool import pool

    pool(runs.find(paths.as_list(cfg.runs)))
    if not compose.is_multirun(cfg.hydra):
        paths.check_fresh(str(cfg.hydra.run.dir), *RESULTS)
    return []


def crossval(cfg: DictConfig) -> float:
    """Pool the folds, write and print the results; return the out-of-fold accuracy."""
    from hydra.core.hydra_config import HydraConfig

    from emotion_lab.core.tables import show
    from emotion_lab.experiments.crossval.pool import pool
    from emotion_lab.experiments.crossval.report import lines, write

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    command = shlex.join(
        ["python", "-m", "emotion_lab.crossval", *as_typed(hydra_cfg.overrides.task)]
    )
    content = write(pool(runs.find(paths.as_list(cfg.runs))), run_dir, command)
    show(*lines(content), str(run_dir))
    return float(content["accuracy"])


def main() -> None:
    """Entry point of ``emotion-lab crossval``."""
    app.run("crossval", crossval, validate, RESULTS)


if __name__ == "__main__":
    main()
