"""The report's figures, from plain numbers.

Each figure is a function of its numbers and a :class:`FigureStyle`; ``style.both`` draws it in a
light and a dark version.
A class without samples is shown as "no samples", never as a curve at 0.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from emotion_lab.reports.style import FigureStyle

#: Inches. Narrow on purpose: 10 pt text is still readable where a phone shows 390 px.
WIDTH = 5.2
_DASHES = ("-", "--", "-.", ":")
_NO_SAMPLES = "no samples"


def _percent() -> PercentFormatter:
    return PercentFormatter(1, decimals=0, symbol=" %")


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _text(name: str, limit: int = 22) -> str:
    """Return a name that any font can draw on one line; legends drop names that begin with _."""
    name = " ".join(name.encode("utf-8", "backslashreplace").decode().split())
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return f" {name}" if name.startswith("_") else name


def _below(axis: Axes, columns: int, **options: Any) -> None:
    figure = axis.get_figure()
    figure.legend(loc="outside lower center", ncols=columns, handlelength=2.2, **options)


def _unit_square(axis: Axes, x: str, y: str) -> None:
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y)
    axis.grid()


def confusion(counts: Any, classes: Sequence[str], style: FigureStyle, normalized: bool) -> Figure:
    """Draw the confusion matrix.

    Args:
        counts: Integers (K, K), rows true, columns predicted.
        classes: K names.
        style: The colours.
        normalized: Write each row's shares in percent, instead of counts.
    """
    counts = np.asarray(counts, dtype=np.int64)
    totals = counts.sum(1)
    share = counts / np.maximum(totals, 1)[:, None]
    size = len(counts)
    figure, axis = _figure(min(1.1 + 0.53 * size, WIDTH + 0.4) if size < 12 else WIDTH + 0.4)
    shades = LinearSegmentedColormap.from_list("shades", style.shades)
    image = axis.imshow(share, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(size, size):
        text = f"{share[i, j] * 100:.0f}" if normalized else str(counts[i, j])
        if not totals[i]:
            text = _NO_SAMPLES if normalized and j == size // 2 else "" if normalized else "–"
        red, green, blue, _ = image.cmap(image.norm(share[i, j]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        colour = "#10151b" if light else "#f7f9fb"
        points = 9.5 if size < 9 else max(4.0, 76 / size)
        axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=points)
    axis.set_xticks(range(size), [_text(name, 14) for name in classes], rotation=38, ha="right")
    axis.set_yticks(range(size), [_text(name, 14) for name in classes])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def _class_curves(
    curves: dict[str, Any], keys: tuple[str, str, str], symbol: str, style: FigureStyle, drawn: str
) -> tuple[Figure, Axes]:
    """Draw one curve a class, told apart by colour and, beyond the colours, by dashes."""
    figure, axis = _figure(4.4 + 0.2 * max(0, -(-len(curves) // 2) - 4))
    for index, (name, curve) in enumerate(curves.items()):
        turn, colour = divmod(index, len(style.cycle))
        look = {"color": style.cycle[colour], "linestyle": _DASHES[turn % len(_DASHES)]}
        value = None if curve is None else curve[keys[2]]
        if value is None:
            note = _NO_SAMPLES if curve is None else "undefined"
            axis.plot([], [], label=f"{_text(name)}  {note}", **look)
            continue
        label = f"{_text(name)}  {symbol} {value:.3f}"
        axis.plot(curve[keys[0]], curve[keys[1]], label=label, drawstyle=drawn, **look)
    axis.set_box_aspect(0.72)
    return figure, axis


def roc(curves: dict[str, dict[str, Any] | None], style: FigureStyle) -> Figure:
    """Draw one-vs-rest ROC curves.

    Args:
        curves: Class -> ``fpr`` and ``tpr`` (shares, ascending) and ``auc``; None without samples,
            ``auc`` None where it is undefined (no other class).
        style: The colours.
    """
    figure, axis = _class_curves(curves, ("fpr", "tpr", "auc"), "AUC", style, "default")
    axis.plot([0, 1], [0, 1], color=style.quiet, linewidth=1, linestyle=":")
    _unit_square(axis, "false positive rate", "true positive rate")
    _below(axis, 2)
    return figure


def precision_recall(curves: dict[str, dict[str, Any] | None], style: FigureStyle) -> Figure:
    """Draw one-vs-rest precision-recall curves.

    Args:
        curves: Class -> ``recall``, ``precision`` (shares) and ``ap``; None without samples.
        style: The colours.
    """
    figure, axis = _class_curves(curves, ("recall", "precision", "ap"), "AP", style, "steps-post")
    _unit_square(axis, "recall", "precision")
    _below(axis, 2)
    return figure


def reliability(
    raw: list[dict[str, Any]],
    calibrated: list[dict[str, Any]] | None,
    style: FigureStyle,
    ece: float | None = None,
    ece_calibrated: float | None = None,
) -> Figure:
    """Draw accuracy against confidence, and below it how many predictions each bin has.

    Args:
        raw: Bins with ``confidence`` and ``accuracy`` (means of the bin, shares) and ``count``;
            empty bins are left out of the lines.
        calibrated: The same after temperature scaling, if there is a temperature.
        style: The colours.
        ece: Expected calibration error, a share.
        ece_calibrated: The same after temperature scaling.
    """
    ratios = {"height_ratios": [3.4, 1]}
    figure, (top, bottom) = _figure(4.9, 2, 1, sharex=True, gridspec_kw=ratios)
    top.plot([0, 1], [0, 1], color=style.quiet, linewidth=1, linestyle=":", label="perfect")
    given = [
        ("before", raw, ece, style.second, "o"),
        ("after", calibrated, ece_calibrated, style.accent, "s"),
    ]
    for name, bins, error, colour, marker in given:
        filled = [row for row in bins or [] if row["count"]]
        if not filled:
            continue
        total = sum(row["count"] for row in filled)
        x = [row["confidence"] for row in filled]
        label = name if calibrated else "as predicted"
        label += "" if error is None else f", ECE {error:.3f}"
        top.plot(x, [row["accuracy"] for row in filled], color=colour, marker=marker, markersize=4,
                 label=label)  # fmt: skip
        share = [row["count"] / total for row in filled]
        bottom.plot(x, share, color=colour, marker=marker, markersize=3)
        bottom.fill_between(x, share, color=colour, alpha=0.12)
    _unit_square(top, "", "accuracy")
    top.legend(loc="upper left")
    bottom.set(xlabel="confidence", ylabel="share", ylim=(0, None))
    bottom.yaxis.set_major_formatter(_percent())
    bottom.grid()
    return figure


def confidence(confidences: Any, right: Any, style: FigureStyle) -> Figure:
    """Draw how confident right and wrong predictions are.

    Args:
        confidences: Probability of the predicted class (N,), 0 to 1.
        right: bool (N,).
        style: The colours.
    """
    confidences, right = np.asarray(confidences, dtype=float), np.asarray(right, dtype=bool)
    figure, axis = _figure(3.5)
    edges = np.linspace(0, 1, 26)
    kinds = (("right", confidences[right], style.accent), ("wrong", confidences[~right],
             style.second))  # fmt: skip
    for name, values, colour in kinds:
        mean = f", mean {values.mean():.2f}" if len(values) else ""
        label = f"{name}, n = {len(values):,}{mean}"
        axis.hist(values, edges, color=colour, alpha=0.28)
        axis.hist(values, edges, color=colour, histtype="step", linewidth=1.6, label=label)
    axis.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
    axis.grid(axis="y")
    axis.legend(loc="upper left")
    return figure


def coverage(rows: list[dict[str, Any]], style: FigureStyle) -> Figure:
    """Draw the accuracy among the most confident share of the images.

    Args:
        rows: ``coverage`` and ``accuracy``, shares; ``threshold`` is not drawn.
        style: The colours.
    """
    figure, axis = _figure(3.5)
    rows = sorted((row for row in rows if row["accuracy"] is not None),
                  key=lambda row: row["coverage"])  # fmt: skip
    axis.plot([r["coverage"] for r in rows], [r["accuracy"] for r in rows], color=style.accent)
    if rows:
        whole = rows[-1]["accuracy"]
        axis.axhline(whole, color=style.quiet, linestyle=":", linewidth=1)
        axis.annotate(f"all images: {whole * 100:.1f} %", (0.02, whole), xytext=(0, 4),
                      textcoords="offset points")  # fmt: skip
    axis.set(xlim=(0, 1.01), xlabel="coverage (share of images answered)", ylabel="accuracy")
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(_percent())
    axis.grid()
    return figure


def per_class(rows: dict[str, dict[str, Any]], style: FigureStyle) -> Figure:
    """Draw precision, recall and F1 of every class as bars, with the 95 % interval of F1.

    Args:
        rows: Class -> ``precision``, ``recall``, ``f1``, ``support`` and, if known, ``f1_ci95``.
        style: The colours.
    """
    figure, axis = _figure(1.1 + 0.62 * len(rows))
    bars = (("precision", style.quiet, 1), ("recall", style.accent, 0.5), ("f1", style.accent, 1))
    for place, row in enumerate(rows.values()):
        if not row["support"]:
            axis.text(0.01, place, _NO_SAMPLES, va="center", color=style.quiet)
            continue
        for step, (key, colour, strength) in enumerate(bars):
            y = place + (step - 1) * 0.25
            axis.barh(y, row[key], 0.21, color=colour, alpha=strength)
            text = f"{row[key]:.2f}"
            end = row[key]
            if key == "f1" and row.get("f1_ci95"):
                low, high = row["f1_ci95"]
                axis.plot([low, high], [y, y], color=style.ink, linewidth=1.1)
                end = max(end, high)
            axis.text(end + 0.008, y, text, va="center", fontsize=7.5)
    last = "F1, 95 % interval" if any(row.get("f1_ci95") for row in rows.values()) else "F1"
    handles = [
        Patch(color=colour, alpha=strength, linewidth=0, label=last if key == "f1" else key)
        for key, colour, strength in bars
    ]
    names = [f"{_text(name, 14)}\nn = {row['support']:,}" for name, row in rows.items()]
    axis.set_yticks(range(len(rows)), names)
    axis.set(xlim=(0, 1.06), ylim=(len(rows) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x")
    _below(axis, 3, handles=handles)
    return figure


def robustness(values: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw accuracy against severity, one panel a corruption with the others in grey behind.

    Args:
        values: ``n``, ``clean`` (accuracy) and corruption -> accuracies at severities 1, 2, ...
        style: The colours.
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
        axis.set_title(_text(name.replace("_", " "), 18))
        axis.set(xlim=(-0.25, len(line) + 0.3), ylim=(0, min(1, clean + 0.12)))
        axis.set_xticks(range(len(line)))
        axis.yaxis.set_major_formatter(_percent())
        axis.grid()
    for axis in axes.flat[len(lines) :]:
        axis.set_visible(False)
    figure.supxlabel("severity (0 = clean)", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


def curves(history: Path, style: FigureStyle) -> Figure:
    """Draw loss, accuracy, macro F1 and learning rate by epoch.

    Args:
        history: ``history.csv`` of a training run.
        style: The colours.

    Raises:
        OSError: If it cannot be read.
    """
    with open(history, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    best = [e for e, row in zip(epochs, rows, strict=True) if row["best"] == "True"][-1:]
    figure, axes = _figure(4.4, 2, 2, sharex=True)
    for axis, name in zip(axes.flat, ("loss", "accuracy", "macro_f1"), strict=False):
        for stage, colour in (("train", style.second), ("val", style.accent)):
            values = [float(row[f"{stage}/{name}"]) for row in rows]
            axis.plot(epochs, values, color=colour, label=stage)
        for epoch in best:
            axis.axvline(epoch, color=style.ink, linestyle=":", linewidth=1, label="best")
        axis.set_title(name.replace("_", " ").replace("f1", "F1"))
    axes[1, 1].plot(epochs, [float(row["lr"]) for row in rows], color=style.accent)
    axes[1, 1].set_title("learning rate")
    for axis in axes.flat:
        axis.grid()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.ticklabel_format(axis="y", useOffset=False)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    _below(axes[0, 0], 3, handles=handles, labels=labels)
    return figure
