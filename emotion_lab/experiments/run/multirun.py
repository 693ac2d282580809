"""Jobs of ``train -m``: each job runs in its own process; a summary follows the last one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.tables import show
from emotion_lab.experiments.sweep import directory


class IncompleteSweepError(UserError):
    """Some jobs of a sweep have no result."""

    exit_code = 1


def check_single_device(trainer: DictConfig) -> None:
    """Refuse sweep jobs that use several devices."""
    if trainer.devices != 1 or trainer.num_nodes > 1:
        raise UserError(
            f"-m with trainer.devices={trainer.devices}, trainer.num_nodes={trainer.num_nodes}: "
            "a sweep runs one device a job. Set trainer.devices=1, or run the jobs without -m."
        )


@contextlib.contextmanager
def locked_sweep(overrides: list[str]) -> Iterator[None]:
    """Lock the sweep directory while the jobs run; write and print the summary at the end."""
    from emotion_lab.experiments.sweep import summary

    sweep_dir = directory.directory_of(overrides)
    with paths.locked_run_dir(sweep_dir, key="hydra.sweep.dir"):
        try:
            yield
        finally:
            content = summary.write(sweep_dir)
            show(*summary.lines(sweep_dir, content), str(sweep_dir))
    counts = content["jobs"]
    missing = counts["all"] - counts.get("finished", 0)
    if missing:
        raise IncompleteSweepError(
            f"{missing} of {counts['all']} jobs have no result; see the reasons above and in "
            f"{sweep_dir / 'summary.csv'}. Add sweep.resume=true to the command to run only these."
        )


def run_job(cfg: DictConfig, overrides: list[str], run_dir: Path) -> float:
    """Run one sweep job in its own process; return its score, NaN without a result."""
    from emotion_lab.experiments.sweep import subprocess_job

    job_overrides = directory.job_overrides(overrides)
    try:
        check_single_device(cfg.trainer)
    except UserError as error:
        failed = subprocess_job.JobResult(run_dir, job_overrides, "failed", str(error), None, 0.0)
        failed.save()
        return math.nan
    result = subprocess_job.run(job_overrides, run_dir)
    return math.nan if result.value is None else result.value
