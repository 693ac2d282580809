"""Trials: each a training in a process of its own, watched as its val curve grows."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from emotion_lab.core.distributed import stoppable
from emotion_lab.experiments.sweep import subprocess_job as jobs
from emotion_lab.experiments.tuning import study as studies
from emotion_lab.experiments.tuning.space import Space
from emotion_lab.experiments.tuning.spec import SearchSpec

#: Attributes of a trial in the study.
OVERRIDES, STATUS, REASON, SECONDS, SAME = "overrides", "status", "reason", "seconds", "same_as"


class PruningMonitor:
    """Tells the study of every epoch of a trial, and whether the trial is to be pruned.

    What is reported is the best value so far: it is what the trial will have been worth.
    """

    def __init__(self, trial: Trial, asked: SearchSpec, epochs: int) -> None:
        self.trial, self.asked, self.epochs = trial, asked, epochs
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self.told, self.best = set(known), known[max(known)] if known else None

    def _report(self, folder: Path) -> Iterator[int]:
        """Report the new rows of ``history.csv``; yields the epochs that are done at each."""
        try:
            with open(folder / "history.csv", encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except FileNotFoundError:
            return
        pick = max if self.asked.mode == "max" else min
        for done, row in enumerate(rows, 1):
            value = float(row[self.asked.monitor])
            if done in self.told or math.isnan(value):
                continue
            self.best = value if self.best is None else pick(self.best, value)
            self.trial.report(self.best, done)
            self.told.add(done)
            yield done

    def __call__(self, folder: Path) -> bool:
        """Report what is new; True where the trial is to be stopped."""
        # In its last epoch there is nothing left to save.
        return any(
            done < self.epochs and self.trial.should_prune() for done in self._report(folder)
        )

    def finish(self, folder: Path) -> None:
        """Report the epochs that came since the last look."""
        for _ in self._report(folder):
            pass


def _note(trial: Trial, **attributes: Any) -> None:
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def _same(study: optuna.Study, overrides: list[str]) -> FrozenTrial | None:
    """Return an earlier trial with the same settings; it would end as it did.

    One that was killed is tried again.
    """
    for other in study.get_trials(deepcopy=False):
        notes = other.user_attrs
        ended = other.state.is_finished() and notes.get(STATUS) in ("finished", "pruned", "failed")
        if ended and notes.get(OVERRIDES) == overrides:
            return other
    return None


def run(study: optuna.Study, trial: Trial, space: Space, asked: SearchSpec, folder: Path) -> str:
    """Run a trial to its end, tell the study, and return a line about it.

    A trial that fails is told as failed, with its reason; the study goes on.

    Raises:
        KeyboardInterrupt: Ctrl-C; the trial stays open and goes on with the study.
    """
    own = studies.suggest(trial, space)
    _note(trial, **{OVERRIDES: own})
    name = f"trial {trial.number}"
    print(f"{name}: {' '.join(own)}", flush=True)
    known = _same(study, own)
    if known is not None:
        _note(trial, **{STATUS: "repeated", SAME: known.number})
        if known.state == TrialState.COMPLETE:
            study.tell(trial, known.value)
        else:
            study.tell(trial, state=known.state)
        ended = known.user_attrs[STATUS]
        return f"{name}: the same settings as trial {known.number}, {ended}"
    place = folder / str(trial.number)
    watch = PruningMonitor(trial, asked, space.epochs(own))
    jobs.wait_for(place)
    outcome = jobs.read(place)
    # Pruned, and the process was killed before the study knew.
    if outcome is None or outcome.status != "pruned":
        outcome = jobs.run([*space.fixed, *own], place, watch, title=name)
    watch.finish(place)
    status, reason = outcome.status, outcome.reason
    if status == "finished" and (outcome.value is None or not math.isfinite(outcome.value)):
        status, reason = "failed", f"{asked.monitor} is {outcome.value}"
    if status == "pruned":
        reason = f"pruned after {len(watch.told)} of {watch.epochs} epochs"
    _note(trial, **{STATUS: status, REASON: reason, SECONDS: outcome.seconds})
    took = f"{outcome.seconds:.1f} s"
    if status == "finished":
        study.tell(trial, outcome.value)
        best = study.best_trial
        return (
            f"{name}: {asked.monitor} {outcome.value:.4f}, {took}; best so far {best.value:.4f}, "
            f"trial {best.number}"
        )
    study.tell(trial, state=TrialState.PRUNED if status == "pruned" else TrialState.FAIL)
    value = "" if watch.best is None else f", {asked.monitor} {watch.best:.4f}"
    return f"{name}: {status}{value}, {took}: {reason}"


def run_trials(study: optuna.Study, space: Space, asked: SearchSpec, folder: Path) -> None:
    """Run what is left of a study: trials that were cut off first, then new ones.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; everything up to now is kept.
    """
    end = math.inf if asked.sweep["timeout"] is None else time.monotonic() + asked.sweep["timeout"]
    with stoppable():
        left = studies.unfinished(study)
        while time.monotonic() < end:
            if not left and len(study.get_trials(deepcopy=False)) >= asked.sweep["trials"]:
                return
            again = studies.reopen(study, asked, left.pop(0)) if left else None
            trial = again or studies.ask(study, asked)
            print(run(study, trial, space, asked, folder), flush=True)
    print(f"sweep.timeout={asked.sweep['timeout']}: no further trial begins")
