"""The study: Optuna's, in an SQLite file of the sweep's folder. Nothing here imports torch.

Hydra's Optuna plugin is not used: its last release pins optuna 2.10, whose storage does not work
with SQLAlchemy 2.1, so its studies live in memory only and die with the process.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from emotion_lab.experiments.tuning.space import Dimension, Space
from emotion_lab.experiments.tuning.spec import STUDY as FILE
from emotion_lab.experiments.tuning.spec import SearchSpec, check_whole, damaged

#: Hyperband draws a trial's bracket from this name and the trial's number.
_NAME = "study"
#: Finished trials without which nothing is said of what mattered.
LEAST = 8


def _pruner(asked: SearchSpec, epochs: int) -> optuna.pruners.BasePruner:
    """Build the pruner; its steps are epochs that are done, counted from 1."""
    options = asked.sweep
    name, least, reduction = options["pruner"], options["min_epochs"], options["reduction_factor"]
    if name == "median":
        return optuna.pruners.MedianPruner(options["n_warmup_trials"], least)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(least, reduction)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(least, max(least, epochs), reduction)
    return optuna.pruners.NopPruner()


def _sampler(asked: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """Build the sampler of one trial.

    Its seed is drawn from the study's seed and the trial's number: a study that was killed and
    goes on draws what it would have drawn, and not its first trials again.
    """
    words = np.random.SeedSequence([asked.sweep["seed"], number]).generate_state(1)
    if asked.sweep["sampler"] == "random":
        return optuna.samplers.RandomSampler(seed=int(words[0]))
    return optuna.samplers.TPESampler(n_startup_trials=asked.sweep["n_startup_trials"], seed=int(words[0]))


def open_study(folder: Path, asked: SearchSpec, epochs: int) -> optuna.Study:
    """Open the study of a folder, or begin it. SQLite keeps it whole when the process is killed.

    Args:
        folder: Of the search.
        asked: What was asked for.
        epochs: The most that a trial may train.

    Raises:
        UserError: If the file is there and no study of Optuna's can be read from it.
    """
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    file = folder / FILE
    check_whole(file)
    try:
        study = optuna.create_study(
            # Relative to nothing: three slashes and an absolute path.
            storage=f"sqlite:///{file.resolve()}",
            study_name=_NAME,
            direction="maximize" if asked.mode == "max" else "minimize",
            pruner=_pruner(asked, epochs),
            load_if_exists=True,
        )
        study.get_trials(deepcopy=False)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        raise damaged(file, str(error).splitlines()[0]) from None
    return study


def unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that a killed or stopped process left behind, to go on with."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def reopen(study: optuna.Study, asked: SearchSpec, trial: FrozenTrial) -> Trial:
    """Return a trial that was left behind as one that can be told about."""
    study.sampler = _sampler(asked, trial.number)
    return Trial(study, trial._trial_id)


def ask(study: optuna.Study, asked: SearchSpec) -> Trial:
    """Begin the next trial."""
    study.sampler = _sampler(asked, len(study.get_trials(deepcopy=False)))
    return study.ask()


def _draw(trial: Trial, dimension: Dimension) -> Any:
    name = dimension.key
    if dimension.options:
        return trial.suggest_categorical(name, dimension.options)
    low, high, step = dimension.low, dimension.high, dimension.step
    if dimension.whole:
        return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=dimension.log)
    return trial.suggest_float(name, low, high, step=step, log=dimension.log)


def suggest(trial: Trial, space: Space) -> list[str]:
    """Return the overrides of a trial; what it was given before, it is given again.

    Groups come first: which keys there are to choose depends on them.
    """
    chosen = [group.word(_draw(trial, group)) for group in space.groups]
    return [*chosen, *(one.word(_draw(trial, one)) for one in space.keys(chosen))]


def importances(study: optuna.Study) -> dict[str, float] | None:
    """Return the share of each setting in the variance of the result, by fANOVA.

    None where fewer than eight trials finished or all came out alike: that says nothing yet.
    Settings that not every finished trial had are left out.
    """
    done: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < LEAST or len({trial.value for trial in done}) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(float(value), 4) for name, value in found.items()} or None
