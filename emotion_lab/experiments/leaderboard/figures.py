"""The leaderboard's figures, from plain numbers; ``style.both`` draws each light and dark.

Few configurations stand out by colour, the best of them; the others are grey behind them, so that
fifty can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from emotion_lab.experiments.leaderboard.grouping import short, shown
from emotion_lab.experiments.leaderboard.table import WORDS
from emotion_lab.reports.style import FigureStyle

#: Inches, as in the report: still readable where a phone shows 390 px.
WIDTH = 5.2
#: Configurations with a colour and a name of their own.
COLOURED = 5
#: Hyperparameters drawn at most.
AXES = 8
_ABSENT = "–"
_MARKERS = ("o", "s", "D", "^", "v")


def cut(text: str, limit: int) -> str:
    """Return text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _label(row: dict[str, Any]) -> str:
    return cut(f"{row['rank']}  {row['name']}", 58)


def curves(
    rows: Sequence[dict[str, Any]],
    histories: Sequence[Sequence[list[dict[str, float]]]],
    by: str,
    style: FigureStyle,
) -> Figure:
    """Draw score and loss on val by epoch, one line a run; a dot is the epoch that was kept.

    Args:
        rows: Configurations by rank.
        histories: Of each configuration, the ``history.csv`` of each run that has one.
        by: ``accuracy`` or ``macro_f1``.
        style: The colours.
    """
    named = min(COLOURED, len(rows))
    figure = Figure(figsize=(WIDTH, 5.0 + 0.2 * named), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.5, 1]})
    last = range(len(rows) - 1, -1, -1)  # the best are drawn over the others
    for axis, key in zip(axes, (f"val/{by}", "val/loss"), strict=True):
        for i in last:
            front = i < COLOURED
            look = {
                "color": style.cycle[i] if front else style.quiet,
                "linewidth": 1.5 if front else 0.7,
                "alpha": 0.95 if front else 0.45,
                "zorder": 3 - i / 1000 if front else 2,
            }
            label = _label(rows[i]) if front else None
            for history in histories[i]:
                kept = [row for row in history if key in row and math.isfinite(row[key])]
                epochs = [row["epoch"] + 1 for row in kept]
                values = [row[key] for row in kept]
                axis.plot(epochs, values, label=label, **look)
                label = None
                best = [j for j, row in enumerate(kept) if row.get("best")][-1:]
                size = 4.5 if front else 2
                axis.plot([epochs[j] for j in best], [values[j] for j in best], "o",
                          markersize=size, **look)  # fmt: skip
        axis.grid()
    axes[0].set_ylabel(f"val {WORDS[by]}")
    axes[1].set(ylabel="val loss", xlabel="epoch")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", handlelength=1.6)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _places(values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return where values lie on an axis from 0 to 1, and its ticks.

    Numbers are spaced as numbers, by their logarithm where they span more than a factor 20; few
    different ones, words and absent ones side by side.
    """
    kinds = {json_key(value): value for value in values}
    numbers = sorted(value for value in kinds.values() if _is_number(value))
    if len(numbers) == len(kinds) > 1:
        wide = numbers[0] > 0 and numbers[-1] / numbers[0] > 20
        scaled = [math.log(v) if wide else float(v) for v in values]
        low, high = min(scaled), max(scaled)
        places = (np.array(scaled) - low) / (high - low)
        at = {float(p): f"{v:g}" for p, v in zip(places, values, strict=True)}
        ticks = sorted(at.items())
        if len(ticks) > 6:
            kept = ticks[:1]
            for tick in ticks[1:-1]:
                if tick[0] - kept[-1][0] > 0.16 and tick[0] < 0.84:
                    kept.append(tick)
            ticks = [*kept, ticks[-1]]
        return places, ticks
    words = sorted(kinds, key=lambda key: (not _is_number(kinds[key]), kinds[key]
                   if _is_number(kinds[key]) else 0, key))  # fmt: skip
    step = 1 / max(len(words) - 1, 1)
    where = {key: i * step if len(words) > 1 else 0.5 for i, key in enumerate(words)}
    places = np.array([where[json_key(value)] for value in values])
    ticks = [(where[key], _ABSENT if kinds[key] is _ABSENT else shown(kinds[key])) for key in words]
    return places, ticks


def json_key(value: Any) -> str:
    """Return a text that tells values apart, ``1`` from ``"1"`` and from ``true``."""
    return f"{type(value).__name__} {value!r}"


def parallel(
    rows: Sequence[dict[str, Any]], keys: Sequence[str], by: str, style: FigureStyle
) -> Figure:
    """Draw each configuration as a line through its hyperparameters down to its score.

    The axes lie one below the other, so that the words on them have room.

    Args:
        rows: Configurations by rank.
        keys: The hyperparameters; the first :data:`AXES` are drawn.
        by: ``accuracy`` or ``macro_f1``.
        style: The colours.
    """
    drawn = list(keys)[:AXES]
    columns = [_places([row["values"].get(key, _ABSENT) for row in rows]) for key in drawn]
    scores = [row[by]["mean"] for row in rows]
    columns.append(_places(scores) if len(set(scores)) > 1 else (np.full(len(rows), 0.5), []))
    figure = Figure(figsize=(WIDTH, 0.5 + 0.95 * len(columns)), layout="constrained")
    axis = figure.subplots()
    shades = LinearSegmentedColormap.from_list("shades", [style.quiet, style.accent])
    low, high = min(scores), max(scores)
    depth = np.arange(len(columns), dtype=float)
    # Lines that take the same way lie side by side: each is moved a little, in order of rank.
    thin = 1.1 if len(rows) > 15 else 1.7
    shift = np.linspace(-0.012, 0.012, len(rows)) if len(rows) > 1 else np.zeros(1)
    for i in range(len(rows) - 1, -1, -1):
        x = np.array([places[i] for places, _ in columns])
        x[:-1] += shift[i]
        share = (scores[i] - low) / (high - low) if high > low else 1.0
        best = i == 0
        axis.plot(x, depth, color=style.second if best else shades(share),
                  linewidth=2.6 if best else thin, alpha=1 if best else 0.55 + 0.4 * share,
                  zorder=3 if best else 2, solid_capstyle="round")  # fmt: skip
    if not columns[-1][1]:
        columns[-1] = (columns[-1][0], [(0.5, f"{scores[0]:.4f}")])
    else:
        ends = [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")]
        columns[-1] = (columns[-1][0], ends)
    for y, (key, (_, ticks)) in enumerate(
        zip([*map(short, drawn), f"val {WORDS[by]}, mean"], columns, strict=True)
    ):
        axis.plot([0, 1], [y, y], color=style.ink, linewidth=0.8, zorder=4)
        axis.annotate(cut(key, 44), (-0.02, y), (0, 9), textcoords="offset points", fontsize=9,
                      fontweight="bold", zorder=6, bbox=_patch(style))  # fmt: skip
        room = max(5, int(52 / max(len(ticks), 1)))
        for x, text in ticks:
            axis.plot(x, y, "|", color=style.ink, markersize=7, zorder=5)
            side = "left" if x < 0.02 else "right" if x > 0.98 else "center"
            axis.annotate(cut(text, room), (x, y), (0, -13), textcoords="offset points", ha=side,
                          fontsize=8, zorder=6, bbox=_patch(style))  # fmt: skip
    axis.set(xlim=(-0.04, 1.04), ylim=(len(columns) - 0.55, -0.4))
    axis.axis("off")
    return figure


def _patch(style: FigureStyle) -> dict[str, Any]:
    """Return a patch of paper under a text that stands on lines."""
    return {"facecolor": style.paper, "linewidth": 0, "pad": 1.0, "alpha": 0.8}


def scatter(rows: Sequence[dict[str, Any]], what: str, by: str, style: FigureStyle) -> Figure:
    """Draw the score against parameters or latency, with ± one standard deviation over seeds.

    Args:
        rows: Configurations by rank; those without the number are left out.
        what: ``parameters`` or ``latency``.
        by: ``accuracy`` or ``macro_f1``.
        style: The colours.
    """

    def cost(row: dict[str, Any]) -> float | None:
        if what == "parameters":
            return row["parameters"]
        return row["latency"]["median_ms"] if row["latency"] else None

    known = [row for row in rows if cost(row)]
    named = sum(row["rank"] <= COLOURED for row in known)
    figure = Figure(figsize=(WIDTH, 3.4 + 0.2 * named), layout="constrained")
    axis = figure.subplots()
    for row in reversed(known):
        front = row["rank"] <= COLOURED
        i = row["rank"] - 1
        colour = style.cycle[i] if front else style.quiet
        axis.errorbar(cost(row), row[by]["mean"], yerr=row[by]["std"] or 0, color=colour,
                      marker=_MARKERS[i] if front else ".", markersize=7 if front else 6,
                      elinewidth=1.1, alpha=1 if front else 0.6, zorder=4 if front else 2,
                      linestyle="none", label=_label(row) if front else None)  # fmt: skip
    costs = [float(cost(row) or 0) for row in known]
    if costs and max(costs) / min(costs) > 3:
        axis.set_xscale("log")
        if max(costs) / min(costs) < 100:
            ticks = [m * 10.0**e for e in range(-3, 12) for m in (1, 2, 5)]
            near = [t for t in ticks if min(costs) * 0.6 <= t <= max(costs) * 1.6]
            axis.set_xticks(near)
            axis.minorticks_off()
    elif costs:
        middle, half = (max(costs) + min(costs)) / 2, (max(costs) - min(costs)) / 2
        half = max(half * 1.15, middle * 0.1)
        axis.set_xlim(middle - half, middle + half)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _amount(x)))
    axis.set_xlabel("parameters" if what == "parameters" else "milliseconds for one image")
    axis.set_ylabel(f"val {WORDS[by]}")
    axis.grid()
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", handlelength=1.2)
    return figure


def _amount(value: float) -> str:
    """Return 1500000 as 1.5 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
