"""Figure of a selection: score on val and estimated score by number of members."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emotion_lab.reports.style import FigureStyle

_TITLES = {"loss": "NLL (lower is better)", "accuracy": "accuracy", "macro_f1": "macro F1"}


def figure(content: dict[str, Any], style: FigureStyle) -> Figure:
    """Draw the score by ensemble size, with single runs and the average of all for comparison."""
    fig = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = fig.subplots()
    singles = [row["score"] for row in content["members"]]
    axis.scatter(
        [1] * len(singles), singles, s=14, color=style.quiet, label="single runs, val", zorder=2
    )
    axis.axhline(
        content["all_equal"]["score"],
        color=style.quiet,
        linestyle="--",
        label=f"all {len(singles)}, equal weights, val",
    )
    steps, estimates = content["steps"], content["nested"]
    for rows, colour, marker, label in (
        (steps, style.second, "o", "greedy selection, val (optimistic)"),
        (estimates, style.accent, "s", "images not used for the selection"),
    ):
        if rows:
            sizes, scores = [row["size"] for row in rows], [row["score"] for row in rows]
            axis.plot(sizes, scores, color=colour, marker=marker, markersize=4, label=label,
                      zorder=3)  # fmt: skip
    if steps:
        axis.axvline(content["size"], color=style.quiet, linestyle=":", label="selected size")
    if estimates and estimates[0]["score_std"] is not None:
        axis.fill_between(
            [row["size"] for row in estimates],
            [row["score"] - row["score_std"] for row in estimates],
            [row["score"] + row["score_std"] for row in estimates],
            color=style.accent,
            alpha=0.15,
            linewidth=0,
        )
    axis.set_xlabel("members, counted with repetition")
    axis.set_ylabel(_TITLES.get(content["metric"], content["metric"].replace("_", " ")))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_xlim(0.7, max(2, len(steps), len(estimates)) + 0.3)
    axis.grid()
    fig.legend(loc="outside lower center", ncols=2)
    return fig
