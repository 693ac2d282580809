"""Figure of a cross-validation: scores of the folds, their mean, and the pool with its interval."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from emotion_lab.evaluation.statistics import drawn_units
from emotion_lab.reports.style import FigureStyle

#: Maximum number of fold labels.
_MAX_LABELS = 12


def figure(content: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw accuracy and macro F1 of every fold and of the pool."""
    height = min(1.5 + 0.24 * content["folds"], 5.5)
    fig = Figure(figsize=(6.6, height), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    rows = content["per_fold"]
    unit = drawn_units(content["groups"])
    pool_y = len(rows) + 0.4
    for axis, key, title in zip(
        axes, ("accuracy", "macro_f1"), ("accuracy", "macro F1"), strict=True
    ):
        values = [row[key] for row in rows]
        mean, interval = content["over_folds"][key]["mean"], content[f"{key}_ci95"]
        axis.axvline(mean, color=style.quiet, linestyle=":", label="mean over folds")
        axis.scatter(values, range(len(values)), color=style.second, s=22, label="fold", zorder=3)
        if interval is not None:
            axis.plot(interval, [pool_y, pool_y], color=style.accent)
        axis.scatter(
            [content[key]],
            [pool_y],
            color=style.accent,
            marker="D",
            s=30,
            label=f"pool, 95 % interval over {unit}",
            zorder=3,
        )
        axis.set_xlabel(title)
        axis.margins(x=0.12)
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    step = -(-len(rows) // _MAX_LABELS)
    labelled = range(0, len(rows), step)
    names = [f"fold {i} (n = {rows[i]['n']:,})" for i in labelled]
    axes[0].set_yticks([*labelled, pool_y], [*names, f"pool (n = {content['n']:,})"])
    axes[0].set_ylim(len(rows) + 0.9, -0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig
