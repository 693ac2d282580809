"""Figures of the data audit: class distribution, brightness, contrast and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.reports.style import LIGHT

COLOURS = {"train": LIGHT.train, "val": LIGHT.val, "test": LIGHT.cycle[2]}


def draw_class_counts(stats: ImageStats, path: Path) -> Path:
    """Draw the class distribution of each split, with the number of images above each bar."""
    k, splits = len(stats.classes), stats.splits
    figure = Figure(figsize=(max(6.0, 1.25 * k + 1), 3.2))
    axis = figure.subplots()
    width = 0.8 / len(splits)
    for s, name in enumerate(splits):
        counts = np.bincount(stats.label[stats.split == s], minlength=k)
        fractions = counts / max(counts.sum(), 1)
        x = np.arange(k) + (s - (len(splits) - 1) / 2) * width
        label = f"{name} ({counts.sum():,})"
        axis.bar(x, fractions, width * 0.92, color=COLOURS[name], label=label)
        for centre, height, n in zip(x, fractions, counts.tolist(), strict=True):
            axis.text(centre, height, f" {n}", ha="center", va="bottom", fontsize=6.5, rotation=90)
    axis.set_xticks(range(k), stats.classes)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_ylabel("fraction of the split")
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=len(splits), loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


def draw_distributions(stats: ImageStats, path: Path) -> Path:
    """Draw histograms of brightness, contrast and, if it varies, the shorter side of each split."""
    readable = stats.readable
    shorter = np.minimum(stats.width, stats.height)
    plots = [
        ("brightness (mean grey level)", stats.brightness, np.linspace(0, 255, 52)),
        ("contrast (std of the grey levels)", stats.contrast, np.linspace(0, 128, 52)),
    ]
    if len(np.unique(shorter[readable])) > 1:
        plots.append(("shorter side (pixels)", shorter, _size_edges(shorter[readable])))
    figure = Figure(figsize=(4 * len(plots), 2.9))
    axes = figure.subplots(1, len(plots))
    for axis, (title, values, edges) in zip(axes, plots, strict=True):
        for s, name in enumerate(stats.splits):
            data = values[readable & (stats.split == s)]
            if len(data):
                weights = np.full(len(data), 1 / len(data))
                axis.hist(
                    data, edges, weights=weights, histtype="step", color=COLOURS[name], label=name
                )
        axis.set_xlabel(title)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("fraction of the split")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


def _size_edges(sides: np.ndarray) -> np.ndarray:
    """Return the edges of about 50 bins centred at integers."""
    low, high = int(sides.min()), int(sides.max())
    step = max(1, (high - low) // 50)
    return np.arange(low - step / 2 - step, high + 2 * step, step)
