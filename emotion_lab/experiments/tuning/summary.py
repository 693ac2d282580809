"""What a search found: a row a trial, the best by val, and what to type next."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from emotion_lab.config.overrides import quote
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.experiments.sweep.subprocess_job import read
from emotion_lab.experiments.tuning import runner as t
from emotion_lab.experiments.tuning import study as studies
from emotion_lab.experiments.tuning.space import Space
from emotion_lab.experiments.tuning.spec import SearchSpec

#: Scores of val that a row shows.
SCORES = ("accuracy", "macro_f1", "loss")
#: How many trials the printed table shows.
SHOWN = 10


def _row(trial: FrozenTrial, space: Space, asked: SearchSpec, folder: Path) -> dict[str, Any]:
    """Return the row of a trial; scores are None where it did not finish."""
    notes = trial.user_attrs
    own = notes.get(t.OVERRIDES, [])
    row: dict[str, Any] = {"trial": trial.number, "status": notes.get(t.STATUS), "value": None}
    row |= {f"val_{name}": None for name in SCORES}
    row |= {"epochs": len(trial.intermediate_values) or None, "seed": None}
    row |= {"seconds": notes.get(t.SECONDS), "reason": notes.get(t.REASON)}
    chosen = dict(text.split("=", 1) for text in own)
    row |= {d.key: chosen.get(d.key) for d in space.dimensions}
    row |= {"overrides": shlex.join([*space.fixed, *own]), "folder": str(trial.number)}
    if trial.state == TrialState.RUNNING:
        left = read(folder / str(trial.number))
        cut = left is None or left.status == "running"
        row["status"] = "killed" if cut else left.status
        row["reason"] = "cut off; resume= goes on with it" if cut else left.reason
        row["seconds"] = None if left is None else left.seconds
    if row["status"] == "repeated":
        row |= {"value": trial.value, "folder": str(notes[t.SAME]), "seconds": 0.0}
        row["reason"] = f"the same settings as trial {notes[t.SAME]}"
    elif trial.intermediate_values:
        row["value"] = trial.intermediate_values[max(trial.intermediate_values)]
    if trial.state == TrialState.COMPLETE:
        row["value"] = trial.value
        try:
            run = runs.read(folder / row["folder"])
        except UserError as error:
            # The study knows its value still, and goes on.
            row["reason"] = str(error)
            return row
        row |= {f"val_{name}": run.metrics["val"][name] for name in SCORES}
        row |= {"epochs": run.metrics["epochs"], "seed": run.seed}
    return row


def rows(
    study: optuna.Study, space: Space, asked: SearchSpec, folder: Path
) -> list[dict[str, Any]]:
    """Return a row for each trial, in order."""
    found = study.get_trials(deepcopy=False)
    return [_row(trial, space, asked, folder) for trial in found]


def ranked(found: list[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
    """Return the trials that finished, the best by val first."""
    done = [row for row in found if row["status"] == "finished"]
    return sorted(done, key=lambda row: row["value"], reverse=mode == "max")


def _commands(best: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return what to type next, ready for a shell."""
    typed = shlex.split(best["overrides"])
    typed = [text for text in typed if not text.startswith("seed=")]
    ckpt = quote(str(folder / best["folder"])) if " " in str(folder) else folder / best["folder"]
    return {
        "evaluate": shlex.join(
            ["python", "-m", "emotion_lab.evaluate", f"ckpt={ckpt}", "split=val"]
        ),
        "over_seeds": shlex.join(
            ["python", "-m", "emotion_lab.train", "-m", *typed, "seed=1,2,3"],
        ),
    }


def write(
    study: optuna.Study, space: Space, asked: SearchSpec, folder: Path, whole: bool
) -> dict[str, Any]:
    """Write ``summary.csv`` and ``summary.json``.

    Args:
        study: The study.
        space: What is searched.
        asked: What was asked for.
        folder: Of the search.
        whole: Also reckon what mattered, which takes seconds.

    Returns:
        The content of ``summary.json``: ``monitor``, ``mode``, ``trials`` (counts by status),
        ``best`` (the best trial), ``commands``, ``importances``, ``space``, ``seconds``.
    """
    found = rows(study, space, asked, folder)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(found[0]) if found else ["trial"])
    table.writeheader()
    table.writerows(found)
    atomic_write(folder / "summary.csv", text.getvalue().encode())
    counts: dict[str, int] = {"all": len(found), "asked": asked.sweep["trials"]}
    for row in found:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    best = next(iter(ranked(found, asked.mode)), None)
    summary = {
        "monitor": asked.monitor,
        "mode": asked.mode,
        "trials": counts,
        "best": best,
        "commands": None if best is None else _commands(best, folder),
        "importances": studies.importances(study) if whole else None,
        "space": asked.space,
        "seconds": round(sum(row["seconds"] or 0.0 for row in found), 3),
    }
    content = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    atomic_write(folder / "summary.json", content.encode())
    return summary


def _settings(row: dict[str, Any], space: Space) -> str:
    return " ".join(f"{d.key}={row[d.key]}" for d in space.dimensions if row[d.key] is not None)


def _accuracy(row: dict[str, Any]) -> str:
    return "its files lost" if row["val_accuracy"] is None else f"{row['val_accuracy']:.4f}"


def lines(
    found: list[dict[str, Any]], summary: dict[str, Any], space: Space, folder: Path
) -> list[str]:
    """Return the summary for the terminal: the best trials, what failed, what to type next."""
    counts, monitor = summary["trials"], summary["monitor"]
    names = ("finished", "pruned", "repeated", "failed", "killed", "stopped")
    parts = [f"{counts[name]} {name}" for name in names if name in counts]
    shown = [f"{counts['all']} of {counts['asked']} trials: {', '.join(parts) or 'none'}"]
    best = ranked(found, summary["mode"])
    width = max([len(monitor), 8])
    if best:
        shown.append(
            f"\n{'trial':>5}  {monitor:>{width}}  {'val/accuracy':>12}  {'s':>7}  settings"
        )
    for row in best[:SHOWN]:
        shown.append(
            f"{row['trial']:>5}  {row['value']:>{width}.4f}  {_accuracy(row):>12}  "
            f"{row['seconds']:>7.1f}  {_settings(row, space)}"
        )
    if len(best) > SHOWN:
        shown.append(f"       {len(best) - SHOWN} more in summary.csv")
    for row in found:
        if row["status"] in ("failed", "killed", "stopped"):
            reason = f"{row['reason']} ({_settings(row, space)})"
            shown.append(f"trial {row['trial']} {row['status']}: {reason}")
    if summary["importances"]:
        parts = [f"{name} {100 * share:.0f} %" for name, share in summary["importances"].items()]
        shown.append(f"\nwhat mattered (fANOVA over the finished trials): {', '.join(parts)}")
    elif 0 < len(best) < studies.LEAST:
        shown.append(f"\nwhat mattered is not known: it takes {studies.LEAST} finished trials")
    if best:
        # Chosen as the best of many on val, its own score flatters it.
        shown.append(
            f"\nbest by val: trial {best[0]['trial']}, {monitor} {best[0]['value']:.4f}, the best "
            f"of {len(best)}: over new seeds expect less"
        )
        commands = summary["commands"]
        shown.append(f"look at it with:\n  {commands['evaluate']}")
        shown.append(f"train it over seeds with:\n  {commands['over_seeds']}")
    return shown
