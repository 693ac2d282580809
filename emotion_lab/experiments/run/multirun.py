"""Jobs of ``train -m``: each job runs in its own process; a summary follows the last one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.config.overrides import choices, override_key, parse
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.tables import show
from emotion_lab.experiments.run.checks import swept_keys
from emotion_lab.experiments.sweep import directory


class IncompleteSweepError(UserError):
    """Some jobs of a sweep have no result."""

    exit_code = 1


#: Reason why a job has no result -> job of this sweep whose line shows it. Empty with a launcher
#: that runs the jobs in other processes, whose output may be elsewhere.
_printed: dict[str, str] = {}


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
    from emotion_lab.experiments.sweep import subprocess_job, summary

    sweep_dir = directory.directory_of(overrides)
    n = math.prod(len(choices(override)) for override in parse(directory.read(sweep_dir) or []))
    print(
        f"{n} job{'s' * (n != 1)}; the output of each is in {sweep_dir}/<job>/{subprocess_job.LOG}",
        flush=True,
    )
    with paths.locked_run_dir(sweep_dir, key="hydra.sweep.dir"):
        try:
            yield
        finally:
            content = summary.write(sweep_dir)
            show(*summary.lines(sweep_dir, content, _printed), str(sweep_dir))
            _printed.clear()
    counts = content["jobs"]
    missing = counts["all"] - counts.get("finished", 0)
    if missing:
        raise IncompleteSweepError(
            f"{missing} of {counts['all']} jobs have no result; see the reasons above and in "
            f"{sweep_dir / 'summary.csv'}. Add sweep.resume=true to the command to run only these."
        )


def run_job(cfg: DictConfig, overrides: list[str], run_dir: Path, sweep_dir: Path) -> float:
    """Run one job of a sweep in its own process and print one line about it.

    Returns:
        Its best value of the monitored metric, NaN without a result.
    """
    from emotion_lab.experiments.sweep import subprocess_job

    job_overrides = directory.job_overrides(overrides)
    try:
        check_single_device(cfg.trainer)
    except UserError as error:
        job = subprocess_job.JobResult(run_dir, job_overrides, "failed", str(error), None, 0.0)
        job.save()
    else:
        job = subprocess_job.run(job_overrides, run_dir)
    swept = swept_keys(directory.read(sweep_dir) or [])
    settings = " ".join(text for text in job_overrides if override_key(text) in swept)
    if job.value is None:
        first = _printed.setdefault(str(job.reason), run_dir.name)
        reason = job.reason if first == run_dir.name else f"the same reason as job {first}"
        result = f"{job.status} after {job.seconds:.1f} s: {reason}"
    else:
        result = f"{cfg.monitor} {job.value:.4f}, {job.seconds:.1f} s"
    parts = ", ".join(filter(None, (settings, result)))
    # One write, so that the lines of parallel jobs do not mix.
    print(f"job {run_dir.name}: {parts}\n", end="", flush=True)
    return math.nan if job.value is None else job.value
