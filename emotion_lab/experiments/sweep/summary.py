"""Summary of a grid sweep: one row per job, mean and std over seeds, and the best job by val.

Jobs are ranked only if they have the same monitor and were scored on the same val images.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.tables import TextTable, write_csv
from emotion_lab.evaluation.statistics import mean_std, mean_std_text
from emotion_lab.experiments import criterion
from emotion_lab.experiments.leaderboard.grouping import SCORES, fingerprint
from emotion_lab.experiments.sweep.subprocess_job import FILE, JobResult, read

#: Metrics of val in each row.
METRICS = ("accuracy", "macro_f1", "loss")
#: Jobs without result that a line of the printed summary names.
_NAMED = 8
_COLUMNS = (
    *("job", "overrides", "seed", "status", "reason", "monitor", "value"),
    *(f"val_{name}" for name in METRICS),
    *("epochs", "seconds", "folder"),
)


def _sort_key(job: JobResult) -> tuple[int, str]:
    name = job.folder.name
    return (int(name) if name.isdigit() else 10**9, name)


def _read_job(folder: Path) -> JobResult:
    """Read a job; one whose file is damaged counts as failed."""
    try:
        job = read(folder)
    except UserError as error:
        return JobResult(folder, [], "failed", str(error), None, 0.0)
    assert job is not None  # the caller has found its file
    return job


def read_jobs(folder: Path) -> list[JobResult]:
    """Read all jobs of a sweep directory in order; one that is still running was killed."""
    jobs = sorted((_read_job(file.parent) for file in folder.glob(f"*/{FILE}")), key=_sort_key)
    for job in jobs:
        if job.status == "running":
            job.status, job.reason = "killed", "the sweep was killed while this job was running"
        elif job.status == "finished":
            try:
                runs.read(job.folder)
            except UserError as error:
                job.status, job.reason, job.value = "failed", str(error), None
    return jobs


def _row(job: JobResult) -> dict[str, Any]:
    """Return the row of a job; metrics are None if it did not finish."""
    row: dict[str, Any] = dict.fromkeys(_COLUMNS)
    row |= {"job": job.folder.name, "overrides": shlex.join(job.overrides)}
    row |= {"status": job.status, "reason": job.reason, "value": job.value}
    row |= {"seconds": job.seconds, "folder": job.folder.name}
    if job.status == "finished":
        run = runs.read(job.folder)
        row["seed"], row["epochs"] = run.seed, run.metrics["epochs"]
        row["monitor"] = run.config["monitor"]
        row |= {f"val_{name}": run.metrics["val"][name] for name in METRICS}
    else:
        row["seed"] = next((t.split("=")[1] for t in job.overrides if _is_seed(t)), None)
    return row


def _is_seed(override: str) -> bool:
    return override.lstrip("+").startswith("seed=")


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, std (None for one value), min and max."""
    statistics = mean_std(values)
    return {key: statistics[key] for key in ("mean", "std", "min", "max")}


def _groups(
    jobs: Sequence[JobResult], rows: Sequence[dict[str, Any]], mode: str | None
) -> list[dict[str, Any]]:
    """Group jobs that differ in their seed only.

    The best group by val comes first; without a ``mode`` they are in the order of the jobs.
    """
    by_overrides: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job, row in zip(jobs, rows, strict=True):
        key = tuple(text for text in job.overrides if not _is_seed(text))
        by_overrides.setdefault(key, []).append(row)
    groups = []
    for overrides, members in by_overrides.items():
        finished = [row for row in members if row["status"] == "finished"]
        # The same settings and seed give the same run: only the last one counts.
        unique = list({row["seed"]: row for row in finished}.values())
        group: dict[str, Any] = {
            "overrides": list(overrides),
            "n": len(unique),
            "failed": len(members) - len(finished),
            "repeated": len(finished) - len(unique),
            "monitor": unique[0]["monitor"] if unique else None,
            "seeds": [row["seed"] for row in unique],
            "jobs": [row["job"] for row in members],
            "seconds": round(sum(row["seconds"] for row in members), 3),
        }
        for name in ("value", *(f"val_{metric}" for metric in METRICS)):
            group[name] = _over_seeds([row[name] for row in unique]) if unique else None
        groups.append(group)
    sign = {"max": -1, "min": 1, None: 0}[mode]
    return sorted(
        groups, key=lambda g: (g["value"] is None, sign * g["value"]["mean"] if g["value"] else 0)
    )


def _not_ranked(finished: Sequence[runs.Run]) -> str | None:
    """Return why the finished jobs cannot be ranked, a sentence; None if they can."""
    monitors = sorted({f"{run.config['monitor']} ({run.mode})" for run in finished})
    if len(monitors) > 1:
        return f"not ranked: the jobs have different monitors, {' and '.join(monitors)}"
    if not criterion.is_comparable(finished):
        return (
            f"not ranked: the jobs measured {finished[0].config['monitor']} with different losses "
            "or class weights"
        )
    folds = {run.config.get("data", {}).get("fold") for run in finished}
    if len({fingerprint(run, "val").get("hash") for run in finished}) < 2 and len(folds) < 2:
        return None
    reason = "not ranked: the jobs were scored on different val images"
    if len(folds) > 1:
        reason += "; pool the folds with python -m emotion_lab.crossval runs=<sweep directory>"
    return reason


def write(folder: Path) -> dict[str, Any]:
    """Write ``summary.csv`` and ``summary.json`` of a sweep directory.

    Returns:
        The content of ``summary.json``: ``monitor``, ``mode``, ``jobs`` (counts by status),
        ``groups`` (mean, std and n over seeds), ``best`` (the best single job), ``not_ranked``
        (why the jobs cannot be ranked, or None), ``seconds`` (sum over all jobs). Jobs that cannot
        be ranked have no ``best``, and no ``monitor`` and ``mode`` but those of each group.
    """
    jobs = read_jobs(folder)
    rows = [_row(job) for job in jobs]
    write_csv(folder / "summary.csv", _COLUMNS, rows)
    finished = [row for row in rows if row["status"] == "finished"]
    trained = [runs.read(folder / row["folder"]) for row in finished]
    not_ranked = _not_ranked(trained)
    monitor, mode, best = None, None, None
    if finished and not_ranked is None:
        monitor, mode = trained[0].config["monitor"], trained[0].mode
        best = (max if mode == "max" else min)(finished, key=lambda row: row["value"])
    summary = {
        "monitor": monitor,
        "mode": mode,
        "jobs": {"all": len(jobs), **Counter(job.status for job in jobs)},
        "groups": _groups(jobs, rows, mode),
        "best": best,
        "not_ranked": not_ranked,
        "seconds": round(sum(job.seconds for job in jobs), 3),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _score(over_seeds: dict[str, Any] | None) -> str:
    return "-" if over_seeds is None else mean_std_text(over_seeds)


def _remark(group: dict[str, Any]) -> str:
    counts = {"without result": "failed", "not counted: same settings and seed": "repeated"}
    return ", ".join(f"{group[key]} {text}" for text, key in counts.items() if group[key])


def unfinished(
    kind: str, jobs: Sequence[tuple[str, str, str | None, str]], printed: Collection[str]
) -> list[str]:
    """Return a line for each status and reason of the jobs without result.

    Args:
        kind: ``job`` or ``trial``.
        jobs: Name, status, reason and settings of each.
        printed: Reasons that the lines of the jobs show already; they are not repeated.
    """
    names: dict[tuple[str, str | None], list[str]] = {}
    for name, status, reason, settings in jobs:
        shown = None if reason in printed else reason
        names.setdefault((status, shown), []).append(f"{name} ({settings})" if settings else name)
    text = []
    for (status, reason), found in names.items():
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        end = "; for the reason see above" if reason is None else f": {reason}"
        text.append(
            f"{kind}{'s' * (len(found) > 1)} {', '.join(found[:_NAMED])}{more} {status}{end}"
        )
    return text


def lines(
    folder: Path, summary: dict[str, Any], printed: Collection[str] = ()
) -> list[str | TextTable]:
    """Return the printed summary: scores over seeds, failed jobs, the best job.

    ``printed`` are the reasons of failed jobs that are not repeated, see :func:`unfinished`.
    """
    groups, monitor = summary["groups"], summary["monitor"]
    common = set.intersection(*(set(group["overrides"]) for group in groups)) if groups else set()

    def differing(overrides: Sequence[str]) -> str:
        return " ".join(text for text in overrides if text not in common)

    cells = [
        [
            differing(group["overrides"]) or "(same settings)",
            group["n"],
            _score(group["value"]) + (f" {group['monitor'] or ''}" if monitor is None else ""),
            _score(group["val_accuracy"]),
            f"{group['seconds']:.1f}",
            _remark(group),
        ]
        for group in groups
    ]
    header = ["settings", "seeds", monitor or "monitor", "val/accuracy", "seconds (sum)", ""]
    text: list[str | TextTable] = [
        "",
        TextTable(header, cells, left=(0, 5)),
        "mean ± standard deviation over seeds",
    ]
    failed = [
        (job.folder.name, job.status, job.reason, differing(job.overrides))
        for job in read_jobs(folder)
        if job.status != "finished"
    ]
    text += unfinished("job", failed, printed)
    if summary["best"] is not None:
        best = summary["best"]
        text.append(
            f"best single job by val: job {best['job']}, {monitor} {best['value']:.4f}, "
            f"{folder / best['folder']}"
        )
        if sum(group["n"] > 0 for group in groups) > 1:
            command = ["python", "-m", "emotion_lab.compare", f"runs={folder}"]
            if monitor.removeprefix("val/") not in SCORES:
                command.append("sort_by=macro_f1")
            text.append(f"compare them, with intervals:\n  {shlex.join(command)}")
    elif summary["not_ranked"]:
        text.append(summary["not_ranked"])
    return text
