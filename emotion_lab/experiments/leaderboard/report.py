"""A leaderboard for people: lines for the terminal, a CSV, figures and one page."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.resources
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from emotion_lab.core.io import atomic_write
from emotion_lab.evaluation.statistics import SAME
from emotion_lab.experiments.leaderboard import figures
from emotion_lab.experiments.leaderboard.grouping import SCORES, Configurations, clean, short, shown
from emotion_lab.experiments.leaderboard.table import WORDS
from emotion_lab.reports import html
from emotion_lab.reports.style import both

#: Rows on the terminal, and columns of hyperparameters on the page; the CSV has all.
_ROWS = 20
COLUMNS = 24
_NONE = "–"


def mean(over: dict[str, Any], digits: int = 4) -> str:
    """Return a score over seeds: ``0.6512 ± 0.0031``, without ± for a single seed."""
    text = f"{over['mean']:.{digits}f}"
    return text if over["std"] is None else f"{text} ± {over['std']:.{digits}f}"


def p_words(p: float) -> str:
    """Return a p-value, no more digits of it than tell something."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.01 else f"{p:.2f}"


def difference(row: dict[str, Any]) -> str:
    """Return what a configuration is off the best, with its 95 % interval."""
    found = row["against_best"]
    if found is None:
        return ""
    low, high = found["ci95"]
    return f"{found['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def word(row: dict[str, Any]) -> str:
    """Return the verdict on a configuration."""
    return "best" if row["against_best"] is None else row["against_best"]["verdict"]


def seeds(row: dict[str, Any]) -> str:
    """Return how many seeds a configuration has, and which."""
    listed = ", ".join(map(str, row["seeds"][:8])) + (", …" if len(row["seeds"]) > 8 else "")
    return f"seed {listed}, a single one" if len(row["seeds"]) == 1 else f"seeds {listed}"


def outcome(result: dict[str, Any]) -> str:
    """Return what the best reached and which others it is told apart from; without its name."""
    best, others = result["groups"][0], result["groups"][1:]
    n = len(best["seeds"])
    over = "one seed" if n == 1 else f"mean ± std of {n} seeds"
    line = f"{mean(best[result['by']])} ({over}), n = {result['n']}"
    tied = sum(word(row) == SAME for row in others)
    if not others:
        return f"{line}; there is nothing to compare it with"
    if tied:
        return f"{line}; not distinguishable from it: {tied} of the other {len(others)}"
    return f"{line}; " + (
        "the other is worse" if len(others) == 1 else f"all {len(others)} others are worse"
    )


def sentence(result: dict[str, Any]) -> str:
    """Return the outcome in one line: never a bare rank."""
    name = figures.cut(result["groups"][0]["name"], 120)
    return f"best by val {WORDS[result['by']]}: {name}, {outcome(result)}"


def lines(result: dict[str, Any]) -> list[str]:
    """Return the leaderboard as lines for the terminal; the outcome comes last."""
    by = result["by"]
    other = next(score for score in SCORES if score != by)
    timed = result["latency"] is not None
    head = ["", "configuration", "seeds", WORDS[by], WORDS[other], "to the best", "p (Holm)",
            "verdict", "parameters", *(["ms"] if timed else []), "test opened"]  # fmt: skip
    rows = [head]
    for row in result["groups"][:_ROWS]:
        found = row["against_best"]
        rows.append(
            [
                str(row["rank"]),
                figures.cut(row["name"], 60),
                str(len(row["seeds"])),
                mean(row[by]),
                mean(row[other]),
                difference(row),
                "" if found is None else p_words(found["p_holm"]),
                word(row),
                _NONE if row["parameters"] is None else f"{row['parameters']:,}",
                *([f"{row['latency']['median_ms']:.2f}"] if timed else []),
                str(row["openings"]),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    known = (result["fingerprint"] or {}).get("known_as")
    text = [f"{result['total_runs']} runs on val, n = {result['n']}"
            + (f", {clean(known)}" if known else ""), ""]  # fmt: skip
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        text.append("  ".join(cells).rstrip())
    left = len(result["groups"]) - _ROWS
    text += [f"... and {left} more in leaderboard.csv"] if left > 0 else []
    text += ["mean ± standard deviation over seeds; to the best: difference [95 % interval]", ""]
    text += [f"warning: {line}" for line in result["warnings"]]
    text += [f"note: {line}" for line in result["notes"]]
    return [*text, sentence(result)]


def _cell(value: Any) -> Any:
    """Return a CSV cell; a quote stands before a text that a spreadsheet would run as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def table(result: dict[str, Any]) -> str:
    """Return the leaderboard as CSV, one row a configuration; shares from 0 to 1."""
    rows = []
    for row in result["groups"]:
        found = row["against_best"] or {}
        low, high = found.get("ci95", ("", ""))
        spread = {
            f"{score}_{part}": row[score][part] for score in SCORES for part in ("mean", "std")
        }
        rows.append(
            {
                "rank": row["rank"],
                "configuration": row["name"],
                "n_seeds": len(row["seeds"]),
                "seeds": " ".join(map(str, row["seeds"])),
                **spread,
                "difference": found.get("difference", ""),
                "ci95_low": low,
                "ci95_high": high,
                "p": found.get("p", ""),
                "p_holm": found.get("p_holm", ""),
                "verdict": word(row),
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


def histories(
    found: Configurations, result: dict[str, Any]
) -> tuple[list[list[list[dict[str, float]]]], list[str]]:
    """Return the histories of every configuration by rank, and a note on those that have none."""
    by_folder = {str(run.folder): run for group in found.groups for run in group.runs}
    every, lost = [], []
    for row in result["groups"]:
        kept = []
        for about in row["runs"]:
            try:
                kept.append(by_folder[about["folder"]].history())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                lost.append(clean(about["folder"]))
        every.append(kept)
    if not lost:
        return every, []
    return every, [f"No readable history.csv, so not among the curves: {', '.join(lost)}."]


def pictures(
    found: Configurations, result: dict[str, Any], folder: Path
) -> dict[str, dict[str, bytes]]:
    """Draw every figure light and dark, and write the light ones to ``folder``.

    Returns:
        Name -> ``{"light": png, "dark": png}``; a figure with nothing on it is left out. A note is
        added to the result for runs without a history.
    """
    rows, by = result["groups"], result["by"]
    kept, notes = histories(found, result)
    result["notes"] += notes
    drawn = {}
    if any(kept):
        drawn["curves"] = both(lambda s: figures.curves(rows, kept, by, s), folder, "curves")
    if result["keys"]:
        main = result["keys"][: result["main"]]
        drawn["parallel"] = both(
            lambda s: figures.parallel(rows, main, by, s), folder, "hyperparameters"
        )
    if any(row["parameters"] for row in rows):
        drawn["parameters"] = both(
            lambda s: figures.scatter(rows, "parameters", by, s), folder, "parameters"
        )
    if result["latency"] is not None:
        drawn["latency"] = both(
            lambda s: figures.scatter(rows, "latency", by, s), folder, "latency"
        )
    return drawn


def script() -> tuple[Markup, str]:
    """Return the page's script and what the content policy calls it, ``sha256-...``."""
    file = (
        importlib.resources.files("emotion_lab.experiments.leaderboard")
        / "templates"
        / "leaderboard.js"
    )
    text = file.read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def _percent(counts: Sequence[int]) -> list[float | None]:
    total = sum(counts)
    return [value / total if total else None for value in counts]


def write_page(folder: Path, result: dict[str, Any], drawn: dict[str, dict[str, bytes]]) -> Path:
    """Write ``leaderboard.html``: one file that needs no other and no network.

    Args:
        folder: The run folder.
        result: Of :func:`emotion_lab.experiments.leaderboard.table.board`.
        drawn: Name -> ``{"light": png, "dark": png}``.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    environment = html.environment("emotion_lab.experiments.leaderboard")
    functions: tuple[Callable[..., Any], ...] = (mean, p_words, difference, word, seeds, short)
    for function in functions:
        environment.filters[function.__name__] = function
    environment.filters |= {"typed": shown, "shares": _percent, "text": clean, "cut": figures.cut}
    code, digest = script()
    by = result["by"]
    page = environment.get_template("leaderboard.html").render(
        r=result,
        by=by,
        words=WORDS,
        title=WORDS[by][0].upper() + WORDS[by][1:],
        other=next(score for score in SCORES if score != by),
        columns=result["keys"][:COLUMNS],
        line=outcome(result),
        axes=min(figures.AXES, result["main"]),
        coloured=figures.COLOURED,
        pictures={
            name: {look: html.png(data) for look, data in each.items()}
            for name, each in drawn.items()
        },
        script=code,
        digest=digest,
    )
    path = folder / "leaderboard.html"
    atomic_write(path, page.encode("utf-8", "backslashreplace"))
    return path
