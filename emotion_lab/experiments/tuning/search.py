"""Run or resume a search: study, trials, summary and figures in one directory."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import monitor_mode
from emotion_lab.core.tables import show
from emotion_lab.core.wording import counted
from emotion_lab.experiments.sweep.subprocess_job import LOG
from emotion_lab.experiments.tuning import runner, summary
from emotion_lab.experiments.tuning import space as spaces
from emotion_lab.experiments.tuning import spec as search_spec
from emotion_lab.experiments.tuning import study as studies
from emotion_lab.experiments.tuning.space import Space
from emotion_lab.experiments.tuning.spec import SearchSpec


class SearchInterruptedError(UserError):
    """The user stopped the search; it is saved and can be resumed."""

    exit_code = 130


def _specification(cfg: DictConfig, overrides: list[str], folder: Path) -> SearchSpec:
    """Return the specification of a new or resumed search, and save it."""
    if cfg.resume is None:
        sweep = compose.to_container(cfg.sweep)
        space = [str(text) for text in sweep.pop("space")]
        fixed = search_spec.trial_overrides(overrides)
        spec = SearchSpec(fixed, space, sweep, str(cfg.monitor), monitor_mode(cfg))
    else:
        spec = search_spec.load(folder)
        # The time limit applies to one process.
        spec.sweep["timeout"] = cfg.sweep.timeout
        if any(text.startswith("sweep.trials=") for text in overrides):
            spec.sweep["trials"] = cfg.sweep.trials
    spec.save(folder)
    return spec


def plan(
    spec: SearchSpec,
    space: Space,
    folder: Path,
    max_epochs: int,
    n_trials: int,
    default_space: bool,
) -> list[str]:
    """Return the lines that announce a search with ``n_trials`` trials already in the study."""
    sweep = spec.sweep
    existing = f" ({n_trials} already in the study)" if n_trials else ""
    limit = "" if sweep["timeout"] is None else f", no new trial after {sweep['timeout']:g} s"
    source = " (sweep.space, as no option has several values)" if default_space else ""
    return [
        f"planned: {counted(sweep['trials'], 'trial')}{existing} of at most "
        f"{counted(max_epochs, 'epoch')}{limit}; "
        f"sampler {sweep['sampler']}, pruner {sweep['pruner']}, metric {spec.monitor} "
        f"({spec.mode})",
        f"search space{source}: {'  '.join(space.typed)}",
        f"the output of each trial is in {folder}/<trial>/{LOG}",
    ]


def summarize(
    study: optuna.Study, space: Space, spec: SearchSpec, folder: Path, printed: Collection[str]
) -> dict[str, Any]:
    """Write the summary and the figures, print the table; return the summary.

    ``printed`` are the reasons of failed trials that are not repeated.
    """
    # matplotlib is slow to import.
    from emotion_lab.experiments.tuning.figures import write_search_figures

    content, rows = summary.write(study, space, spec, folder)
    write_search_figures(study, spec.monitor, folder, bool(content["importances"]))
    show(*summary.lines(content, rows, space, printed), str(folder))
    return content


def search(cfg: DictConfig, overrides: list[str], folder: Path) -> float:
    """Run all trials of the study; return the best value."""
    spec = _specification(cfg, overrides, folder)
    space = spaces.read(spec.space, spec.overrides)
    max_epochs = space.max_epochs()
    study = studies.open_study(folder, spec, max_epochs)
    typed = any(text.startswith("sweep.space=") for text in overrides)
    n_trials = len(study.get_trials(deepcopy=False))
    show(*plan(spec, space, folder, max_epochs, n_trials, cfg.resume is None and not typed))
    printed: dict[str, int] = {}
    try:
        runner.run_trials(study, space, spec, folder, printed)
    except KeyboardInterrupt:
        summarize(study, space, spec, folder, printed)
        command = f"python -m emotion_lab.sweep resume={shlex.quote(str(folder))}"
        raise SearchInterruptedError(f"stopped and saved. Resume with: {command}") from None
    content = summarize(study, space, spec, folder, printed)
    if content["best"] is None:
        raise UserError(f"no trial finished; see the reasons in {folder / 'summary.csv'}.")
    return float(content["best"]["value"])
