"""The picture of a cross-validation: each fold, their mean, the pool with its interval."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from emotion_lab.reports.style import FigureStyle

#: Folds up to this many have a name each.
_NAMED = 12


def figure(found: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw accuracy and macro F1 of every fold beside those of the pool.

    Args:
        found: The content of ``folds.json``.
        style: The colours.
    """
    made = Figure(figsize=(6.6, min(1.5 + 0.24 * found["folds"], 5.5)), layout="constrained")
    rows = found["per_fold"]
    for axis, (key, title) in zip(
        made.subplots(1, 2, sharey=True),
        (("accuracy", "accuracy"), ("macro_f1", "macro F1")),
        strict=True,
    ):
        values = [row[key] for row in rows]
        mean = found["over_folds"][key]["mean"]
        axis.axvline(mean, color=style.quiet, linestyle=":", label="mean over folds")
        axis.scatter(values, range(len(values)), color=style.second, s=22, label="a fold", zorder=3)
        place, between = len(values) + 0.4, found[f"{key}_ci95"]
        if between is not None:
            axis.plot(between, [place, place], color=style.accent)
        axis.scatter(
            [found[key]],
            [place],
            color=style.accent,
            marker="D",
            s=30,
            label="pool, 95 % over images",
            zorder=3,
        )
        axis.set_xlabel(title)
        axis.margins(x=0.12)
        axis.grid(axis="x")
    step = -(-len(rows) // _NAMED)
    named = [i for i in range(len(rows)) if i % step == 0]
    axes = made.axes
    names = [f"fold {i} (n = {rows[i]['n']:,})" for i in named]
    axes[0].set_yticks([*named, len(rows) + 0.4], [*names, f"pool (n = {found['n']:,})"])
    axes[0].set_ylim(len(rows) + 0.9, -0.6)
    for axis in axes:
        axis.tick_params(axis="y", length=0)
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=3)
    return made
