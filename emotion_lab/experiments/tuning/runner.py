"""Trials of a search: each is a training in a subprocess, whose val curve is monitored."""

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
from emotion_lab.experiments.sweep import subprocess_job
from emotion_lab.experiments.tuning import study as studies
from emotion_lab.experiments.tuning.space import Space
from emotion_lab.experiments.tuning.spec import SearchSpec

#: User attributes of a trial in the study.
OVERRIDES, STATUS, REASON, SECONDS = "overrides", "status", "reason", "seconds"
#: If so many trials fail for one reason, and none has finished, the search ends.
MAX_FAILED = 3
#: User attribute of a repeated trial: the number of the first trial with these settings.
SAME_AS = "same_as"


class PruningMonitor:
    """Reports the epochs of a trial to the study and decides whether to prune the trial.

    The reported value is the best one so far, because that is the final value of a trial.
    """

    def __init__(self, trial: Trial, spec: SearchSpec, max_epochs: int) -> None:
        self.trial, self.spec, self.max_epochs = trial, spec, max_epochs
        values = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self.reported = set(values)
        self.best = values[max(values)] if values else None

    def _report(self, folder: Path) -> Iterator[int]:
        """Report the new rows of ``history.csv``; yield the number of epochs after each."""
        try:
            with (folder / "history.csv").open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except FileNotFoundError:
            return
        better = max if self.spec.mode == "max" else min
        for epochs, row in enumerate(rows, 1):
            value = float(row[self.spec.monitor])
            if epochs in self.reported or math.isnan(value):
                continue
            self.best = value if self.best is None else better(self.best, value)
            self.trial.report(self.best, epochs)
            self.reported.add(epochs)
            yield epochs

    def __call__(self, folder: Path) -> bool:
        """Report new epochs; return whether to prune the trial."""
        # Pruning in the last epoch saves nothing.
        return any(
            epochs < self.max_epochs and self.trial.should_prune()
            for epochs in self._report(folder)
        )

    def finish(self, folder: Path) -> None:
        """Report the remaining epochs of a trial that has ended."""
        for _ in self._report(folder):
            pass


def _set_attributes(trial: Trial, **attributes: Any) -> None:
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def _repeated_trial(study: optuna.Study, overrides: list[str]) -> FrozenTrial | None:
    """Return an earlier trial with the same settings, whose result is used again.

    A killed trial is not used: it is tried again.
    """
    for trial in study.get_trials(deepcopy=False):
        status = trial.user_attrs.get(STATUS)
        ended = trial.state.is_finished() and status in ("finished", "pruned", "failed")
        if ended and trial.user_attrs.get(OVERRIDES) == overrides:
            return trial
    return None


def _reuse(study: optuna.Study, trial: Trial, first: FrozenTrial) -> str:
    """Give a trial the result of an earlier one with the same settings; return it as a text."""
    _set_attributes(trial, **{STATUS: "repeated", SAME_AS: first.number})
    if first.state == TrialState.COMPLETE:
        study.tell(trial, first.value)
    else:
        study.tell(trial, state=first.state)
    status = first.user_attrs[STATUS]
    return f"same settings as trial {first.number} ({status}), not repeated"


def run_trial(
    study: optuna.Study,
    trial: Trial,
    space: Space,
    spec: SearchSpec,
    folder: Path,
    printed: dict[str, int],
) -> str:
    """Train one trial, report its result to the study and return its line for the console.

    A failed trial is recorded with its reason, and the search continues. ``printed`` maps the
    reasons of earlier lines to the trial; the reason of this one is added.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the trial stays unfinished and is resumed with the study.
    """
    overrides = studies.suggest(trial, space)
    _set_attributes(trial, **{OVERRIDES: overrides})
    name = f"trial {trial.number}: {' '.join(overrides)}"
    first = _repeated_trial(study, overrides)
    if first is not None:
        return f"{name}, {_reuse(study, trial, first)}"
    run_dir = folder / str(trial.number)
    monitor = PruningMonitor(trial, spec, space.epochs(overrides))
    subprocess_job.wait_until_free(run_dir)
    job = subprocess_job.read(run_dir)
    # A pruned job is not run again, even if the process was killed before it reported to the study.
    if job is None or job.status != "pruned":
        job = subprocess_job.run([*space.fixed, *overrides], run_dir, monitor)
    monitor.finish(run_dir)
    status, reason = job.status, job.reason
    if status == "finished" and (job.value is None or not math.isfinite(job.value)):
        status, reason = "failed", f"{spec.monitor} is {job.value}"
    if status == "pruned":
        reason = f"pruned after {len(monitor.reported)} of {monitor.max_epochs} epochs"
    _set_attributes(trial, **{STATUS: status, REASON: reason, SECONDS: job.seconds})
    if status == "finished":
        study.tell(trial, job.value)
        best = studies.best_trial(study)
        return (
            f"{name}, {spec.monitor} {job.value:.4f}, {job.seconds:.1f} s; best so far: "
            f"{best.value:.4f}, trial {best.number}"
        )
    study.tell(trial, state=TrialState.PRUNED if status == "pruned" else TrialState.FAIL)
    value = "" if monitor.best is None else f"{spec.monitor} {monitor.best:.4f}, "
    if status != "pruned":
        earlier = printed.setdefault(str(reason), trial.number)
        reason = reason if earlier == trial.number else f"the same reason as trial {earlier}"
    return f"{name}, {value}{job.seconds:.1f} s, {status}: {reason}"


def _fails_always(study: optuna.Study) -> bool:
    """Return whether all trials so far, several, have failed for one reason, such as no data."""
    trials = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    reasons = {trial.get(REASON) for trial in trials if trial.get(STATUS) == "failed"}
    failed = all(trial.get(STATUS) in ("failed", "repeated") for trial in trials)
    return failed and len(reasons) == 1 and len(trials) >= MAX_FAILED


def run_trials(
    study: optuna.Study, space: Space, spec: SearchSpec, folder: Path, printed: dict[str, int]
) -> None:
    """Run the remaining trials of a study: interrupted ones first, then new ones.

    ``printed`` receives the printed reasons, see :func:`run_trial`.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM; all results so far are saved.
    """
    timeout = spec.sweep["timeout"]
    end = math.inf if timeout is None else time.monotonic() + timeout
    with stoppable():
        interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        while time.monotonic() < end:
            if interrupted:
                trial = studies.reattach(study, spec, interrupted.pop(0))
            elif len(study.get_trials(deepcopy=False)) < spec.sweep["trials"]:
                trial = studies.ask(study, spec)
            else:
                return
            print(run_trial(study, trial, space, spec, folder, printed), flush=True)
            if _fails_always(study):
                print(f"the first {MAX_FAILED} trials failed for one reason: no further trial")
                return
    print(f"sweep.timeout={timeout}: no further trial is started")
