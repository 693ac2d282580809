"""Figures of runs and reports.

Each function takes numbers and a :class:`FigureStyle` (its colours) and returns a matplotlib
figure; :mod:`emotion_lab.reports.style` renders it. A class without samples has no curve or bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emotion_lab.core.runs import read_history
from emotion_lab.reports.style import FigureStyle

#: Inches. Narrow, so that 10 pt text stays readable on a phone that is 390 px wide.
WIDTH = 5.2
_DASHES = ("-", "--", "-.", ":")
_NO_SAMPLES = "no samples"


def _percent() -> PercentFormatter:
    return PercentFormatter(1, decimals=0, symbol=" %")


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def class_label(name: str, limit: int = 22) -> str:
    """Return a name as one printable line; a leading _ gets a space, else legends hide it."""
    name = " ".join(name.encode("utf-8", "backslashreplace").decode().split())
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return f" {name}" if name.startswith("_") else name


def _legend_below(figure: Figure, columns: int, **options: Any) -> None:
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2.2, **options)


def _unit_square(axis: Axes, x: str, y: str) -> None:
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axis.grid()


def confusion(
    counts: Any,
    classes: Sequence[str],
    style: FigureStyle,
    cells: Literal["count", "percent", "both"] = "count",
    title: str | None = None,
) -> Figure:
    """Draw a confusion matrix; the colour is the fraction of the true class.

    Args:
        counts: Integers (K, K), rows true, columns predicted.
        classes: K names.
        cells: Text of a cell: the count, the percentage of the true class, or both.
    """
    counts = np.asarray(counts, dtype=np.int64)
    totals = counts.sum(1)
    fraction = counts / np.maximum(totals, 1)[:, None]
    size = len(counts)
    figure, axis = _figure(min(1.1 + 0.53 * size, WIDTH + 0.4) if size < 12 else WIDTH + 0.4)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    shades = LinearSegmentedColormap.from_list("shades", style.shades)
    image = axis.imshow(fraction, cmap=shades, vmin=0, vmax=1, aspect="auto")
    # Two lines of text need a smaller font.
    points = (9.5 if size < 9 else max(4.0, 76 / size)) * (0.8 if cells == "both" else 1)
    for i, j in np.ndindex(size, size):
        text = {
            "count": str(counts[i, j]),
            "percent": f"{fraction[i, j] * 100:.0f}",
            "both": f"{fraction[i, j] * 100:.0f} %\n{counts[i, j]}",
        }[cells]
        if not totals[i] and cells == "count":
            text = "\N{EN DASH}"
        elif not totals[i]:
            text = _NO_SAMPLES if j == size // 2 else ""
        red, green, blue, _ = image.cmap(image.norm(fraction[i, j]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        colour = "#10151b" if light else "#f7f9fb"
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=points)
    names = [class_label(name, 14) for name in classes]
    axis.set_xticks(range(size), names, rotation=38, ha="right")
    axis.set_yticks(range(size), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def _class_curves(
    curves: dict[str, Any],
    keys: tuple[str, str, str],
    symbol: str,
    style: FigureStyle,
    drawstyle: str,
) -> tuple[Figure, Axes]:
    """Draw one curve per class; line styles change when the colours run out."""
    figure, axis = _figure(4.4 + 0.2 * max(0, -(-len(curves) // 2) - 4))
    for index, (name, curve) in enumerate(curves.items()):
        turn, colour = divmod(index, len(style.cycle))
        line = {"color": style.cycle[colour], "linestyle": _DASHES[turn % len(_DASHES)]}
        value = None if curve is None else curve[keys[2]]
        if value is None:
            note = _NO_SAMPLES if curve is None else "undefined"
            axis.plot([], [], label=f"{class_label(name)}  {note}", **line)
            continue
        label = f"{class_label(name)}  {symbol} {value:.3f}"
        axis.plot(curve[keys[0]], curve[keys[1]], label=label, drawstyle=drawstyle, **line)
    axis.set_box_aspect(0.72)
    return figure, axis


def roc(curves: dict[str, dict[str, Any] | None], style: FigureStyle) -> Figure:
    """Draw one-vs-rest ROC curves, see :func:`emotion_lab.evaluation.curves.roc`."""
    figure, axis = _class_curves(curves, ("fpr", "tpr", "auc"), "AUC", style, "default")
    axis.plot([0, 1], [0, 1], color=style.quiet, linewidth=1, linestyle=":")
    _unit_square(axis, "false positive rate", "true positive rate")
    _legend_below(figure, 2)
    return figure


def precision_recall(curves: dict[str, dict[str, Any] | None], style: FigureStyle) -> Figure:
    """Draw the curves of :func:`emotion_lab.evaluation.curves.precision_recall`."""
    figure, axis = _class_curves(curves, ("recall", "precision", "ap"), "AP", style, "steps-post")
    _unit_square(axis, "recall", "precision")
    _legend_below(figure, 2)
    return figure


def reliability(
    raw: list[dict[str, Any]],
    calibrated: list[dict[str, Any]] | None,
    style: FigureStyle,
    ece: float | None = None,
    ece_calibrated: float | None = None,
) -> Figure:
    """Draw a reliability diagram: accuracy against confidence, and the fraction of each bin below.

    Args:
        raw: See :func:`emotion_lab.evaluation.calibration.reliability`.
        calibrated: The bins after temperature scaling, None without a temperature.
        ece: Expected calibration error, 0 to 1.
        ece_calibrated: The error after temperature scaling.
    """
    ratios = {"height_ratios": [3.4, 1]}
    figure, (top, bottom) = _figure(4.9, 2, 1, sharex=True, gridspec_kw=ratios)
    top.plot([0, 1], [0, 1], color=style.quiet, linewidth=1, linestyle=":", label="perfect")
    for name, bins, error, colour, marker in (
        ("before", raw, ece, style.second, "o"),
        ("after", calibrated, ece_calibrated, style.accent, "s"),
    ):
        filled = [row for row in bins or [] if row["count"]]
        if not filled:
            continue
        total = sum(row["count"] for row in filled)
        x = [row["confidence"] for row in filled]
        label = name if calibrated else "as predicted"
        label += "" if error is None else f", ECE {error:.3f}"
        top.plot(x, [row["accuracy"] for row in filled], color=colour, marker=marker, markersize=4,
                 label=label)  # fmt: skip
        fraction = [row["count"] / total for row in filled]
        bottom.plot(x, fraction, color=colour, marker=marker, markersize=3)
        bottom.fill_between(x, fraction, color=colour, alpha=0.12)
    _unit_square(top, "", "accuracy")
    top.legend(loc="upper left")
    bottom.set(xlabel="confidence", ylabel="fraction", ylim=(0, None))
    bottom.yaxis.set_major_formatter(_percent())
    bottom.grid()
    return figure


def confidence(confidences: Any, correct: Any, style: FigureStyle) -> Figure:
    """Draw histograms of the confidence (N,) of right and wrong predictions; 0 to 1."""
    confidences, correct = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=bool)
    figure, axis = _figure(3.5)
    edges = np.linspace(0, 1, 26)
    for name, values, colour in (
        ("right", confidences[correct], style.accent),
        ("wrong", confidences[~correct], style.second),
    ):
        mean = f", mean {values.mean():.2f}" if len(values) else ""
        label = f"{name}, n = {len(values):,}{mean}"
        axis.hist(values, edges, color=colour, alpha=0.28)
        axis.hist(values, edges, color=colour, histtype="step", linewidth=1.6, label=label)
    axis.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
    axis.grid(axis="y")
    axis.legend(loc="upper left")
    return figure


def coverage(rows: list[dict[str, Any]], style: FigureStyle) -> Figure:
    """Draw the accuracy among the most confident fraction of the images, by coverage."""
    figure, axis = _figure(3.5)
    rows = sorted((row for row in rows if row["accuracy"] is not None),
                  key=lambda row: row["coverage"])  # fmt: skip
    axis.plot([r["coverage"] for r in rows], [r["accuracy"] for r in rows], color=style.accent)
    if rows:
        overall = rows[-1]["accuracy"]
        axis.axhline(overall, color=style.quiet, linestyle=":", linewidth=1)
        axis.annotate(f"all images: {overall * 100:.1f} %", (0.02, overall), xytext=(0, 4),
                      textcoords="offset points")  # fmt: skip
    axis.set(xlim=(0, 1.01), xlabel="coverage (fraction of images kept)", ylabel="accuracy")
    for dimension in (axis.xaxis, axis.yaxis):
        dimension.set_major_formatter(_percent())
    axis.grid()
    return figure


def per_class(rows: dict[str, dict[str, Any]], style: FigureStyle) -> Figure:
    """Draw precision, recall and F1 of each class as bars, with the 95 % interval of F1.

    Args:
        rows: Class -> ``precision``, ``recall``, ``f1``, ``support`` and optionally ``f1_ci95``.
    """
    figure, axis = _figure(1.1 + 0.62 * len(rows))
    bars = (("precision", style.quiet, 1), ("recall", style.accent, 0.5), ("f1", style.accent, 1))
    for position, row in enumerate(rows.values()):
        if not row["support"]:
            axis.text(0.01, position, _NO_SAMPLES, va="center", color=style.quiet)
            continue
        for step, (key, colour, strength) in enumerate(bars):
            y = position + (step - 1) * 0.25
            axis.barh(y, row[key], 0.21, color=colour, alpha=strength)
            end = row[key]
            if key == "f1" and row.get("f1_ci95"):
                low, high = row["f1_ci95"]
                axis.plot([low, high], [y, y], color=style.ink, linewidth=1.1)
                end = max(end, high)
            axis.text(end + 0.008, y, f"{row[key]:.2f}", va="center", fontsize=7.5)
    last = "F1, 95 % interval" if any(row.get("f1_ci95") for row in rows.values()) else "F1"
    handles = [
        Patch(color=colour, alpha=strength, linewidth=0, label=last if key == "f1" else key)
        for key, colour, strength in bars
    ]
    names = [f"{class_label(name, 14)}\nn = {row['support']:,}" for name, row in rows.items()]
    axis.set_yticks(range(len(rows)), names)
    axis.set(xlim=(0, 1.06), ylim=(len(rows) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    _legend_below(figure, 3, handles=handles)
    return figure


def robustness(values: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw accuracy against severity, one panel per corruption; the other curves are grey.

    ``values`` are those of :func:`emotion_lab.evaluation.robustness.robustness`.
    """
    clean = values["clean"]
    lines = {k: [clean, *v] for k, v in values.items() if k not in ("n", "clean")}
    columns = 3
    rows = -(-len(lines) // columns)
    figure, axes = _figure(0.5 + 1.45 * rows, rows, columns, sharex=True, sharey=True,
                           squeeze=False)  # fmt: skip
    for axis, (name, line) in zip(axes.flat, lines.items(), strict=False):
        for other in lines.values():
            axis.plot(range(len(other)), other, color=style.quiet, alpha=0.45, linewidth=0.7)
        axis.plot(range(len(line)), line, color=style.accent, marker="o", markersize=2.8)
        end = (len(line) - 1, line[-1])
        axis.annotate(f"{line[-1] * 100:.0f} %", end, xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axis.set_title(class_label(name.replace("_", " "), 18))
        axis.set(xlim=(-0.25, len(line) + 0.3), ylim=(0, min(1, clean + 0.12)))
        axis.set_xticks(range(len(line)))
        axis.yaxis.set_major_formatter(_percent())
        axis.grid()
    for axis in axes.flat[len(lines) :]:
        axis.set_visible(False)
    figure.supxlabel("severity (0 = clean)", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


def curves(history: Path, style: FigureStyle, title: str | None = None) -> Figure:
    """Draw ``history.csv``: loss, accuracy, macro F1 and learning rate; a line marks the best."""
    rows = read_history(history)
    epochs = [int(row["epoch"]) for row in rows]
    best = [int(row["epoch"]) for row in rows if row["best"]][-1:]
    # Single points have no line: mark them.
    marker = "o" if len(rows) == 1 else None
    figure, axes = _figure(4.4, 2, 2, sharex=True)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    # Runs of earlier versions may have no cross-entropy, which is the loss of today.
    loss = "loss" if all(f"{stage}/loss" in rows[-1] for stage in ("train", "val")) else "criterion"
    for axis, name in zip(axes.flat, (loss, "accuracy", "macro_f1"), strict=False):
        for stage, colour in (("train", style.train), ("val", style.val)):
            values = [row.get(f"{stage}/{name}", math.nan) for row in rows]
            axis.plot(epochs, values, color=colour, label=stage, marker=marker)
        for epoch in best:
            axis.axvline(epoch, color=style.ink, linestyle=":", linewidth=1, label="best")
        axis.set_title(name.replace("_", " ").replace("f1", "F1"))
    axes[1, 1].plot(epochs, [row["lr"] for row in rows], color=style.ink, marker=marker)
    axes[1, 1].set_title("learning rate")
    for axis in axes.flat:
        axis.grid()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.ticklabel_format(axis="y", useOffset=False)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    _legend_below(figure, 3, handles=handles, labels=labels)
    return figure


def image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    correct: Sequence[bool],
    style: FigureStyle,
    columns: int = 8,
    width: float = 1.5,
    title: str | None = None,
    scale: tuple[Colormap, str] | None = None,
) -> Figure:
    """Draw a grid of images with captions; captions of wrong predictions are coloured.

    Args:
        images: uint8 (H, W, C), C = 1 or 3.
        captions: One for each image.
        correct: Whether each prediction is correct.
        columns: Maximum number of columns.
        width: Width of a column in inches.
        scale: Colour map and label of a scale from 0 to 1, for images with a heat map.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(width * columns, 1.85 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption, good in zip(axes.flat, images, captions, correct, strict=False):
        axis.imshow(image.squeeze(), cmap="gray" if image.shape[2] == 1 else None, vmin=0, vmax=255)
        axis.set_title(caption, fontsize=8, color=style.ink if good else style.second)
    if title is not None:
        figure.suptitle(title, fontsize=9)
    if scale is not None:
        bar = figure.colorbar(ScalarMappable(cmap=scale[0]), ax=axes, location="bottom", aspect=40)
        bar.set_label(scale[1], fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure
