"""Figure of the deployment benchmark: accuracy over latency, size as area, Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from emotion_lab.reports.style import FigureStyle

#: Area of a marker in square points: a constant, plus this much for each MB.
_MIN_AREA, _AREA_PER_MB = 22.0, 7.0
#: Larger markers would cover their neighbours.
_MAX_AREA = 900.0

Row = dict[str, Any]


def _area(row: Row) -> float:
    return min(_MIN_AREA + _AREA_PER_MB * row["size_mb"], _MAX_AREA)


def _kind(row: Row) -> tuple[str, str]:
    return row["runtime"], row["precision"]


def _draw_rows(
    axis: Axes, rows: Sequence[Row], y: str, front: Sequence[Row], colours: dict[Any, str]
) -> None:
    """Draw one marker for each row, filled if it is on the front; large ones first."""
    for row in sorted(rows, key=lambda row: -row["size_mb"]):
        on_front = any(row is best for best in front)
        axis.scatter(
            row["ms"],
            row[y],
            s=_area(row),
            facecolor=colours[_kind(row)] if on_front else "none",
            edgecolor=colours[_kind(row)],
            linewidth=1.3,
            alpha=0.9,
            zorder=3 if on_front else 2,
        )


def _name_networks(axis: Axes, rows: Sequence[Row], y: str) -> None:
    """Write each network's name over its fastest marker, above all of its markers."""
    for model in dict.fromkeys(row["model"] for row in rows):
        model_rows = [row for row in rows if row["model"] == model]
        axis.annotate(
            model,
            (min(row["ms"] for row in model_rows), max(row[y] for row in model_rows)),
            xytext=(0, 5 + np.sqrt(max(map(_area, model_rows))) / 2),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )


def _format_axes(axis: Axes, batch_size: int, has_accuracy: bool) -> None:
    axis.set_xscale("log")
    # Latencies span about one decade: ticks at powers of ten only would leave one label.
    axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    faces = "face" if batch_size == 1 else f"call of {batch_size} faces"
    axis.set_xlabel(f"milliseconds per {faces}, median")
    axis.margins(0.12, 0.2)
    if has_accuracy:
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
        axis.set_ylabel("accuracy on val")
        axis.set_title("Filled: Pareto front of accuracy, latency and size (area)")
    else:
        axis.set_ylabel("file size, MB")
        axis.set_title("Accuracy not measured. Filled: Pareto front of latency and size")
        axis.set_ylim(bottom=0)
    axis.grid()


def draw(rows: Sequence[Row], front: Sequence[Row], style: FigureStyle) -> Figure:
    """Draw the comparable rows and their Pareto front."""
    has_accuracy = any(row["accuracy"] is not None for row in rows)
    y = "accuracy" if has_accuracy else "size_mb"
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    kinds = list(dict.fromkeys(map(_kind, rows)))
    colours = {kind: style.cycle[i % len(style.cycle)] for i, kind in enumerate(kinds)}
    line: dict[str, Any] = {"color": style.quiet, "linestyle": "--"}
    if front:
        points = sorted((row["ms"], row[y]) for row in front)
        axis.plot(*zip(*points, strict=True), linewidth=1.2, zorder=1, **line)
    _draw_rows(axis, rows, y, front, colours)
    _name_networks(axis, rows, y)
    _format_axes(axis, rows[0]["batch"] if rows else 1, has_accuracy)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=" ".join(kind))
        for kind, colour in colours.items()
    ]
    if front:
        handles.append(Line2D([], [], label="Pareto front", **line))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
