"""Report of a comparison: terminal lines, a figure and an HTML page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emotion_lab.core.io import atomic_write
from emotion_lab.core.tables import TextTable
from emotion_lab.evaluation.statistics import drawn_units, interval_text, mean_std_text
from emotion_lab.experiments.leaderboard.grouping import SCORES
from emotion_lab.experiments.leaderboard.significance import VERDICTS
from emotion_lab.reports import html
from emotion_lab.reports.figures import class_label
from emotion_lab.reports.style import FigureStyle

_NO_SAMPLES = "no samples"


def _difference(values: dict[str, Any], key: str) -> str:
    if values[key] is None:
        return _NO_SAMPLES
    return f"{values[key]:+.4f} {interval_text(values[f'{key}_ci95'], sign='+')}"


def _score(side: dict[str, Any], key: str, name: str | None = None) -> str:
    """Return a score of one side: with interval for one run, mean, std and range for several."""
    if len(side["runs"]) == 1:
        row = side["runs"][0] if name is None else side["runs"][0]["per_class"][name]
        if row[key] is None:
            return _NO_SAMPLES
        return f"{row[key]:.4f} {interval_text(row[f'{key}_ci95'])}"
    over_seeds = side[key] if name is None else side["per_class_f1"][name]
    if over_seeds is None:
        return _NO_SAMPLES
    return f"{mean_std_text(over_seeds)} ({over_seeds['min']:.4f} to {over_seeds['max']:.4f})"


def score_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return rows of text: score, a, b, b - a; accuracy and macro F1, then F1 of each class."""
    a, b, difference = result["a"], result["b"], result["difference"]
    rows = [
        [title, _score(a, key), _score(b, key), _difference(difference, key)]
        for key, title in SCORES.items()
    ]
    for name in result["classes"]:
        f1 = _difference(difference["per_class"][name], "f1")
        rows.append([f"F1 {name}", _score(a, "f1", name), _score(b, "f1", name), f1])
    return rows


def _mcnemar(pair: dict[str, Any]) -> str:
    """Return the p value of a pair; empty for groups, whose images are not independent."""
    p = pair["mcnemar_p"]
    return "" if p is None else f"McNemar p = {p:.2g}, "


def ledger_line(result: dict[str, Any]) -> str | None:
    """Return the number of openings of the test split; None for other splits or if unknown."""
    test = result.get("test")
    if test is None or test["openings"] is None:
        return None
    times = "once" if test["openings"] == 1 else f"{test['openings']} times"
    plural = "" if test["configurations"] == 1 else "s"
    return f"test split opened {times}, for {test['configurations']} configuration{plural}"


def pair_lines(result: dict[str, Any]) -> list[str]:
    """Return one line for each pair of runs; none if there is only one pair."""
    if result["seeds"] == 1:
        return []
    lines = []
    for pair in result["pairs"]:
        seed_a, seed_b = pair["seeds"]
        seed = f"seed {seed_a}: " if seed_a is not None and seed_a == seed_b else ""
        lines.append(
            f"{seed}b ({pair['b']}) - a ({pair['a']}): accuracy {_difference(pair, 'accuracy')}, "
            f"macro F1 {_difference(pair, 'macro_f1')}, {_mcnemar(pair)}"
            f"{SCORES[result['by']]} {pair[VERDICTS[result['by']]]}"
        )
    return lines


def other_metric_line(result: dict[str, Any]) -> str:
    """Return the verdict on the metric that did not select the runs."""
    difference = result["difference"]
    (other,) = set(SCORES) - {result["by"]}
    verdict = difference[VERDICTS[other]]
    return f"{SCORES[other]}: {verdict}, {_difference(difference, other)}"


def lines(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the printed comparison; the verdict comes last."""
    text: list[str | TextTable] = []
    for key in "ab":
        for run in result[key]["runs"]:
            seed = "" if run["seed"] is None else f", seed {run['seed']}"
            text.append(f"{key}: {run['run']}{seed}")
    known_as = (result["fingerprint"] or {}).get("known_as")
    text.append(f"{result['split']}: n = {result['n']}" + (f", {known_as}" if known_as else ""))
    text += ["", TextTable(["score", "a", "b", "b - a"], score_rows(result), left=range(4))]
    if result["seeds"] > 1:
        text.append("a and b: mean ± std (range) over the seeds; b - a: mean [95 % interval]")
        text += ["", *pair_lines(result), ""]
    else:
        pair = result["pairs"][0]
        text += [
            f"in brackets: 95 % intervals over {drawn_units(result['bootstrap']['groups'])}",
            f"\nimages correct in a only: {pair['only_a_right']}, in b only: "
            f"{pair['only_b_right']}\n",
        ]
    openings = ledger_line(result)
    text += [openings] if openings else []
    text += [f"warning: {line}" for line in result["warnings"]]
    text += [f"note: {line}" for line in result["notes"]]
    return [*text, result["line"], other_metric_line(result)]


def _draw_differences(axis: Axes, result: dict[str, Any], style: FigureStyle) -> None:
    """Draw b - a in accuracy and macro F1 with intervals; below each, those of the seeds."""
    pairs = result["pairs"] if result["seeds"] > 1 else []
    y, ticks = 0.0, []
    for key in SCORES:
        ticks.append(y)
        value = result["difference"][key]
        axis.plot(result["difference"][f"{key}_ci95"], [y, y], color=style.accent, linewidth=2.6)
        axis.plot(value, y, "o", color=style.accent, markersize=7)
        # A background for the number, which can overlap the line at 0.
        background = {"facecolor": style.paper, "linewidth": 0, "pad": 0.5}
        axis.annotate(f"{value * 100:+.2f}", (value, y), (0, 7), textcoords="offset points",
                      ha="center", fontsize=9, bbox=background)  # fmt: skip
        for pair in pairs:
            y += 0.45
            axis.plot(pair[f"{key}_ci95"], [y, y], color=style.quiet, linewidth=1.2)
            axis.plot(pair[key], y, "o", color=style.quiet, markersize=4)
        y += 1
    axis.axvline(0, color=style.ink, linewidth=1, linestyle=":")
    axis.set(ylim=(y - 0.4, -0.75))
    axis.set_yticks(ticks, list(SCORES.values()))
    axis.xaxis.set_major_formatter(lambda x, _: f"{x * 100:+g}" if abs(x) > 1e-9 else "0")
    title = "b − a in points, 95 % interval"
    axis.set_title(title + ("; grey: each seed" if pairs else ""), loc="left")


def _draw_f1(axis: Axes, result: dict[str, Any], classes: list[str], style: FigureStyle) -> None:
    """Draw F1 of each class for a and b, with intervals, or ranges over the seeds."""
    several = result["seeds"] > 1
    for key, colour, shift, marker in (("a", style.second, -0.17, "s"),
                                       ("b", style.accent, 0.17, "o")):  # fmt: skip
        side = result[key]
        for i, name in enumerate(classes):
            f1 = side["per_class_f1"][name]
            ends = [f1["min"], f1["max"]]
            if not several:
                # None if all bootstrap samples are equal, as for a class that is never correct.
                ends = side["runs"][0]["per_class"][name]["f1_ci95"] or [f1["mean"]] * 2
            axis.plot(ends, [i + shift] * 2, color=colour, linewidth=1.8)
            axis.plot(f1["mean"], i + shift, marker, color=colour, markersize=5, clip_on=False,
                      label=key if i == 0 else None)  # fmt: skip
    axis.set_yticks(range(len(classes)), [class_label(name, 18) for name in classes])
    axis.set(ylim=(len(classes) - 0.4, -0.6), xlim=(0, 1))
    spread = "range over the seeds" if several else "95 % interval"
    axis.set_title(f"F1 of each class, {spread}", loc="left")
    # Above the axes, because any corner inside can hold data.
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderpad=0.2,
                handletextpad=0.1, columnspacing=1.2)  # fmt: skip


def figure(result: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw b - a with its interval, and F1 of each class for both, with intervals or ranges."""
    classes = [name for name in result["classes"] if result["support"][name]]
    n_pairs = len(result["pairs"]) if result["seeds"] > 1 else 0
    heights = [0.36 * 2 * (1 + 0.45 * n_pairs), 0.42 * len(classes)]
    fig = Figure(figsize=(5.2, 1.7 + sum(heights)), layout="constrained")
    ratios = [height + 0.3 for height in heights]
    top, bottom = fig.subplots(2, 1, gridspec_kw={"height_ratios": ratios})
    _draw_differences(top, result, style)
    _draw_f1(bottom, result, classes, style)
    for axis in (top, bottom):
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return fig


def _unbroken(text: str) -> str:
    """Return text without line breaks inside "n = 3589", "p = 0.01" or an interval."""
    text = re.sub(r"(?<==) | (?==)|(?<=\d,) (?=[+-])", "\u00a0", text)
    return re.sub(r"(?<=\de)-(?=\d)", "\u2011", text)


def write_page(folder: Path, result: dict[str, Any], pictures: dict[str, bytes]) -> None:
    """Write ``compare.html``, a self-contained page."""
    template = html.environment("emotion_lab.experiments.compare").get_template("compare.html")
    page = template.render(
        r=result,
        rows=score_rows(result),
        pairs=pair_lines(result),
        openings=ledger_line(result),
        other_metric=other_metric_line(result),
        metric=SCORES[result["by"]],
        unbroken=_unbroken,
        pictures={look: html.png(data) for look, data in pictures.items()},
    )
    atomic_write(folder / "compare.html", page.encode("utf-8", "backslashreplace"))
