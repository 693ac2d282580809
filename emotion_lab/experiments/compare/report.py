"""A comparison for people: lines for the terminal, one figure, one page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from emotion_lab.core.io import atomic_write
from emotion_lab.reports import html
from emotion_lab.reports.style import FigureStyle

_SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1"}
_NONE = "no samples"


def _between(pair: list[float] | None, signed: bool) -> str:
    if pair is None:  # every draw of the bootstrap was the same
        return "[no spread]"
    low, high = (f"{end:{'+' if signed else ''}.4f}" for end in pair)
    return f"[{low}, {high}]"


def _change(difference: dict[str, Any], key: str) -> str:
    if difference[key] is None:
        return _NONE
    return f"{difference[key]:+.4f} {_between(difference[f'{key}_ci95'], True)}"


def _score(side: dict[str, Any], key: str, name: str | None = None) -> str:
    """Return a side's score: with its interval for one run, mean, std and range for several."""
    if len(side["runs"]) == 1:
        row = side["runs"][0] if name is None else side["runs"][0]["per_class"][name]
        if row[key] is None:
            return _NONE
        return f"{row[key]:.4f} {_between(row[f'{key}_ci95'], False)}"
    over = side[key] if name is None else side["per_class_f1"][name]
    if over is None:
        return _NONE
    return f"{over['mean']:.4f} ± {over['std']:.4f} ({over['min']:.4f} to {over['max']:.4f})"


def table(result: dict[str, Any]) -> list[list[str]]:
    """Return rows of text: what, a, b, b - a; accuracy and macro F1 first, then F1 by class."""
    a, b, difference = result["a"], result["b"], result["difference"]
    rows = [
        [shown, _score(a, key), _score(b, key), _change(difference, key)]
        for key, shown in _SHOWN.items()
    ]
    for name in result["classes"]:
        found = difference["per_class"][name]
        rows.append([f"F1 {name}", _score(a, "f1", name), _score(b, "f1", name),
                     _change(found, "f1")])  # fmt: skip
    return rows


def seal_line(result: dict[str, Any]) -> str | None:
    """Return how often the test set was opened, None for another split or where it is unknown."""
    test = result.get("test")
    if test is None or test["openings"] is None:
        return None
    times = "once" if test["openings"] == 1 else f"{test['openings']} times"
    plural = "" if test["configurations"] == 1 else "s"
    return f"test split opened {times}, for {test['configurations']} configuration{plural}"


def pair_lines(result: dict[str, Any]) -> list[str]:
    """Return one line for each pair of runs."""
    lines = []
    for pair in result["pairs"]:
        one, two = pair["seeds"]
        seed = f"seed {one}: " if one is not None and one == two else ""
        lines.append(
            f"{seed}{pair['b']} against {pair['a']}: accuracy {_change(pair, 'accuracy')}, macro "
            f"F1 {_change(pair, 'macro_f1')}, McNemar p = {pair['mcnemar_p']:.2g}, "
            f"{pair['verdict']}"
        )
    return lines


def lines(result: dict[str, Any]) -> list[str]:
    """Return the comparison as lines for the terminal; the verdict comes last."""
    shown = []
    for key in "ab":
        for run in result[key]["runs"]:
            seed = "" if run["seed"] is None else f", seed {run['seed']}"
            shown.append(f"{key}: {run['run']}{seed}")
    known = (result["fingerprint"] or {}).get("known_as")
    shown.append(f"{result['split']}: n = {result['n']}" + (f", {known}" if known else ""))
    head = ["", "a", "b", "b - a"]
    rows = [head, *table(result)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    shown.append("")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        shown.append("  ".join(cells).rstrip())
    what = "in brackets: 95 % intervals"
    if result["seeds"] > 1:
        what = "a and b: mean ± std (range) over the seeds; b - a: mean [95 % interval]"
    shown += [what, ""]
    if result["seeds"] > 1:
        shown += [*pair_lines(result), ""]
    else:
        pair = result["pairs"][0]
        shown += [
            f"only a right: {pair['only_a_right']}, only b right: {pair['only_b_right']}",
            "",
        ]
    sealed = seal_line(result)
    shown += [sealed] if sealed else []
    shown += [f"warning: {line}" for line in result["warnings"]]
    shown += [f"note: {line}" for line in result["notes"]]
    shown += [result["line"], macro_line(result)]
    return shown


def macro_line(result: dict[str, Any]) -> str:
    """Return what macro F1 says, by its interval alone."""
    found = result["difference"]
    return f"macro F1: {found['macro_f1_verdict']}, {_change(found, 'macro_f1')}"


def figure(result: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw b - a with its interval, and F1 of each class for both, with intervals or ranges.

    Args:
        result: Of :func:`emotion_lab.experiments.compare.result.compare`.
        style: The colours.
    """
    classes = [name for name in result["classes"] if result["support"][name]]
    pairs = result["pairs"] if result["seeds"] > 1 else []
    tops = 2 * (1 + 0.45 * len(pairs))
    height = 1.7 + 0.36 * tops + 0.42 * len(classes)
    drawn = Figure(figsize=(5.2, height), layout="constrained")
    ratios = [0.36 * tops + 0.3, 0.42 * len(classes) + 0.3]
    top, bottom = drawn.subplots(2, 1, gridspec_kw={"height_ratios": ratios})
    place, ticks = 0.0, []
    for key in _SHOWN:
        ticks.append(place)
        low, high = result["difference"][f"{key}_ci95"]
        value = result["difference"][key]
        top.plot([low, high], [place, place], color=style.accent, linewidth=2.6)
        top.plot(value, place, "o", color=style.accent, markersize=7)
        # A patch of paper under the number, which may stand on the line at 0.
        patch = {"facecolor": style.paper, "linewidth": 0, "pad": 0.5}
        top.annotate(f"{value * 100:+.2f}", (value, place), (0, 7), textcoords="offset points",
                     ha="center", fontsize=9, bbox=patch)  # fmt: skip
        for pair in pairs:
            place += 0.45
            top.plot(pair[f"{key}_ci95"], [place, place], color=style.quiet, linewidth=1.2)
            top.plot(pair[key], place, "o", color=style.quiet, markersize=4)
        place += 1
    top.axvline(0, color=style.ink, linewidth=1, linestyle=":")
    top.set(ylim=(place - 0.4, -0.75))
    top.set_yticks(ticks, list(_SHOWN.values()))
    top.xaxis.set_major_formatter(lambda x, _: f"{x * 100:+g}" if abs(x) > 1e-9 else "0")
    title = "b − a in points, 95 % interval"
    top.set_title(title + ("; grey: each seed" if pairs else ""), loc="left")
    for key, colour, shift, marker in (("a", style.second, -0.17, "s"),
                                       ("b", style.accent, 0.17, "o")):  # fmt: skip
        side = result[key]
        for i, name in enumerate(classes):
            over = side["per_class_f1"][name]
            ends = [over["min"], over["max"]]
            if not pairs:
                # None where every draw of the bootstrap was the same, as for a class never right.
                ends = side["runs"][0]["per_class"][name]["f1_ci95"] or [over["mean"]] * 2
            bottom.plot(ends, [i + shift] * 2, color=colour, linewidth=1.8)
            bottom.plot(over["mean"], i + shift, marker, color=colour, markersize=5, clip_on=False,
                        label=key if i == 0 else None)  # fmt: skip
    bottom.set_yticks(range(len(classes)), [_short(name) for name in classes])
    bottom.set(ylim=(len(classes) - 0.4, -0.6), xlim=(0, 1))
    what = "range over the seeds" if pairs else "95 % interval"
    bottom.set_title(f"F1 of each class, {what}", loc="left")
    # Above the axes: no corner of them is sure to be empty.
    bottom.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, borderpad=0.2,
                  handletextpad=0.1, columnspacing=1.2)  # fmt: skip
    for axis in (top, bottom):
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return drawn


def _short(name: str, limit: int = 18) -> str:
    name = " ".join(name.encode("utf-8", "backslashreplace").decode().split())
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _tied(text: str) -> str:
    """Return a line that does not break within "n = 3589", "p = 0.01" or an interval."""
    text = re.sub(r"(?<==) | (?==)|(?<=\d,) (?=[+-])", "\u00a0", text)
    return re.sub(r"(?<=\de)-(?=\d)", "\u2011", text)


def write_page(folder: Path, result: dict[str, Any], pictures: dict[str, bytes]) -> Path:
    """Write ``compare.html``: one file that needs no other and no network.

    Args:
        folder: The run folder.
        result: Of :func:`emotion_lab.experiments.compare.result.compare`.
        pictures: ``{"light": png, "dark": png}``.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    template = html.environment("emotion_lab.experiments.compare").get_template("compare.html")
    page = template.render(
        r=result,
        rows=table(result),
        pairs=pair_lines(result) if result["seeds"] > 1 else [],
        seal=seal_line(result),
        macro=macro_line(result),
        tied=_tied,
        pictures={look: html.png(data) for look, data in pictures.items()},
    )
    path = folder / "compare.html"
    atomic_write(path, page.encode("utf-8", "backslashreplace"))
    return path
