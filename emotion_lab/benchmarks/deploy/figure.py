"""The picture of ``benchmark=deploy``: accuracy over latency, size as area, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from emotion_lab.reports.style import FigureStyle

#: Area of a marker in square points: so much for a file of no size, and for each MB.
_LEAST, _PER_MB = 22.0, 7.0
#: Larger networks would cover their neighbours.
_MOST = 900.0


def _area(row: dict[str, Any]) -> float:
    return min(_LEAST + _PER_MB * row["size_mb"], _MOST)


def _name_networks(axis: Any, rows: Sequence[dict[str, Any]], y: dict[int, float]) -> None:
    """Write each network's name over its fastest marker, above all of its markers."""
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        first = min(own, key=lambda row: row["ms"])
        top = max(own, key=lambda row: y[id(row)])
        axis.annotate(
            model,
            (first["ms"], y[id(top)]),
            xytext=(0, 5 + np.sqrt(max(map(_area, own))) / 2),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def draw(
    rows: Sequence[dict[str, Any]], front: Sequence[dict[str, Any]], style: FigureStyle
) -> Figure:
    """Draw the rows that were chosen from.

    Args:
        rows: See :func:`emotion_lab.benchmarks.deploy.pareto.contenders`.
        front: Those on the Pareto front.
        style: The colours.
    """
    known = any(row["accuracy"] is not None for row in rows)
    y = {id(row): row["accuracy"] if known else row["size_mb"] for row in rows}
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    kinds = list(dict.fromkeys((row["runtime"], row["precision"]) for row in rows))
    best = {id(row) for row in front}
    if best:
        edge = sorted((row for row in rows if id(row) in best), key=lambda row: row["ms"])
        axis.plot(
            [row["ms"] for row in edge],
            [y[id(row)] for row in edge],
            color=style.quiet,
            linestyle="--",
            linewidth=1.2,
            zorder=1,
        )
    # Large ones first, so that none is hidden.
    for row in sorted(rows, key=lambda row: -row["size_mb"]):
        colour = style.cycle[kinds.index((row["runtime"], row["precision"])) % len(style.cycle)]
        on_front = id(row) in best
        axis.scatter(
            row["ms"],
            y[id(row)],
            s=_area(row),
            facecolor=colour if on_front else "none",
            edgecolor=colour,
            linewidth=1.3,
            alpha=0.9,
            zorder=3 if on_front else 2,
        )
    _name_networks(axis, rows, y)
    axis.set_xscale("log")
    # Runtimes lie within a factor of ten or so: powers of ten alone would leave one label.
    axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for formatted in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        formatted(FuncFormatter(lambda value, _: f"{value:g}"))
    batch = rows[0]["batch"] if rows else 1
    faces = "a face" if batch == 1 else f"a call of {batch} faces"
    axis.set_xlabel(f"milliseconds {faces}, median")
    if known:
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
        axis.set_ylabel("accuracy on val")
        axis.set_title("Filled: Pareto front of accuracy, latency and size (area)")
    else:
        axis.set_ylabel("size of the file, MB")
        axis.set_title("Accuracy not measured. Filled: Pareto front of latency and size")
    axis.margins(0.12, 0.2)
    if not known:
        axis.set_ylim(bottom=0)
    axis.grid()
    handles = [
        Line2D([], [], marker="o", linestyle="", color=style.cycle[i % len(style.cycle)])
        for i in range(len(kinds))
    ]
    names = [f"{runtime} {precision}" for runtime, precision in kinds]
    if best:
        handles.append(Line2D([], [], color=style.quiet, linestyle="--"))
        names.append("Pareto front")
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure
