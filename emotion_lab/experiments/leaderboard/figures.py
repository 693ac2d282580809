"""Figures of a leaderboard: learning curves, parallel coordinates, score against cost.

The best configurations are coloured and named; all others are grey, so that fifty can be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from emotion_lab.experiments.leaderboard.grouping import SCORES, short, shown
from emotion_lab.reports.style import FigureStyle

#: Inches; readable at a width of 390 px on a phone.
WIDTH = 5.2
#: Maximum number of configurations with their own colour and label.
MAX_COLOURED = 5
#: Maximum number of hyperparameters in a figure.
MAX_AXES = 8
_ABSENT = "–"
_MARKERS = ("o", "s", "D", "^", "v")


def shorten(text: str, limit: int) -> str:
    """Return text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _label(row: dict[str, Any]) -> str:
    return shorten(f"{row['rank']}  {row['name']}", 58)


def curves(
    rows: Sequence[dict[str, Any]],
    histories: Sequence[Sequence[list[dict[str, float]]]],
    by: str,
    style: FigureStyle,
) -> Figure:
    """Draw score and loss on val by epoch, one line per run; a dot marks the best epoch.

    Args:
        histories: Rows of ``history.csv`` of each run of each configuration.
    """
    n_coloured = min(MAX_COLOURED, len(rows))
    figure = Figure(figsize=(WIDTH, 5.0 + 0.2 * n_coloured), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.5, 1]})
    for axis, key in zip(axes, (f"val/{by}", "val/loss"), strict=True):
        for i in reversed(range(len(rows))):  # the best are drawn last, on top
            coloured = i < MAX_COLOURED
            line = {
                "color": style.cycle[i] if coloured else style.quiet,
                "linewidth": 1.5 if coloured else 0.7,
                "alpha": 0.95 if coloured else 0.45,
                "zorder": 3 - i / 1000 if coloured else 2,
            }
            label = _label(rows[i]) if coloured else None
            for history in histories[i]:
                finite = [row for row in history if key in row and math.isfinite(row[key])]
                epochs = [row["epoch"] for row in finite]
                values = [row[key] for row in finite]
                axis.plot(epochs, values, label=label, **line)
                label = None
                best = [j for j, row in enumerate(finite) if row.get("best")][-1:]
                size = 4.5 if coloured else 2
                axis.plot([epochs[j] for j in best], [values[j] for j in best], "o",
                          markersize=size, **line)  # fmt: skip
        axis.grid()
    axes[0].set_ylabel(f"val {SCORES[by]}")
    axes[1].set(ylabel="val loss", xlabel="epoch")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", handlelength=1.6)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positions(values: Sequence[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return the positions of values on an axis from 0 to 1, and its ticks.

    Two or more different numbers are placed on a linear scale, or on a logarithmic one if they
    span more than a factor of 20. All other values are placed at equal distances.
    """
    unique = {_identity(value): value for value in values}
    numbers = sorted(value for value in unique.values() if _is_number(value))
    if len(numbers) == len(unique) > 1:
        log = numbers[0] > 0 and numbers[-1] / numbers[0] > 20
        scaled = np.array([math.log(value) if log else float(value) for value in values])
        positions = (scaled - scaled.min()) / (scaled.max() - scaled.min())
        labels = {float(x): f"{value:g}" for x, value in zip(positions, values, strict=True)}
        return positions, _thinned(sorted(labels.items()))
    keys = sorted(unique, key=lambda key: (not _is_number(unique[key]), unique[key]
                  if _is_number(unique[key]) else 0, key))  # fmt: skip
    step = 1 / max(len(keys) - 1, 1)
    position = {key: i * step if len(keys) > 1 else 0.5 for i, key in enumerate(keys)}
    ticks = [
        (x, _ABSENT if unique[key] is _ABSENT else shown(unique[key]))
        for key, x in position.items()
    ]
    return np.array([position[_identity(value)] for value in values]), ticks


def _thinned(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return at most about six ticks, with the first and the last."""
    if len(ticks) <= 6:
        return ticks
    thinned = ticks[:1]
    for tick in ticks[1:-1]:
        if tick[0] - thinned[-1][0] > 0.16 and tick[0] < 0.84:
            thinned.append(tick)
    return [*thinned, ticks[-1]]


def _identity(value: Any) -> str:
    """Return a text that is different for values of different type: ``1``, ``"1"``, ``true``."""
    return f"{type(value).__name__} {value!r}"


def parallel(
    rows: Sequence[dict[str, Any]], keys: Sequence[str], by: str, style: FigureStyle
) -> Figure:
    """Draw each configuration as a line through its hyperparameters to its score.

    The axes are horizontal and stacked, which leaves room for their labels.
    """
    keys = list(keys)[:MAX_AXES]
    columns = [_positions([row["values"].get(key, _ABSENT) for row in rows]) for key in keys]
    scores = [row[by]["mean"] for row in rows]
    low, high = min(scores), max(scores)
    ends = [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")] if high > low else [(0.5, f"{low:.4f}")]
    columns.append((_positions(scores)[0], ends))
    figure = Figure(figsize=(WIDTH, 0.5 + 0.95 * len(columns)), layout="constrained")
    axis = figure.subplots()
    shades = LinearSegmentedColormap.from_list("shades", [style.quiet, style.accent])
    depth = np.arange(len(columns), dtype=float)
    # Lines through the same values are shifted a little, in order of rank, to be visible.
    shift = np.linspace(-0.012, 0.012, len(rows)) if len(rows) > 1 else np.zeros(1)
    for i in reversed(range(len(rows))):
        x = np.array([positions[i] for positions, _ in columns])
        x[:-1] += shift[i]
        relative = (scores[i] - low) / (high - low) if high > low else 1.0
        best = i == 0
        axis.plot(x, depth, color=style.second if best else shades(relative),
                  linewidth=2.6 if best else 1.1 if len(rows) > 15 else 1.7,
                  alpha=1 if best else 0.55 + 0.4 * relative,
                  zorder=3 if best else 2, solid_capstyle="round")  # fmt: skip
    titles = [*map(short, keys), f"val {SCORES[by]}, mean"]
    for y, (title, (_, ticks)) in enumerate(zip(titles, columns, strict=True)):
        _draw_axis(axis, y, title, ticks, style)
    axis.set(xlim=(-0.04, 1.04), ylim=(len(columns) - 0.55, -0.4))
    axis.axis("off")
    return figure


def _draw_axis(
    axis: Axes, y: int, title: str, ticks: list[tuple[float, str]], style: FigureStyle
) -> None:
    """Draw a horizontal axis of the parallel coordinates with its title and ticks."""
    # A background for the text, which can overlap lines.
    background = {"facecolor": style.paper, "linewidth": 0, "pad": 1.0, "alpha": 0.8}
    axis.plot([0, 1], [y, y], color=style.ink, linewidth=0.8, zorder=4)
    axis.annotate(shorten(title, 44), (-0.02, y), (0, 9), textcoords="offset points", fontsize=9,
                  fontweight="bold", zorder=6, bbox=background)  # fmt: skip
    max_length = max(5, int(52 / max(len(ticks), 1)))
    for x, text in ticks:
        axis.plot(x, y, "|", color=style.ink, markersize=7, zorder=5)
        side = "left" if x < 0.02 else "right" if x > 0.98 else "center"
        axis.annotate(shorten(text, max_length), (x, y), (0, -13), textcoords="offset points",
                      ha=side, fontsize=8, zorder=6, bbox=background)  # fmt: skip


def scatter(rows: Sequence[dict[str, Any]], cost: str, by: str, style: FigureStyle) -> Figure:
    """Draw the score against parameters or latency, with ± one standard deviation over seeds.

    Rows of unknown cost are left out.
    """

    def cost_of(row: dict[str, Any]) -> float:
        if cost == "parameters":
            return row["parameters"] or 0
        return row["latency"]["median_ms"] if row["latency"] else 0

    measured = [row for row in rows if cost_of(row)]
    n_coloured = sum(row["rank"] <= MAX_COLOURED for row in measured)
    figure = Figure(figsize=(WIDTH, 3.4 + 0.2 * n_coloured), layout="constrained")
    axis = figure.subplots()
    for row in reversed(measured):
        coloured = row["rank"] <= MAX_COLOURED
        i = row["rank"] - 1
        colour = style.cycle[i] if coloured else style.quiet
        axis.errorbar(cost_of(row), row[by]["mean"], yerr=row[by]["std"] or 0, color=colour,
                      marker=_MARKERS[i] if coloured else ".", markersize=7 if coloured else 6,
                      elinewidth=1.1, alpha=1 if coloured else 0.6, zorder=4 if coloured else 2,
                      linestyle="none", label=_label(row) if coloured else None)  # fmt: skip
    _scale_cost_axis(axis, [cost_of(row) for row in measured])
    axis.set_xlabel("parameters" if cost == "parameters" else "milliseconds per image")
    axis.set_ylabel(f"val {SCORES[by]}")
    axis.grid()
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", handlelength=1.2)
    return figure


def _scale_cost_axis(axis: Axes, costs: Sequence[float]) -> None:
    """Use a logarithmic axis if the costs span more than a factor of 3."""
    if costs and max(costs) / min(costs) > 3:
        axis.set_xscale("log")
        if max(costs) / min(costs) < 100:
            ticks = [m * 10.0**e for e in range(-3, 12) for m in (1, 2, 5)]
            axis.set_xticks([t for t in ticks if min(costs) * 0.6 <= t <= max(costs) * 1.6])
            axis.minorticks_off()
    elif costs:
        middle, half = (max(costs) + min(costs)) / 2, (max(costs) - min(costs)) / 2
        half = max(half * 1.15, middle * 0.1)
        axis.set_xlim(middle - half, middle + half)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _with_unit(x)))


def _with_unit(value: float) -> str:
    """Format 1500000 as 1.5 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
