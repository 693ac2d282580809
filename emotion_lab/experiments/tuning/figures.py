"""The pictures of a search, from the rows of its summary.

Each figure is a function of its numbers and a :class:`FigureStyle`; ``style.both`` draws it in a
light and a dark version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from emotion_lab.experiments.tuning.space import Dimension
from emotion_lab.reports.style import FigureStyle

#: Inches.
WIDTH = 7.0
Row = dict[str, Any]


def _text(name: Any, limit: int = 20) -> str:
    """Return a name that fits beside an axis."""
    name = str(name)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _powers(axis: Axes) -> None:
    """Make the horizontal axis logarithmic; its labels are plain text, as all text is."""
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _with(rows: Sequence[Row], *states: str) -> list[Row]:
    return [row for row in rows if row["status"] in states and row["value"] is not None]


def _colours(style: FigureStyle, values: Sequence[float], mode: str) -> tuple[Any, Normalize]:
    """Return a map from quiet (poor) to accent (good), and its range."""
    shades = [style.quiet, style.accent]
    colours = LinearSegmentedColormap.from_list("value", shades if mode == "max" else shades[::-1])
    low, high = min(values), max(values)
    return colours, Normalize(low, high if high > low else low + 1e-9)


def history(rows: Sequence[Row], monitor: str, mode: str, style: FigureStyle) -> Figure:
    """Draw the value of every trial and the best so far.

    Args:
        rows: Of the summary.
        monitor: Name of the value.
        mode: ``max`` or ``min``.
        style: Colours.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    done, pruned = _with(rows, "finished", "repeated"), _with(rows, "pruned")
    if pruned:
        x, y = [row["trial"] for row in pruned], [row["value"] for row in pruned]
        axis.plot(x, y, "x", color=style.quiet, label="pruned (best until then)")
    if done:
        x, y = [row["trial"] for row in done], [row["value"] for row in done]
        axis.plot(x, y, "o", color=style.accent, markersize=5, label="finished")
        best = np.maximum.accumulate(y) if mode == "max" else np.minimum.accumulate(y)
        axis.step(x, best, where="post", color=style.second, label="best so far")
    lost = [row["trial"] for row in rows if row["status"] in ("failed", "killed")]
    if lost:
        bottom = axis.get_ylim()[0]
        axis.plot(
            lost,
            [bottom] * len(lost),
            "v",
            color=style.second,
            label="without result",
            clip_on=False,
        )
    axis.set(xlabel="trial", ylabel=monitor)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid()
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def importances(shares: dict[str, float], style: FigureStyle) -> Figure:
    """Draw the share of each setting in the variance of the value.

    Args:
        shares: Setting -> share, 0 to 1, the largest first.
        style: Colours.
    """
    figure = Figure(figsize=(WIDTH, 1.1 + 0.42 * len(shares)), layout="constrained")
    axis = figure.subplots()
    names, values = [_text(n, 28) for n in shares][::-1], list(shares.values())[::-1]
    bars = axis.barh(names, values, color=style.accent, height=0.6)
    axis.bar_label(bars, [f"{100 * value:.0f} %" for value in values], padding=4)
    axis.set(xlim=(0, max(values) * 1.12), xlabel="share of the variance (fANOVA)")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return figure


def _options(dimension: Dimension, rows: Sequence[Row]) -> list[str]:
    """Return the choices of a dimension that trials had, in the order they were named."""
    had = {row[dimension.key] for row in rows}
    return [option for option in dimension.options if option in had]


def _spot(row: Row, dimension: Dimension, options: Sequence[str]) -> float:
    """Return where a trial lies along a setting; equal choices lie beside each other."""
    if not dimension.options:
        return float(row[dimension.key])
    return options.index(row[dimension.key]) + (row["trial"] * 0.618) % 1 * 0.3 - 0.15


def slices(
    rows: Sequence[Row],
    dimensions: Sequence[Dimension],
    monitor: str,
    mode: str,
    style: FigureStyle,
) -> Figure:
    """Draw the value against each setting, later trials stronger, pruned ones as crosses.

    Args:
        rows: Of the summary.
        dimensions: What was searched.
        monitor: Name of the value.
        mode: ``max`` or ``min``.
        style: Colours.
    """
    columns = 2 if len(dimensions) == 4 else min(3, len(dimensions))
    lines = -(-len(dimensions) // columns)
    figure = Figure(figsize=(WIDTH, 2.6 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    colours = LinearSegmentedColormap.from_list("later", [style.quiet, style.accent])
    last = max(row["trial"] for row in rows) or 1
    groups = (("x", _with(rows, "pruned")), ("o", _with(rows, "finished", "repeated")))
    for axis, dimension in zip(axes.flat, dimensions, strict=False):
        every = [row for _, some in groups for row in some if row[dimension.key] is not None]
        options = _options(dimension, every)
        for mark, some in groups:
            here = [row for row in some if row[dimension.key] is not None]
            shade = [colours(row["trial"] / last) for row in here]
            x = [_spot(row, dimension, options) for row in here]
            axis.scatter(x, [row["value"] for row in here], c=shade, s=22, marker=mark)
        if dimension.options:
            names = [_text(option, 12) for option in options]
            axis.set_xticks(range(len(options)), names, rotation=25 if len(options) > 2 else 0)
            axis.set_xlim(-0.5, len(options) - 0.5)
        elif dimension.log:
            _powers(axis)
        axis.set_xlabel(_text(dimension.key, 24))
        axis.grid()
    for axis in axes.flat[len(dimensions) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(monitor)
    figure.suptitle("later trials are stronger in colour; crosses were pruned", fontsize=9)
    return figure


def _places(dimension: Dimension, rows: Sequence[Row]) -> tuple[list[float], list[Any], list[str]]:
    """Return where rows lie on a dimension's axis, 0 to 1, and its marks and their names."""
    if dimension.options:
        options = _options(dimension, rows)
        step = 1 / max(1, len(options) - 1)
        at = {option: i * step if len(options) > 1 else 0.5 for i, option in enumerate(options)}
        return [at[r[dimension.key]] for r in rows], list(at.values()), [_text(o, 12) for o in at]
    scale = np.log10 if dimension.log else np.asarray
    low, high = float(scale(dimension.low)), float(scale(dimension.high))
    values = [float(row[dimension.key]) for row in rows]
    places = [(float(scale(value)) - low) / (high - low) for value in values]
    marks = np.linspace(0, 1, 3)
    spots = [low + mark * (high - low) for mark in marks]
    names = [f"{10**spot if dimension.log else spot:.3g}" for spot in spots]
    return places, list(marks), names


def _mark(
    axis: Axes, x: float, marks: Sequence[float], names: Sequence[str], style: FigureStyle
) -> None:
    axis.plot([x, x], [0, 1], color=style.quiet, linewidth=1, zorder=1)
    for mark, name in zip(marks, names, strict=True):
        box = {"facecolor": style.paper, "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axis.text(x + 0.03, mark, name, va="center", fontsize=8, zorder=4, bbox=box)


def parallel(
    rows: Sequence[Row],
    dimensions: Sequence[Dimension],
    monitor: str,
    mode: str,
    style: FigureStyle,
) -> Figure:
    """Draw every finished trial as a line over its settings to its value.

    Settings that not every finished trial had are left out.

    Args:
        rows: Of the summary.
        dimensions: What was searched.
        monitor: Name of the value.
        mode: ``max`` or ``min``.
        style: Colours.
    """
    done = _with(rows, "finished", "repeated")
    shared = [d for d in dimensions if all(row[d.key] is not None for row in done)]
    values = [row["value"] for row in done]
    colours, spread = _colours(style, values, mode)
    figure = Figure(figsize=(max(WIDTH, 1.5 * (len(shared) + 1)), 4.0), layout="constrained")
    axis = figure.subplots()
    points = []
    for x, dimension in enumerate(shared):
        places, marks, names = _places(dimension, done)
        points.append(places)
        _mark(axis, x, marks, names, style)
    points.append([float(spread(value)) for value in values])
    _mark(axis, len(shared), [0, 0.5, 1], [f"{spread.inverse(m):.4f}" for m in (0, 0.5, 1)], style)
    paths = [list(enumerate(line)) for line in zip(*points, strict=True)]
    # The best lie on top.
    order = np.argsort(values if mode == "max" else [-value for value in values])
    for rank, i in enumerate(order):
        top = rank == len(order) - 1
        colour = style.second if top else colours(spread(values[i]))
        width = 2.4 if top else 1.2
        axis.add_collection(
            LineCollection([paths[i]], colors=[colour], linewidths=width, zorder=2 + top)
        )
    names = [_text(d.key, 18) for d in shared] + [monitor]
    axis.set_xticks(range(len(names)), names)
    axis.set(xlim=(-0.1, len(shared) + 0.4), ylim=(-0.05, 1.05), yticks=[])
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(length=0)
    axis.set_title(f"finished trials, the best (trial {done[order[-1]]['trial']}) thick")
    return figure


def lr_curve(
    rates: Sequence[float], losses: Sequence[float], suggestion: float, style: FigureStyle
) -> Figure:
    """Draw the loss over the learning rate and the suggestion.

    Args:
        rates: Learning rates, rising.
        losses: Smoothed training loss at each.
        suggestion: Where it falls fastest.
        style: Colours.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=style.accent)
    _powers(axis)
    at = min(range(len(rates)), key=lambda i: abs(rates[i] - suggestion))
    axis.plot([rates[at]], [losses[at]], "o", color=style.second, markersize=8)
    axis.axvline(suggestion, color=style.second, linestyle=":")
    start, low = losses[0], min(losses)
    # Where it explodes, how far is of no interest.
    axis.set_ylim(low - 0.1 * (start - low), min(max(losses), start + (start - low)) * 1.01)
    axis.set(xlabel="learning rate", ylabel="training loss (smoothed)")
    axis.set_title(f"the loss falls fastest at {suggestion:g}")
    axis.grid()
    return figure
