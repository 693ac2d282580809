"""Report of a leaderboard: terminal lines, CSV, figures and an HTML page."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.resources
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from emotion_lab.core.io import atomic_write
from emotion_lab.core.tables import TextTable
from emotion_lab.core.wording import counted
from emotion_lab.evaluation.statistics import SAME, interval_text, mean_std_text
from emotion_lab.experiments.leaderboard import figures
from emotion_lab.experiments.leaderboard.grouping import SCORES, Configurations, clean, short, shown
from emotion_lab.reports import html
from emotion_lab.reports.style import both

#: Rows on the terminal, and columns of hyperparameters on the page; the CSV has all of them.
_MAX_ROWS = 20
MAX_COLUMNS = 24
_NONE = "–"


def format_p(p: float) -> str:
    """Return a p-value with its significant digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.01 else f"{p:.2f}"


def difference(row: dict[str, Any]) -> str:
    """Return the difference from the best configuration with its 95 % interval."""
    comparison = row["against_best"]
    if comparison is None:
        return ""
    return f"{comparison['difference']:+.4f} {interval_text(comparison['ci95'], sign='+')}"


def verdict(row: dict[str, Any]) -> str:
    """Return the verdict on a configuration."""
    return "best" if row["against_best"] is None else row["against_best"]["verdict"]


def seeds(row: dict[str, Any]) -> str:
    """Return the seeds of a configuration."""
    listed = ", ".join(map(str, row["seeds"][:8])) + (", …" if len(row["seeds"]) > 8 else "")
    return f"seed {listed} only" if len(row["seeds"]) == 1 else f"seeds {listed}"


def conclusion(result: dict[str, Any]) -> str:
    """Return the score of the best configuration and how many others are significantly worse."""
    best, others = result["groups"][0], result["groups"][1:]
    n = len(best["seeds"])
    over = "one seed" if n == 1 else f"mean ± std of {n} seeds"
    line = f"{mean_std_text(best[result['by']])} ({over}), n = {result['n']}"
    tied = sum(verdict(row) == SAME for row in others)
    if not others:
        return f"{line}; no other configuration to compare with"
    if len(others) == 1:
        return f"{line}; the other is {'not distinguishable' if tied else 'worse'}"
    if tied == len(others):
        return f"{line}; the {tied} others are not distinguishable from it"
    if tied:
        return f"{line}; {tied} of the other {len(others)} are not distinguishable from it"
    return f"{line}; all {len(others)} others are worse"


def sentence(result: dict[str, Any]) -> str:
    """Return the best configuration with its score, sample sizes and significance."""
    name = figures.shorten(result["groups"][0]["name"], 120)
    return f"best by val {SCORES[result['by']]}: {name}, {conclusion(result)}"


def _score_table(result: dict[str, Any]) -> TextTable:
    by = result["by"]
    other = next(score for score in SCORES if score != by)
    latency = result["latency"] is not None
    header = ["rank", "configuration", "seeds", SCORES[by], SCORES[other], "vs best", "p (Holm)",
              "verdict", "parameters", *(["ms"] if latency else []), "test opened"]  # fmt: skip
    rows = []
    for row in result["groups"][:_MAX_ROWS]:
        comparison = row["against_best"]
        rows.append(
            [
                row["rank"],
                figures.shorten(row["name"], 60),
                len(row["seeds"]),
                mean_std_text(row[by]),
                mean_std_text(row[other]),
                difference(row),
                "" if comparison is None else format_p(comparison["p_holm"]),
                verdict(row),
                _NONE if row["parameters"] is None else f"{row['parameters']:,}",
                *([f"{row['latency']['median_ms']:.2f}"] if latency else []),
                row["openings"],
            ]
        )
    return TextTable(header, rows, left=(1, 3, 4, 5, 7))


def lines(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the printed leaderboard; the conclusion comes last."""
    known_as = (result["fingerprint"] or {}).get("known_as")
    text: list[str | TextTable] = [
        f"{counted(result['total_runs'], 'run')} on val, n = {result['n']}"
        + (f", {clean(known_as)}" if known_as else ""),
        "",
        _score_table(result),
    ]
    more = len(result["groups"]) - _MAX_ROWS
    text += [f"... and {more} more in leaderboard.csv"] if more > 0 else []
    text += ["mean ± standard deviation over seeds; vs best: difference [95 % interval]", ""]
    text += [f"warning: {line}" for line in result["warnings"]]
    text += [f"note: {line}" for line in result["notes"]]
    return [*text, sentence(result)]


def _cell(value: Any) -> Any:
    """Return a CSV cell: numbers with six significant digits, no formulas of a spreadsheet."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def csv_text(result: dict[str, Any]) -> str:
    """Return the leaderboard as CSV, one row per configuration; scores are from 0 to 1."""
    rows = []
    for row in result["groups"]:
        comparison = row["against_best"] or {}
        low, high = comparison.get("ci95", ("", ""))
        rows.append(
            {
                "rank": row["rank"],
                "configuration": row["name"],
                "n_seeds": len(row["seeds"]),
                "seeds": " ".join(map(str, row["seeds"])),
                **{f"{key}_{part}": row[key][part] for key in SCORES for part in ("mean", "std")},
                "difference": comparison.get("difference", ""),
                "ci95_low": low,
                "ci95_high": high,
                "p": comparison.get("p", ""),
                "p_holm": comparison.get("p_holm", ""),
                "verdict": verdict(row),
                "parameters": row["parameters"],
                "latency_ms": (row["latency"] or {}).get("median_ms"),
                "test_openings": row["openings"],
                **{
                    clean(key): shown(row["values"][key]) if key in row["values"] else ""
                    for key in result["keys"]
                },
                "runs": " ".join(clean(run["folder"]) for run in row["runs"]),
            }
        )
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(key) for key in rows[0]])
    writer.writerows([[_cell(value) for value in row.values()] for row in rows])
    return out.getvalue()


def read_histories(
    configurations: Configurations, result: dict[str, Any]
) -> tuple[list[list[list[dict[str, float]]]], list[str]]:
    """Return the histories of each configuration by rank, and a note on unreadable ones."""
    runs = {str(run.folder): run for group in configurations.groups for run in group.runs}
    histories, unreadable, older = [], [], []
    for row in result["groups"]:
        readable = []
        for run in row["runs"]:
            try:
                history = runs[run["folder"]].history()
                readable.append(history)
                if history and "val/loss" not in history[-1]:
                    older.append(clean(run["folder"]))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                unreadable.append(clean(run["folder"]))
        histories.append(readable)
    notes = {
        "No readable history.csv, so not in the learning curves": unreadable,
        "No cross-entropy in the history.csv of an earlier version, so no curve of val loss": older,
    }
    return histories, [f"{text}: {', '.join(names)}." for text, names in notes.items() if names]


def draw_figures(
    configurations: Configurations, result: dict[str, Any], folder: Path
) -> dict[str, dict[str, bytes]]:
    """Draw all figures in light and dark, and write the light ones to ``folder``.

    Adds a note to the result if runs have no readable history.

    Returns:
        Name -> ``{"light": png, "dark": png}``; figures without data are left out.
    """
    rows, by = result["groups"], result["by"]
    histories, notes = read_histories(configurations, result)
    result["notes"] += notes
    draw: dict[str, tuple[str, Callable[..., Figure]]] = {}
    if any(histories):
        draw["curves"] = "curves", partial(figures.curves, rows, histories, by)
    if result["keys"]:
        keys = result["keys"][: result["main"]]
        draw["parallel"] = "hyperparameters", partial(figures.parallel, rows, keys, by)
    if any(row["parameters"] for row in rows):
        draw["parameters"] = "parameters", partial(figures.scatter, rows, "parameters", by)
    if result["latency"] is not None:
        draw["latency"] = "latency", partial(figures.scatter, rows, "latency", by)
    return {name: both(figure, folder, file) for name, (file, figure) in draw.items()}


def _script() -> tuple[Markup, str]:
    """Return the script of the page and its digest for the content security policy."""
    package = importlib.resources.files("emotion_lab.experiments.leaderboard")
    text = (package / "templates" / "leaderboard.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def _shares(counts: Sequence[int]) -> list[float | None]:
    total = sum(counts)
    return [value / total if total else None for value in counts]


def write_page(folder: Path, result: dict[str, Any], pictures: dict[str, dict[str, bytes]]) -> Path:
    """Write ``leaderboard.html``, a self-contained page, and return its path."""
    environment = html.environment("emotion_lab.experiments.leaderboard")
    functions: tuple[Callable[..., Any], ...] = (format_p, verdict, seeds, short, shown, clean)
    environment.filters |= {function.__name__: function for function in functions}
    environment.filters |= {"shares": _shares, "shorten": figures.shorten}
    script, digest = _script()
    by = result["by"]
    page = environment.get_template("leaderboard.html").render(
        r=result,
        by=by,
        titles=SCORES,
        title=SCORES[by][0].upper() + SCORES[by][1:],
        other=next(score for score in SCORES if score != by),
        columns=result["keys"][:MAX_COLUMNS],
        conclusion=conclusion(result),
        axes=min(figures.MAX_AXES, result["main"]),
        coloured=figures.MAX_COLOURED,
        pictures={
            name: {look: html.png(data) for look, data in images.items()}
            for name, images in pictures.items()
        },
        script=script,
        digest=digest,
    )
    path = folder / "leaderboard.html"
    atomic_write(path, page.encode("utf-8", "backslashreplace"))
    return path
