"""Figures of a search, drawn by Optuna, and of the learning-rate range test."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from emotion_lab.core.io import atomic_write
from emotion_lab.experiments.tuning.study import importance_evaluator
from emotion_lab.reports.style import FigureStyle

#: Wide enough for the tick labels between the last axis and the colour bar.
_SETTINGS: dict[Any, Any] = {"figure.figsize": (9.0, 4.8), "figure.dpi": 110}


def _tidy(name: str, axes: list[Any]) -> None:
    """Set the ticks of an Optuna figure: integer trial numbers, labels that do not overlap."""
    for axis in axes:
        if name == "history":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        elif name == "slices":
            labels = axis.get_xticklabels()
            plt.setp(labels, rotation=30, ha="right", rotation_mode="anchor")
        elif name == "importances":
            axis.set_xlim(right=1.08 * axis.get_xlim()[1])


def write_search_figures(
    study: optuna.Study, monitor: str, folder: Path, with_importances: bool
) -> None:
    """Write ``history.png``, ``slices.png``, ``parallel.png`` and ``importances.png``.

    Figures that need more completed trials than the study has are left out.
    """
    n_complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    draw: dict[str, Callable[..., Any]] = {}
    if n_complete:
        draw["history"] = plots.plot_optimization_history
    if n_complete > 1:
        draw["slices"] = plots.plot_slice
        draw["parallel"] = plots.plot_parallel_coordinate
    if with_importances:
        evaluator = importance_evaluator()
        draw["importances"] = partial(plots.plot_param_importances, evaluator=evaluator)
    plt.switch_backend("Agg")
    for name, plot in draw.items():
        # Optuna changes the global style; the context restores it.
        with matplotlib.rc_context(_SETTINGS):
            axes = np.ravel(plot(study, target_name=monitor))
            _tidy(name, list(axes))
            figure = axes[0].figure
            buffer = io.BytesIO()
            figure.savefig(buffer, bbox_inches="tight")
            plt.close(figure)
        atomic_write(folder / f"{name}.png", buffer.getvalue())


def lr_curve(
    rates: Sequence[float], losses: Sequence[float], suggestion: float, style: FigureStyle
) -> Figure:
    """Draw smoothed losses (N,) over increasing learning rates (N,), with the suggested rate."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses, color=style.train)
    axis.set_xscale("log")
    # Plain text instead of powers in TeX, as all text in figures.
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    index = int(np.argmin(np.abs(np.asarray(rates) - suggestion)))
    axis.plot([rates[index]], [losses[index]], "o", color=style.ink, markersize=8)
    axis.axvline(suggestion, color=style.ink, linestyle=":")
    start, low = losses[0], min(losses)
    # The diverging part is cut off.
    axis.set_ylim(low - 0.1 * (start - low), min(max(losses), start + (start - low)) * 1.01)
    axis.set(xlabel="learning rate", ylabel="training loss (smoothed)")
    axis.set_title(f"steepest decrease of the loss at learning rate {suggestion:g}")
    axis.grid()
    return figure
