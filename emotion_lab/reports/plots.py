"""Pictures of a run: learning curves, confusion matrix, sample predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

#: Okabe and Ito's colours, told apart by most colour-blind readers.
TRAIN, VAL, MARK = "#0072B2", "#D55E00", "#009E73"


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def curves(history: Path, path: Path, title: str) -> Path:
    """Draw loss, accuracy, macro F1 and learning rate by epoch from ``history.csv``."""
    with open(history, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    best = [e for e, row in zip(epochs, rows, strict=True) if row["best"] == "True"][-1]
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6))
    for axis, name in zip(axes, ("loss", "accuracy", "macro_f1"), strict=False):
        for stage, colour in (("train", TRAIN), ("val", VAL)):
            values = [float(row[f"{stage}/{name}"]) for row in rows]
            axis.plot(epochs, values, color=colour, marker="o", markersize=3, label=stage)
        axis.axvline(best, color=MARK, linestyle=":", label="best")
        axis.set_title(name.replace("_", " "))
    axes[0].legend(frameon=False)
    axes[3].plot(epochs, [float(row["lr"]) for row in rows], color=TRAIN, marker="o", markersize=3)
    axes[3].set_title("learning rate")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlim(0.5, len(epochs) + 0.5)
        axis.ticklabel_format(axis="y", useOffset=False)
    figure.suptitle(title)
    figure.tight_layout()
    return _save(figure, path)


def confusion(scores: dict[str, Any], path: Path, title: str) -> Path:
    """Draw the confusion matrix: colour is the share of the true class, text share and count."""
    counts = np.asarray(scores["confusion"], dtype=float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = len(counts)
    figure, axis = plt.subplots(figsize=(1.6 + 0.8 * size, 1.2 + 0.75 * size))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(size):
        for j in range(size):
            colour = "white" if share[i, j] > 0.55 else "black"
            text = f"{share[i, j]:.0%}\n{int(counts[i, j])}" if counts[i].sum() else "–"
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    axis.set_xticks(range(size), scores["classes"], rotation=40, ha="right")
    axis.set_yticks(range(size), scores["classes"])
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title)
    return _save(figure, path)


def samples(
    images: list[np.ndarray],
    captions: list[str],
    right: list[bool],
    path: Path,
    columns: int = 8,
    width: float = 1.5,
) -> Path:
    """Draw a grid of uint8 (H, W, C) images with captions, wrong ones in vermilion.

    ``width`` is that of a column, in inches.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    size = (width * columns, 1.85 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, caption, good in zip(axes.flat, images, captions, right, strict=False):
        axis.imshow(image.squeeze(), cmap="gray" if image.shape[2] == 1 else None, vmin=0, vmax=255)
        axis.set_title(caption, fontsize=8, color="black" if good else VAL)
    figure.tight_layout()
    return _save(figure, path)
