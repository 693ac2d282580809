"""Pictures of the data: classes by split, brightness, contrast and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.reports.plots import MARK, TRAIN, VAL, plt

COLOURS = {"train": TRAIN, "val": VAL, "test": MARK}


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def class_counts(looked: ImageStats, path: Path) -> Path:
    """Draw the share of each class in each split, the number of images above each bar."""
    k, splits = len(looked.classes), looked.splits
    figure, axis = plt.subplots(figsize=(max(6.0, 1.25 * k + 1), 3.2))
    width = 0.8 / len(splits)
    for s, name in enumerate(splits):
        counts = np.bincount(looked.label[looked.split == s], minlength=k)
        share = counts / max(counts.sum(), 1)
        x = np.arange(k) + (s - (len(splits) - 1) / 2) * width
        axis.bar(x, share, width * 0.92, color=COLOURS[name], label=f"{name} ({counts.sum():,})")
        for place, value, n in zip(x, share, counts.tolist(), strict=True):
            axis.text(place, value, f" {n}", ha="center", va="bottom", fontsize=6.5, rotation=90)
    axis.set_xticks(range(k), looked.classes)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_ylabel("share of the split")
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=len(splits), loc="lower right", bbox_to_anchor=(1, 1))
    return _save(figure, path)


def spreads(looked: ImageStats, path: Path) -> Path:
    """Draw brightness, contrast and (where it differs) shorter side of the images of each split."""
    good = looked.readable
    shorter = np.minimum(looked.width, looked.height)
    drawn = (
        ("brightness (mean grey level)", looked.brightness, np.linspace(0, 255, 52)),
        ("contrast (std of the grey levels)", looked.contrast, np.linspace(0, 128, 52)),
        ("shorter side (pixels)", shorter, _edges(shorter[good])),
    )
    # Images of one size need no picture of it.
    shown = drawn if len(np.unique(shorter[good])) > 1 else drawn[:2]
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 2.9))
    for axis, (title, values, edges) in zip(axes, shown, strict=True):
        for s, name in enumerate(looked.splits):
            mine = values[good & (looked.split == s)]
            if len(mine):
                weights = np.full(len(mine), 1 / len(mine))
                axis.hist(
                    mine, edges, weights=weights, histtype="step", color=COLOURS[name], label=name
                )
        axis.set_xlabel(title)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of the split")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    return _save(figure, path)


def _edges(sides: np.ndarray) -> np.ndarray:
    """Return edges of about 50 bins around whole pixels."""
    low, high = (int(sides.min()), int(sides.max())) if len(sides) else (0, 1)
    step = max(1, (high - low) // 50)
    return np.arange(low - step / 2 - step, high + 2 * step, step)
