"""Summary of a search: one row per trial, the best by val, and commands to continue with."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from emotion_lab.config.overrides import as_typed
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.tables import TextTable, write_csv
from emotion_lab.experiments.sweep import subprocess_job
from emotion_lab.experiments.sweep.summary import METRICS, unfinished
from emotion_lab.experiments.tuning import runner
from emotion_lab.experiments.tuning import study as studies
from emotion_lab.experiments.tuning.space import Space
from emotion_lab.experiments.tuning.spec import SearchSpec

#: Maximum number of trials in the printed table.
MAX_ROWS = 10


def _row(trial: FrozenTrial, space: Space, folder: Path) -> dict[str, Any]:
    """Return the row of a trial; metrics are None if it did not finish."""
    attributes = trial.user_attrs
    overrides = attributes.get(runner.OVERRIDES, [])
    settings = dict(text.split("=", 1) for text in overrides)
    row: dict[str, Any] = {
        "trial": trial.number,
        "status": attributes.get(runner.STATUS),
        "value": None,
        **{f"val_{name}": None for name in METRICS},
        "epochs": len(trial.intermediate_values) or None,
        "seed": None,
        "seconds": attributes.get(runner.SECONDS),
        "reason": attributes.get(runner.REASON),
        **{d.key: settings.get(d.key) for d in space.dimensions},
        "overrides": shlex.join([*space.fixed, *overrides]),
        "folder": str(trial.number),
    }
    if trial.state == TrialState.RUNNING:
        job = subprocess_job.read(folder / str(trial.number))
        if job is None or job.status == "running":
            row |= {"status": "killed", "reason": "interrupted; resume= continues it"}
        else:
            row |= {"status": job.status, "reason": job.reason}
        row["seconds"] = None if job is None else job.seconds
    if row["status"] == "repeated":
        first = attributes[runner.SAME_AS]
        row |= {"value": trial.value, "folder": str(first), "seconds": 0.0}
        row["reason"] = f"same settings as trial {first}"
    elif trial.intermediate_values:
        row["value"] = trial.intermediate_values[max(trial.intermediate_values)]
    if trial.state == TrialState.COMPLETE:
        row["value"] = trial.value
        try:
            run = runs.read(folder / row["folder"])
        except UserError as error:
            # The value is still in the study, so the search can continue.
            row["reason"] = str(error)
            return row
        row |= {f"val_{name}": run.metrics["val"][name] for name in METRICS}
        row |= {"epochs": run.metrics["epochs"], "seed": run.seed}
    return row


def ranked(rows: list[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
    """Return the rows of finished trials, the best by val first; equal values by number."""
    finished = [row for row in rows if row["status"] == "finished"]
    return sorted(finished, key=lambda row: row["value"], reverse=mode == "max")


def _commands(best: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return shell commands that evaluate the best trial and repeat it with several seeds."""
    overrides = [text for text in shlex.split(best["overrides"]) if not text.startswith("seed=")]
    ckpt = folder / best["folder"]
    python = ["python", "-m"]
    return {
        "evaluate": shlex.join([*python, "emotion_lab.evaluate", f"ckpt={ckpt}", "split=val"]),
        "over_seeds": shlex.join(
            [*python, "emotion_lab.train", "-m", *as_typed(overrides), "seed=1,2,3"]
        ),
    }


def write(
    study: optuna.Study, space: Space, spec: SearchSpec, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write ``summary.csv`` and ``summary.json``.

    Returns:
        The content of ``summary.json``: ``monitor``, ``mode``, ``trials`` (counts by status),
        ``best`` (row of the best trial), ``commands``, ``importances``, ``space``, ``seconds``;
        and the rows of ``summary.csv``.
    """
    rows = [_row(trial, space, folder) for trial in study.get_trials(deepcopy=False)]
    write_csv(folder / "summary.csv", list(rows[0]) if rows else ["trial"], rows)
    counts = Counter(row["status"] for row in rows)
    best = next(iter(ranked(rows, spec.mode)), None)
    summary = {
        "monitor": spec.monitor,
        "mode": spec.mode,
        "trials": {"all": len(rows), "asked": spec.sweep["trials"], **counts},
        "best": best,
        "commands": None if best is None else _commands(best, folder),
        "importances": studies.importances(study),
        "space": spec.space,
        "seconds": round(sum(row["seconds"] or 0.0 for row in rows), 3),
    }
    write_json(folder / "summary.json", summary)
    return summary, rows


def _settings(row: dict[str, Any], space: Space) -> str:
    return " ".join(f"{d.key}={row[d.key]}" for d in space.dimensions if row[d.key] is not None)


def _table(finished: list[dict[str, Any]], monitor: str, space: Space) -> TextTable:
    cells = [
        [
            row["trial"],
            f"{row['value']:.4f}",
            "files missing" if row["val_accuracy"] is None else f"{row['val_accuracy']:.4f}",
            f"{row['seconds']:.1f}",
            _settings(row, space),
        ]
        for row in finished[:MAX_ROWS]
    ]
    return TextTable(["trial", monitor, "val/accuracy", "seconds", "settings"], cells, left=(4,))


def lines(
    summary: dict[str, Any], rows: list[dict[str, Any]], space: Space, printed: Collection[str] = ()
) -> list[str | TextTable]:
    """Return the printed summary: best trials, failed trials, importances, next commands.

    ``printed`` are the reasons of failed trials that are not repeated.
    """
    counts, monitor = summary["trials"], summary["monitor"]
    names = ("finished", "pruned", "repeated", "failed", "killed", "stopped")
    by_status = ", ".join(f"{counts[name]} {name}" for name in names if name in counts)
    text: list[str | TextTable] = [
        f"\n{counts['all']} of {counts['asked']} trials: {by_status or 'none'}"
    ]
    finished = ranked(rows, summary["mode"])
    if finished:
        text += ["", _table(finished, monitor, space)]
    if len(finished) > MAX_ROWS:
        text.append(f"... and {len(finished) - MAX_ROWS} more in summary.csv")
    failed = [
        (str(row["trial"]), row["status"], row["reason"], _settings(row, space))
        for row in rows
        if row["status"] in ("failed", "killed", "stopped")
    ]
    text += unfinished("trial", failed, printed)
    if summary["importances"]:
        parts = [f"{name} {100 * value:.0f} %" for name, value in summary["importances"].items()]
        text.append(f"\nimportances (fANOVA over completed trials): {', '.join(parts)}")
    elif 0 < len(finished) < studies.MIN_TRIALS:
        text.append(f"\nimportances: not estimated below {studies.MIN_TRIALS} completed trials")
    if finished:
        best, expected = finished[0], "lower" if summary["mode"] == "max" else "higher"
        text += [
            f"\nbest by val: trial {best['trial']}, {monitor} {best['value']:.4f}, the best of "
            f"{len(finished)}: expect {expected} values with new seeds",
            f"evaluate it:\n  {summary['commands']['evaluate']}",
            f"repeat it with several seeds:\n  {summary['commands']['over_seeds']}",
        ]
    return text
