"""Hyperparameter search: sampling, pruning, resuming, failed trials and the summary."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.tables import write_csv
from emotion_lab.experiments.sweep import subprocess_job
from emotion_lab.experiments.tuning import figures, search
from emotion_lab.experiments.tuning import spec as search_spec
from emotion_lab.experiments.tuning import study as studies
from tests.experiments.test_sweep import table

FIXED = ("data=synthetic", "model=cnn", "trainer.max_epochs=9")
LR = "optim.lr=tag(log,interval(1e-4,1))"
WRITE_FIGURES = figures.write_search_figures


class Killed(BaseException):
    """Simulates SIGKILL: no handler runs."""


class FakeTrainings:
    """Replaces ``subprocess_job.run`` by instant trainings with a known val curve.

    The value rises with the epochs to 1 - |log10(lr) + 2| / 4, which is highest for lr=0.01.

    Attributes:
        calls: Directory name and overrides of every call.
        epochs: Number of epochs by directory name.
        interrupt: Exception to raise after an epoch of a trial, or None.
        fails: Whether a training with this learning rate fails.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.epochs: dict[str, int] = {}
        self.interrupt: Callable[[str, int], BaseException | None] = lambda name, epoch: None
        self.fails: Callable[[float], bool] = lambda lr: False

    def __call__(
        self, overrides: list[str], folder: Path, should_prune: Any
    ) -> subprocess_job.JobResult:
        self.calls.append((folder.name, overrides))
        folder.mkdir(exist_ok=True)
        values = dict(text.split("=", 1) for text in overrides)
        lr, epochs = float(values.get("optim.lr", 0.01)), int(values["trainer.max_epochs"])
        job = subprocess_job.JobResult(folder, overrides, "running", None, None, 1.0)
        job.save()

        def end(**changes: Any) -> subprocess_job.JobResult:
            ended = dataclasses.replace(job, **changes)
            ended.save()
            return ended

        if self.fails(lr):
            return end(status="failed", reason="the loss is not finite")
        value, rows = 0.0, []
        for epoch in range(epochs):
            value = (1 - abs(math.log10(lr) + 2) / 4) * (epoch + 1) / epochs
            rows.append({"epoch": epoch, "val/macro_f1": value, "best": True})
            write_csv(folder / "history.csv", list(rows[0]), rows)
            self.epochs[folder.name] = epoch + 1
            error = self.interrupt(folder.name, epoch)
            if error is not None:
                raise error
            if should_prune(folder):
                return end(status="pruned", reason="pruned")
        scores = {"accuracy": value, "macro_f1": value, "loss": 1 - value}
        metrics = {"val": scores, "seed": 0, "epochs": epochs, "monitor": {"best": value}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        cfg = {"monitor": "val/macro_f1", "trainer": {"monitor_mode": "auto"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
        return end(status="finished", value=value)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> FakeTrainings:
    """Replace the training of every trial."""
    fake = FakeTrainings()
    monkeypatch.setattr(subprocess_job, "run", fake)
    # One test draws the figures; drawing takes longer than all other code.
    monkeypatch.setattr(figures, "write_search_figures", lambda *args: None)
    return fake


def run_search(folder: Path, *typed: str, fixed: tuple[str, ...] = FIXED) -> dict[str, Any]:
    """Search in this process; return ``summary.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*fixed, *typed]
    search.search(compose.precheck("sweep", overrides), overrides, folder)
    return summary(folder)


def resume(folder: Path, *typed: str) -> dict[str, Any]:
    """Resume the search of ``folder``; return ``summary.json``."""
    return run_search(folder, f"resume={folder}", *typed, fixed=())


def summary(folder: Path) -> dict[str, Any]:
    """Return ``summary.json``."""
    return json.loads((folder / "summary.json").read_text())


def space(*texts: str) -> str:
    """Return the override that sets the space."""
    return f"sweep.space=[{','.join(repr(text) for text in texts)}]"


def test_tpe_finds_the_optimum_and_beats_random_search(
    trainings: FakeTrainings,
    rendered_figures: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = (space(LR, "model.dropout=interval(0,0.5)"), "sweep.trials=20", "sweep.pruner=none")
    result = run_search(tmp_path / "tpe", *typed, "sweep.n_startup_trials=5")
    assert result["trials"] == {"all": 20, "asked": 20, "finished": 20}
    assert 0.005 < float(result["best"]["optim.lr"]) < 0.02 and result["best"]["value"] > 0.95
    # TPE learns from earlier trials: its later ones are better than random ones.
    run_search(tmp_path / "random", *typed, "sweep.sampler=random")
    monkeypatch.setattr(figures, "write_search_figures", WRITE_FIGURES)
    resume(tmp_path / "tpe")
    tpe, random = (
        sum(float(row["value"]) for row in table(tmp_path / name)[10:]) / 10
        for name in ("tpe", "random")
    )
    assert tpe > random + 0.05
    # Dropout has no effect on these curves.
    assert result["importances"]["optim.lr"] > 0.6
    assert [row["folder"] for row in table(tmp_path / "tpe")] == [str(i) for i in range(20)]
    for name in ("history", "importances", "slices", "parallel"):
        assert (tmp_path / "tpe" / f"{name}.png").stat().st_size > 5000


def test_suggested_command_is_a_valid_training(trainings: FakeTrainings, tmp_path: Path) -> None:
    typed = (space(LR, "loss=ce,focal"), "sweep.trials=4", "model.widths=[8,8,8]", "seed=3")
    result = run_search(tmp_path, *typed)
    command = shlex.split(result["commands"]["over_seeds"])
    assert command[:4] == ["python", "-m", "emotion_lab.train", "-m"]
    assert command[-1] == "seed=1,2,3" and "seed=3" not in command
    cfg = compose.precheck("train", command[4:], multirun=True)
    assert list(cfg.model.widths) == [8, 8, 8]
    assert cfg.optim.lr == float(result["best"]["optim.lr"])
    assert cfg.loss.name == result["best"]["loss"]
    assert str(tmp_path / result["best"]["folder"]) in result["commands"]["evaluate"]


def test_minimized_metric(trainings: FakeTrainings, tmp_path: Path) -> None:
    typed = ("trainer.monitor_mode=min", space(LR), "sweep.trials=8", "sweep.pruner=none")
    result = run_search(tmp_path, *typed)
    assert result["mode"] == "min"
    assert result["best"]["value"] == min(float(row["value"]) for row in table(tmp_path))


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_poor_trials_are_pruned(trainings: FakeTrainings, tmp_path: Path, pruner: str) -> None:
    typed = (f"sweep.pruner={pruner}", "sweep.min_epochs=1", "sweep.sampler=random")
    result = run_search(tmp_path, space(LR), "sweep.trials=24", "sweep.seed=1", *typed)
    assert result["trials"]["pruned"] >= 5 and result["trials"]["finished"] >= 2
    rows = table(tmp_path)
    for row in rows:
        epochs = trainings.epochs[row["trial"]]
        assert (epochs < 9) == (row["status"] == "pruned") and int(row["epochs"]) == epochs
        if row["status"] == "pruned":
            assert f"after {epochs} of 9 epochs" in row["reason"]
    # The best settings that were drawn are not pruned.
    assert sum(trainings.epochs.values()) < 0.85 * 24 * 9

    def distance(row: dict[str, str]) -> float:
        return abs(math.log10(float(row["optim.lr"])) + 2)

    assert distance(result["best"]) <= sorted(distance(row) for row in rows)[1]


def test_pruner_none_prunes_nothing(trainings: FakeTrainings, tmp_path: Path) -> None:
    result = run_search(tmp_path, space(LR), "sweep.trials=12", "sweep.pruner=none")
    assert result["trials"]["finished"] == 12
    assert set(trainings.epochs.values()) == {9}


def test_killed_search_is_resumed(trainings: FakeTrainings, tmp_path: Path) -> None:
    typed = (space(LR, "loss=ce,focal", "loss.gamma=interval(1,4)"), "sweep.trials=14")
    run_search(tmp_path / "uninterrupted", *typed)
    uninterrupted = list(trainings.calls)
    trainings.calls.clear()

    killed = tmp_path / "killed"
    trainings.interrupt = lambda name, epoch: Killed() if (name, epoch) == ("11", 4) else None
    with pytest.raises(Killed):
        run_search(killed, *typed)
    before = list(trainings.calls)
    assert [name for name, _ in before] == [str(i) for i in range(12)]
    trainings.calls.clear()
    trainings.interrupt = lambda name, epoch: None
    result = resume(killed)
    # Trial 11 is resumed in its directory with its settings; finished trials are not repeated.
    assert [name for name, _ in trainings.calls] == ["11", "12", "13"]
    assert trainings.calls[0] == before[-1]
    assert before[:-1] + trainings.calls == uninterrupted
    assert result["best"] == summary(tmp_path / "uninterrupted")["best"]
    assert result["trials"] == summary(tmp_path / "uninterrupted")["trials"]

    trainings.calls.clear()
    resume(killed)
    assert trainings.calls == []
    resume(killed, "sweep.trials=15")
    assert [name for name, _ in trainings.calls] == ["14"]


def test_pruned_trial_that_was_not_recorded_is_not_trained_again(
    trainings: FakeTrainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    def tell(*args: Any, **kwargs: Any) -> None:
        raise Killed

    options = ("sweep.trials=4", "sweep.n_warmup_trials=1", "sweep.sampler=random")
    typed = ("sweep.space=['optim.lr=interval(0.01,1)']", "sweep.seed=7", *options)
    run_search(tmp_path / "uninterrupted", *typed)
    rows = table(tmp_path / "uninterrupted")
    pruned = [row["trial"] for row in rows if row["status"] == "pruned"]
    first, folder = pruned[0], tmp_path / "killed"
    original = optuna.Study.tell

    def kill_at_first(self: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        run = tell if str(trial.number) == first else original
        return run(self, trial, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "tell", kill_at_first)
    with pytest.raises(Killed):
        run_search(folder, *typed)
    monkeypatch.setattr(optuna.Study, "tell", original)
    trainings.calls.clear()
    result = resume(folder)
    assert first not in [name for name, _ in trainings.calls]
    assert result["trials"] == summary(tmp_path / "uninterrupted")["trials"]


def test_failed_trial_is_reported_and_search_continues(
    trainings: FakeTrainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.fails = lambda lr: lr > 0.1
    result = run_search(tmp_path, space(LR), "sweep.trials=12", "sweep.sampler=random")
    failed = [row for row in table(tmp_path) if row["status"] == "failed"]
    assert result["trials"]["failed"] == len(failed) > 0 and result["trials"]["all"] == 12
    assert all(row["reason"] == "the loss is not finite" and not row["value"] for row in failed)
    output = capsys.readouterr().out
    # In full in the line of the first one; later ones and the summary refer to it.
    numbers = [row["trial"] for row in failed]
    assert output.count("the loss is not finite") == 1 and len(numbers) > 1
    assert output.count(f"failed: the same reason as trial {numbers[0]}") == len(numbers) - 1
    (line,) = (text for text in output.splitlines() if text.startswith("trials "))
    assert line.endswith(" failed; for the reason see above")
    assert re.findall(r"(\d+) \(", line) == numbers
    # Not known from its lines: in full.
    resume(tmp_path)
    assert " failed: the loss is not finite" in capsys.readouterr().out


def test_first_of_equal_trials_is_the_best(
    trainings: FakeTrainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 0.001 and 0.1 are equally far from the optimum.
    typed = (space("optim.lr=0.001,0.1"), "sweep.trials=6", "sweep.pruner=none")
    result = run_search(tmp_path, *typed)
    values = [row["value"] for row in table(tmp_path)]
    assert len(trainings.calls) == 2 and len(set(values)) == 1, "no tie: the test is void"
    output = capsys.readouterr().out
    assert result["best"]["trial"] == 0 and "best by val: trial 0," in output
    assert output.count("best so far: 0.7500, trial 0") == 2
    assert len(re.findall(r"^trial \d+: ", output, re.MULTILINE)) == 6, "one line a trial"


def test_no_finished_trial_is_an_error(trainings: FakeTrainings, tmp_path: Path) -> None:
    trainings.fails = lambda lr: True
    with pytest.raises(UserError, match="no trial finished"):
        run_search(tmp_path, space(LR), "sweep.trials=9")
    # Missing data, for instance, would end every trial.
    assert summary(tmp_path)["best"] is None and summary(tmp_path)["trials"]["failed"] == 3


@pytest.mark.parametrize(
    ("other", "counts"), [("0.001", {"finished": 2}), ("0.5", {"finished": 1, "failed": 1})]
)
def test_repeated_settings_are_trained_once(
    other: str, counts: dict[str, int], trainings: FakeTrainings, tmp_path: Path
) -> None:
    trainings.fails = lambda lr: lr > 0.1
    typed = (space(f"optim.lr={other},0.01"), "sweep.trials=8", "sweep.pruner=none")
    result = run_search(tmp_path, *typed)
    assert len(trainings.calls) == 2
    assert result["trials"] == {"all": 8, "asked": 8, "repeated": 6, **counts}
    assert result["best"]["optim.lr"] == "0.01"
    values = {row["optim.lr"]: row["value"] for row in table(tmp_path)}
    assert all(row["value"] == values[row["optim.lr"]] for row in table(tmp_path))


def test_pruned_settings_are_not_repeated(trainings: FakeTrainings, tmp_path: Path) -> None:
    typed = (space("optim.lr=0.01,0.02,0.5,0.6"), "sweep.trials=12", "sweep.n_warmup_trials=1")
    result = run_search(tmp_path, *typed, "sweep.sampler=random")
    trained = [overrides for _, overrides in trainings.calls]
    assert result["trials"]["pruned"] >= 1 and len(trained) == len(set(map(tuple, trained)))
    rows = {row["trial"]: row for row in table(tmp_path)}
    for row in rows.values():
        if row["status"] == "repeated" and rows[row["folder"]]["status"] == "pruned":
            assert row["value"] == ""
            break
    else:
        raise AssertionError("no pruned settings were drawn again: the test is void")


def test_ctrl_c_writes_the_summary(trainings: FakeTrainings, tmp_path: Path) -> None:
    error = KeyboardInterrupt()
    trainings.interrupt = lambda name, epoch: error if (name, epoch) == ("2", 3) else None
    with pytest.raises(search.SearchInterruptedError, match="resume=") as caught:
        run_search(tmp_path, space(LR), "sweep.trials=5")
    assert caught.value.exit_code == 130
    assert [row["status"] for row in table(tmp_path)] == ["finished", "finished", "killed"]
    trainings.interrupt = lambda name, epoch: None
    assert resume(tmp_path)["trials"]["all"] == 5


def test_missing_study_is_recreated(trainings: FakeTrainings, tmp_path: Path) -> None:
    first = run_search(tmp_path, space(LR), "sweep.trials=6", "sweep.n_warmup_trials=2")
    before = table(tmp_path)
    (tmp_path / search_spec.STUDY).unlink()
    again = resume(tmp_path)
    assert again["best"] == first["best"] and table(tmp_path) == before


def test_trial_with_missing_files(trainings: FakeTrainings, tmp_path: Path) -> None:
    first = run_search(tmp_path, space(LR), "sweep.trials=3", "sweep.pruner=none")
    (tmp_path / "1" / "metrics.json").unlink()
    again = resume(tmp_path, "sweep.trials=4")
    assert again["trials"]["finished"] == 4
    row = table(tmp_path)[1]
    assert row["value"] and not row["val_accuracy"] and "no finished training run" in row["reason"]
    assert first["trials"]["finished"] == 3


def test_no_trial_starts_after_timeout(
    trainings: FakeTrainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainings.interrupt = lambda name, epoch: clock.__setitem__(0, clock[0] + 1)
    result = run_search(tmp_path, space(LR), "sweep.timeout=20", "sweep.pruner=none")
    assert result["trials"]["all"] == 3  # 9 s each: the third begins at 18 s


def test_resumed_sampler_draws_new_settings(tmp_path: Path) -> None:
    group = compose.defaults("sweep", "optuna")
    spec = search_spec.SearchSpec([], [], group, "val/macro_f1", "max")
    drawn = []
    for _ in range(3):  # three processes, a trial each
        study = studies.open_study(tmp_path, spec, 5)
        trial = studies.ask(study, spec)
        drawn.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, 0.5)
    assert len(set(drawn)) == 3
