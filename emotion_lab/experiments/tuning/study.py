"""Optuna's study, stored as an SQLite file in the search directory. Does not import torch.

Hydra's Optuna plugin is not used: its last release pins optuna 2.10, whose storage does not work
with SQLAlchemy 2.1, so its studies are in memory only and are lost with the process.
"""

from __future__ import annotations

import functools
import sqlite3
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from emotion_lab.experiments.tuning import spec as search_spec
from emotion_lab.experiments.tuning.space import Dimension, Space
from emotion_lab.experiments.tuning.spec import SearchSpec

#: Hyperband assigns a trial to a bracket by this name and the trial's number.
_NAME = "study"
#: Minimum number of completed trials to estimate importances.
MIN_TRIALS = 8


def _pruner(spec: SearchSpec, max_epochs: int) -> optuna.pruners.BasePruner:
    """Build the pruner; its steps are completed epochs, counted from 1."""
    sweep = spec.sweep
    min_epochs, reduction = sweep["min_epochs"], sweep["reduction_factor"]
    if sweep["pruner"] == "median":
        return optuna.pruners.MedianPruner(sweep["n_warmup_trials"], min_epochs)
    if sweep["pruner"] == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_epochs, reduction)
    if sweep["pruner"] == "hyperband":
        return optuna.pruners.HyperbandPruner(min_epochs, max(min_epochs, max_epochs), reduction)
    return optuna.pruners.NopPruner()


def _sampler(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """Build the sampler of one trial.

    Its seed is derived from the search seed and the trial number, so that a resumed study draws the
    same settings as an uninterrupted one, and does not repeat those of its first trials.
    """
    seed = int(np.random.SeedSequence([spec.sweep["seed"], number]).generate_state(1)[0])
    if spec.sweep["sampler"] == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    n_startup_trials = spec.sweep["n_startup_trials"]
    return optuna.samplers.TPESampler(n_startup_trials=n_startup_trials, seed=seed)


def open_study(folder: Path, spec: SearchSpec, max_epochs: int) -> optuna.Study:
    """Open the study of a search directory, or create it.

    SQLite keeps the file intact when the process is killed.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    file = folder / search_spec.STUDY
    search_spec.check_study_file(file)
    try:
        # The file is opened here, by its path. A database address cannot hold every path: "?", "#"
        # and "%" have a meaning in it, and versions of SQLAlchemy quote them differently.
        connect = functools.partial(sqlite3.connect, file.resolve(), check_same_thread=False)
        study = optuna.create_study(
            storage=RDBStorage(f"sqlite:///{search_spec.STUDY}", {"creator": connect}),
            study_name=_NAME,
            direction="maximize" if spec.mode == "max" else "minimize",
            pruner=_pruner(spec, max_epochs),
            load_if_exists=True,
        )
        study.get_trials(deepcopy=False)
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.OptunaError, RuntimeError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise search_spec.study_error(file, cause) from None
    return study


def reattach(study: optuna.Study, spec: SearchSpec, trial: FrozenTrial) -> Trial:
    """Re-attach an interrupted trial so that results can be reported to it."""
    study.sampler = _sampler(spec, trial.number)
    return Trial(study, trial._trial_id)


def ask(study: optuna.Study, spec: SearchSpec) -> Trial:
    """Create the next trial."""
    study.sampler = _sampler(spec, len(study.get_trials(deepcopy=False)))
    return study.ask()


def _draw(trial: Trial, dimension: Dimension) -> Any:
    name = dimension.key
    if dimension.options:
        return trial.suggest_categorical(name, dimension.options)
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.integer:
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=dimension.log)
    return trial.suggest_float(name, low, high, step=step, log=dimension.log)


def suggest(trial: Trial, space: Space) -> list[str]:
    """Return the overrides of a trial; a re-attached trial gets its previous values.

    Groups are drawn first, because the available keys depend on them.
    """
    groups = [group.override(_draw(trial, group)) for group in space.groups]
    return [*groups, *(key.override(_draw(trial, key)) for key in space.keys(groups))]


def best_trial(study: optuna.Study) -> FrozenTrial:
    """Return the completed trial with the best value; the first one if several have it.

    ``study.best_trial`` leaves the choice among equal values to the database.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(complete, key=lambda trial: sign * (trial.value or 0.0))


def importance_evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    """Return the evaluator of importances; its seed makes them reproducible."""
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def importances(study: optuna.Study) -> dict[str, float] | None:
    """Return each setting's fraction of the variance of the value, 0 to 1 (fANOVA).

    Settings that some completed trial lacks are left out.

    Returns:
        None for fewer than :data:`MIN_TRIALS` completed trials, or if all have the same value.
    """
    complete: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS or len({trial.value for trial in complete}) < 2:
        return None
    fractions = optuna.importance.get_param_importances(study, evaluator=importance_evaluator())
    return {name: round(float(fraction), 4) for name, fraction in fractions.items()} or None
