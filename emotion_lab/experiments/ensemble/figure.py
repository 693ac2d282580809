"""The picture of a selection: score against size, as val saw it and as it is worth."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emotion_lab.reports.style import FigureStyle

_TITLES = {"loss": "NLL (lower is better)", "accuracy": "accuracy", "macro_f1": "macro F1"}


def figure(found: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw the score of the growing ensemble, single runs and all alike beside it.

    Args:
        found: The content of ``ensemble.json``.
        style: The colours.
    """
    made = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = made.subplots()
    singles = [row["score"] for row in found["members"]]
    axis.scatter(
        [1] * len(singles), singles, s=14, color=style.quiet, label="single runs, val", zorder=2
    )
    equal = found["all_equal"]["score"]
    axis.axhline(equal, color=style.quiet, linestyle="--", label=f"all {len(singles)} alike, val")
    steps = found["steps"]
    if steps:
        axis.plot(
            [row["size"] for row in steps],
            [row["score"] for row in steps],
            color=style.second,
            marker="o",
            markersize=4,
            label="greedy, on the val that chose it",
            zorder=3,
        )
        axis.axvline(found["size"], color=style.quiet, linestyle=":", label="chosen size")
    rows = found["nested"]
    if rows:
        sizes, means = [row["size"] for row in rows], [row["score"] for row in rows]
        axis.plot(
            sizes,
            means,
            color=style.accent,
            marker="s",
            markersize=4,
            label="on the half that did not choose",
            zorder=3,
        )
        if rows[0]["score_std"] is not None:
            low = [row["score"] - row["score_std"] for row in rows]
            high = [row["score"] + row["score_std"] for row in rows]
            axis.fill_between(sizes, low, high, color=style.accent, alpha=0.15, linewidth=0)
    axis.set_xlabel("members, counted as often as they were chosen")
    title = _TITLES.get(found["metric"], found["metric"].replace("_", " "))
    axis.set_ylabel(title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlim(0.7, max(2, len(steps), len(rows)) + 0.3)
    axis.grid()
    made.legend(loc="outside lower center", ncols=2)
    return made
