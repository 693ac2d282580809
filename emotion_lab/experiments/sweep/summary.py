"""What a sweep found: a row a job, groups over seeds, and the best by val."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.experiments.sweep.subprocess_job import FILE, JobResult, read

#: Scores of val that a row shows.
SCORES = ("accuracy", "macro_f1", "loss")
_COLUMNS = (
    *("job", "overrides", "seed", "status", "reason", "value"),
    *(f"val_{name}" for name in SCORES),
    *("epochs", "seconds", "folder"),
)


def _number(outcome: JobResult) -> tuple[int, str]:
    name = outcome.folder.name
    return (int(name) if name.isdigit() else 10**9, name)


def _outcome(folder: Path) -> JobResult:
    """Return what a job said of itself; one that cannot be read has no result."""
    try:
        found = read(folder)
    except UserError as error:
        return JobResult(folder, [], "failed", str(error), None, 0.0)
    assert found is not None, "its file is there"
    return found


def outcomes(folder: Path) -> list[JobResult]:
    """Return every job of a sweep folder, in order; one that never ended was killed."""
    jobs = sorted((_outcome(file.parent) for file in folder.glob(f"*/{FILE}")), key=_number)
    for job in jobs:
        if job.status == "running":
            job.status, job.reason = "killed", "the sweep was killed while it ran"
        elif job.status == "finished":
            try:
                runs.read(job.folder)
            except UserError as error:
                job.status, job.reason, job.value = "failed", str(error), None
    return jobs


def rows(jobs: Sequence[JobResult]) -> list[dict[str, Any]]:
    """Return a row for each job; scores are None where it did not finish."""
    result = []
    for job in jobs:
        row: dict[str, Any] = dict.fromkeys(_COLUMNS)
        row |= {"job": job.folder.name, "overrides": shlex.join(job.overrides)}
        row |= {"status": job.status, "reason": job.reason, "value": job.value}
        row |= {"seconds": job.seconds, "folder": job.folder.name}
        if job.status == "finished":
            run = runs.read(job.folder)
            row["seed"], row["epochs"] = run.seed, run.metrics["epochs"]
            row |= {f"val_{name}": run.metrics["val"][name] for name in SCORES}
        else:
            row["seed"] = next((t.split("=")[1] for t in job.overrides if _is_seed(t)), None)
        result.append(row)
    return result


def _is_seed(text: str) -> bool:
    return text.lstrip("+").startswith("seed=")


def _over(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, std (None for one value) and range of a score over seeds."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "max": max(values),
    }


def groups(jobs: Sequence[JobResult], found: Sequence[dict[str, Any]], mode: str) -> list[dict]:
    """Return the jobs that differ in their seed alone, together; the best by val comes first.

    Args:
        jobs: Of the sweep.
        found: Their rows.
        mode: ``max`` or ``min``: what is better.
    """
    together: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job, row in zip(jobs, found, strict=True):
        key = tuple(text for text in job.overrides if not _is_seed(text))
        together.setdefault(key, []).append(row)
    result = []
    for key, members in together.items():
        # The same settings and seed again are the same run: of equal ones the last counts.
        seeds = {row["seed"]: row for row in members if row["status"] == "finished"}
        done = list(seeds.values())
        twice = sum(row["status"] == "finished" for row in members) - len(done)
        group: dict[str, Any] = {
            "overrides": list(key),
            "n": len(done),
            "failed": len(members) - len(done) - twice,
            "repeated": twice,
            "seeds": [row["seed"] for row in done],
            "jobs": [row["job"] for row in members],
            "seconds": round(sum(row["seconds"] for row in members), 3),
        }
        for name in ("value", *(f"val_{score}" for score in SCORES)):
            group[name] = _over([row[name] for row in done]) if done else None
        result.append(group)
    sign = -1 if mode == "max" else 1
    return sorted(
        result, key=lambda g: (g["value"] is None, sign * g["value"]["mean"] if g["value"] else 0)
    )


def write(folder: Path) -> dict[str, Any]:
    """Write ``summary.csv`` and ``summary.json`` of a sweep folder.

    Returns:
        The content of ``summary.json``: ``monitor``, ``mode``, ``jobs`` (counts by status),
        ``groups`` (over seeds: mean, std, n), ``best`` (the best single job), ``seconds``.
    """
    jobs = outcomes(folder)
    found = rows(jobs)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _COLUMNS)
    table.writeheader()
    table.writerows(found)
    atomic_write(folder / "summary.csv", text.getvalue().encode())
    done = [runs.read(job.folder) for job in jobs if job.status == "finished"]
    monitor = done[0].config["monitor"] if done else None
    mode = done[0].mode if done else "max"
    best = None
    if done:
        pick = max if mode == "max" else min
        best = pick((row for row in found if row["status"] == "finished"), key=lambda r: r["value"])
    counts: dict[str, int] = {"all": len(jobs)}
    for job in jobs:
        counts[job.status] = counts.get(job.status, 0) + 1
    summary = {
        "monitor": monitor,
        "mode": mode,
        "jobs": counts,
        "groups": groups(jobs, found, mode),
        "best": best,
        "seconds": round(sum(job.seconds for job in jobs), 3),
    }
    content = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    atomic_write(folder / "summary.json", content.encode())
    return summary


def _score(over: dict[str, Any] | None) -> str:
    if over is None:
        return "-"
    spread = "" if over["std"] is None else f" ± {over['std']:.4f}"
    return f"{over['mean']:.4f}{spread}"


def _names(group: dict[str, Any], common: set[str]) -> str:
    """Return the overrides that tell a group from the others."""
    own = [text for text in group["overrides"] if text not in common]
    return " ".join(own) or "(all alike)"


def lines(folder: Path, summary: dict[str, Any]) -> list[str]:
    """Return the summary as a table for the terminal, what failed, and the best."""
    found = summary["groups"]
    common = set.intersection(*(set(group["overrides"]) for group in found)) if found else set()
    names = [_names(group, common) for group in found]
    width = max([8, *map(len, names)])
    title = summary["monitor"] or "value"
    shown = [
        f"{'over seeds':<{width}}  {'n':>2}  {title:<17}  {'val/accuracy':<17}  {'seconds':>8}"
    ]
    for group, name in zip(found, names, strict=True):
        failed = f"  {group['failed']} without result" if group["failed"] else ""
        if group["repeated"]:
            failed += f"  {group['repeated']} not counted: the same settings and seed again"
        shown.append(
            f"{name:<{width}}  {group['n']:>2}  {_score(group['value']):<17}  "
            f"{_score(group['val_accuracy']):<17}  {group['seconds']:>8.1f}{failed}"
        )
    for job in outcomes(folder):
        if job.status != "finished":
            own = " ".join(text for text in job.overrides if text not in common)
            shown.append(f"job {job.folder.name} {job.status}: {job.reason} ({own})")
    if summary["best"] is not None:
        best = summary["best"]
        place = folder / best["folder"]
        shown.append(f"best by val: job {best['job']}, {title} {best['value']:.4f}, {place}")
    return shown
