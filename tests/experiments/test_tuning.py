"""A search ends in an answer: it learns, prunes, survives a kill, and tells of what failed."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emotion_lab import sweep
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.sweep import subprocess_job as jobs
from emotion_lab.experiments.tuning import spec as asking
from emotion_lab.experiments.tuning import study as studies

FIXED = ("data=synthetic", "model=cnn", "trainer.max_epochs=9")
LR = "optim.lr=tag(log,interval(1e-4,1))"


DRAW = sweep._pictures


class Killed(BaseException):
    """The process is gone; nobody tidies up."""


class Trainings:
    """Stands in for ``jobs.run``: trainings whose val curve is known, and over at once.

    The value rises with the epochs to 1 - |log10(lr) + 2| / 4: best at lr=0.01.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, list[str]]] = []
        self.epochs: dict[str, int] = {}
        self.cut: Callable[[str, int], BaseException | None] = lambda name, epoch: None
        self.fails: Callable[[float], bool] = lambda lr: False

    def __call__(
        self, overrides: list[str], folder: Path, watch: Any = None, title: str | None = None
    ) -> jobs.JobResult:
        import math

        self.ran.append((folder.name, overrides))
        folder.mkdir(exist_ok=True)
        given = dict(text.split("=", 1) for text in overrides)
        lr, epochs = float(given.get("optim.lr", 0.01)), int(given["trainer.max_epochs"])
        outcome = jobs.JobResult(folder, overrides, "running", None, None, 1.0)
        outcome.save()
        if self.fails(lr):
            outcome.status, outcome.reason = "failed", "the loss is not finite"
            outcome.save()
            return outcome
        value, rows = 0.0, []
        for epoch in range(epochs):
            value = (1 - abs(math.log10(lr) + 2) / 4) * (epoch + 1) / epochs
            rows.append({"epoch": epoch, "val/macro_f1": value, "best": True})
            with open(folder / "history.csv", "w", encoding="utf-8", newline="") as stream:
                table = csv.DictWriter(stream, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
            self.epochs[folder.name] = epoch + 1
            end = self.cut(folder.name, epoch)
            if end is not None:
                raise end
            if watch is not None and watch(folder):
                outcome.status, outcome.reason = "pruned", "pruned"
                outcome.save()
                return outcome
        scores = {"accuracy": value, "macro_f1": value, "loss": 1 - value}
        metrics = {"val": scores, "seed": 0, "epochs": epochs, "monitor": {"best": value}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        cfg = {"monitor": "val/macro_f1", "trainer": {"monitor_mode": "auto"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
        outcome.status, outcome.value = "finished", value
        outcome.save()
        return outcome


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Let every trial be one of :class:`Trainings`."""
    fake = Trainings()
    monkeypatch.setattr(jobs, "run", fake)
    # One test draws them; they take longer than all the rest.
    monkeypatch.setattr(sweep, "_pictures", lambda *args: None)
    return fake


def search(folder: Path, *typed: str, fixed: tuple[str, ...] = FIXED) -> dict[str, Any]:
    """Search in this process; returns ``summary.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [*fixed, *typed]
    sweep.search(compose.precheck("sweep", overrides), overrides, folder)
    return summary(folder)


def summary(folder: Path) -> dict[str, Any]:
    """Return ``summary.json``."""
    return json.loads((folder / "summary.json").read_text())


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of ``summary.csv``."""
    with open(folder / "summary.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def space(*texts: str) -> str:
    """Return the override that sets the space."""
    return f"sweep.space=[{','.join(repr(text) for text in texts)}]"


def test_tpe_finds_the_hill(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = (space(LR, "model.dropout=interval(0,0.5)"), "sweep.trials=20", "sweep.pruner=none")
    found = search(tmp_path / "tpe", *typed, "sweep.n_startup_trials=5")
    assert found["trials"] == {"all": 20, "asked": 20, "finished": 20}
    assert 0.005 < float(found["best"]["optim.lr"]) < 0.02 and found["best"]["value"] > 0.95
    # It learns: what it tries is better than what chance tries.
    search(tmp_path / "random", *typed, "sweep.sampler=random")
    monkeypatch.setattr(sweep, "_pictures", DRAW)
    search(tmp_path / "tpe", f"resume={tmp_path / 'tpe'}", fixed=())
    tpe, chance = (
        sum(float(row["value"]) for row in table(tmp_path / name)[10:]) / 10
        for name in ("tpe", "random")
    )
    assert tpe > chance + 0.05
    # Dropout plays no part in these curves.
    assert found["importances"]["optim.lr"] > 0.6
    assert [row["folder"] for row in table(tmp_path / "tpe")] == [str(i) for i in range(20)]
    for name in ("history", "importances", "slices", "parallel"):
        assert (tmp_path / "tpe" / f"{name}.png").stat().st_size > 5000


def test_what_to_type_next_is_a_training(trainings: Trainings, tmp_path: Path) -> None:
    typed = (space(LR, "loss=ce,focal"), "sweep.trials=4", "model.widths=[8,8,8]", "seed=3")
    found = search(tmp_path, *typed)
    import shlex

    words = shlex.split(found["commands"]["over_seeds"])
    assert words[:4] == ["python", "-m", "emotion_lab.train", "-m"]
    assert words[-1] == "seed=1,2,3" and "seed=3" not in words
    cfg = compose.precheck("train", words[4:], multirun=True)
    assert list(cfg.model.widths) == [8, 8, 8]
    assert cfg.optim.lr == float(found["best"]["optim.lr"])
    assert cfg.loss.name == found["best"]["loss"]
    assert str(tmp_path / found["best"]["folder"]) in found["commands"]["evaluate"]


def test_less_can_be_better(trainings: Trainings, tmp_path: Path) -> None:
    typed = ("trainer.monitor_mode=min", space(LR), "sweep.trials=8", "sweep.pruner=none")
    found = search(tmp_path, *typed)
    assert found["mode"] == "min"
    assert found["best"]["value"] == min(float(row["value"]) for row in table(tmp_path))


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_poor_trials_are_pruned(trainings: Trainings, tmp_path: Path, pruner: str) -> None:
    typed = (f"sweep.pruner={pruner}", "sweep.min_epochs=1", "sweep.sampler=random")
    found = search(tmp_path, space(LR), "sweep.trials=24", "sweep.seed=1", *typed)
    assert found["trials"]["pruned"] >= 5 and found["trials"]["finished"] >= 2
    rows = table(tmp_path)
    for row in rows:
        epochs = trainings.epochs[row["trial"]]
        assert (epochs < 9) == (row["status"] == "pruned") and int(row["epochs"]) == epochs
        if row["status"] == "pruned":
            assert f"after {epochs} of 9 epochs" in row["reason"]
    # Good ones are not: the best that was drawn is the best that was found.
    assert sum(trainings.epochs.values()) < 0.85 * 24 * 9

    def distance(row: dict[str, str]) -> float:
        import math

        return abs(math.log10(float(row["optim.lr"])) + 2)

    assert distance(found["best"]) <= sorted(distance(row) for row in rows)[1]


def test_nothing_is_pruned_that_was_not_asked_for(trainings: Trainings, tmp_path: Path) -> None:
    found = search(tmp_path, space(LR), "sweep.trials=12", "sweep.pruner=none")
    assert found["trials"]["finished"] == 12
    assert set(trainings.epochs.values()) == {9}


def test_a_killed_search_goes_on_as_if_it_had_not_been(
    trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = (space(LR, "loss=ce,focal", "loss.gamma=interval(1,4)"), "sweep.trials=14")
    search(tmp_path / "whole", *typed)
    whole = [(name, own) for name, own in trainings.ran]
    trainings.ran.clear()

    cut = tmp_path / "cut"
    trainings.cut = lambda name, epoch: Killed() if (name, epoch) == ("11", 4) else None
    with pytest.raises(Killed):
        search(cut, *typed)
    before = list(trainings.ran)
    assert [name for name, _ in before] == [str(i) for i in range(12)]
    trainings.ran.clear()
    trainings.cut = lambda name, epoch: None
    found = search(cut, "resume=" + str(cut), fixed=())
    # Trial 11 goes on in its folder with its settings, finished ones are not touched.
    assert [name for name, _ in trainings.ran] == ["11", "12", "13"]
    assert trainings.ran[0] == before[-1]
    assert before[:-1] + trainings.ran == whole
    assert found["best"] == summary(tmp_path / "whole")["best"]
    assert found["trials"] == summary(tmp_path / "whole")["trials"]

    trainings.ran.clear()
    search(cut, "resume=" + str(cut), fixed=())
    assert trainings.ran == []
    search(cut, "resume=" + str(cut), "sweep.trials=15", fixed=())
    assert [name for name, _ in trainings.ran] == ["14"]


def test_a_trial_killed_between_its_end_and_the_study_is_not_trained_again(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    def tell(*args: Any, **kwargs: Any) -> None:
        raise Killed

    options = ("sweep.trials=4", "sweep.n_warmup_trials=1", "sweep.sampler=random")
    # The second is worse than the first, and pruned.
    typed = ("sweep.space=['optim.lr=interval(0.01,1)']", "sweep.seed=7", *options)
    search(tmp_path / "whole", *typed)
    pruned = [row["trial"] for row in table(tmp_path / "whole") if row["status"] == "pruned"]
    assert pruned
    first, folder = pruned[0], tmp_path / "cut"
    told = optuna.Study.tell

    def kill_at_first(self: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        run = tell if str(trial.number) == first else told
        return run(self, trial, *args, **kwargs)

    monkeypatch.setattr(optuna.Study, "tell", kill_at_first)
    with pytest.raises(Killed):
        search(folder, *typed)
    monkeypatch.setattr(optuna.Study, "tell", told)
    trainings.ran.clear()
    found = search(folder, f"resume={folder}", fixed=())
    assert first not in [name for name, _ in trainings.ran]
    assert found["trials"] == summary(tmp_path / "whole")["trials"]


def test_a_failed_trial_is_told_and_the_study_goes_on(
    trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.fails = lambda lr: lr > 0.1
    found = search(tmp_path, space(LR), "sweep.trials=12", "sweep.sampler=random")
    failed = [row for row in table(tmp_path) if row["status"] == "failed"]
    assert found["trials"]["failed"] == len(failed) > 0 and found["trials"]["all"] == 12
    assert all(row["reason"] == "the loss is not finite" and not row["value"] for row in failed)
    assert f"trial {failed[0]['trial']} failed: the loss is not finite" in capsys.readouterr().out


def test_a_search_without_any_result_says_so(trainings: Trainings, tmp_path: Path) -> None:
    trainings.fails = lambda lr: True
    with pytest.raises(UserError, match="no trial finished"):
        search(tmp_path, space(LR), "sweep.trials=3")
    assert summary(tmp_path)["best"] is None and summary(tmp_path)["trials"]["failed"] == 3


def test_the_same_settings_are_not_trained_twice(trainings: Trainings, tmp_path: Path) -> None:
    typed = (space("optim.lr=0.001,0.01"), "sweep.trials=8", "sweep.pruner=none")
    found = search(tmp_path, *typed)
    assert len(trainings.ran) == 2
    assert found["trials"] == {"all": 8, "asked": 8, "finished": 2, "repeated": 6}
    values = {row["optim.lr"]: row["value"] for row in table(tmp_path)[:]}
    assert all(row["value"] == values[row["optim.lr"]] for row in table(tmp_path))


def test_settings_that_failed_are_not_tried_again(trainings: Trainings, tmp_path: Path) -> None:
    trainings.fails = lambda lr: lr > 0.1
    found = search(tmp_path, space("optim.lr=0.5,0.01"), "sweep.trials=8", "sweep.pruner=none")
    assert len(trainings.ran) == 2
    assert found["trials"] == {"all": 8, "asked": 8, "finished": 1, "failed": 1, "repeated": 6}
    assert found["best"]["optim.lr"] == "0.01"


def test_settings_that_were_pruned_are_not_tried_again(
    trainings: Trainings, tmp_path: Path
) -> None:
    typed = (space("optim.lr=0.01,0.02,0.5,0.6"), "sweep.trials=12", "sweep.n_warmup_trials=1")
    found = search(tmp_path, *typed, "sweep.sampler=random")
    ran = [overrides for _, overrides in trainings.ran]
    assert found["trials"]["pruned"] >= 1 and len(ran) == len({tuple(own) for own in ran})
    rows = {row["trial"]: row for row in table(tmp_path)}
    for row in rows.values():
        if row["status"] == "repeated" and rows[row["folder"]]["status"] == "pruned":
            assert row["value"] == ""
            break
    else:
        raise AssertionError("no pruned trial came up again: the test shows nothing")


def test_ctrl_c_sums_up_and_says_how_to_go_on(trainings: Trainings, tmp_path: Path) -> None:
    trainings.cut = lambda name, epoch: KeyboardInterrupt() if (name, epoch) == ("2", 3) else None
    with pytest.raises(sweep.SearchInterruptedError, match="resume=") as caught:
        search(tmp_path, space(LR), "sweep.trials=5")
    assert caught.value.exit_code == 130
    assert [row["status"] for row in table(tmp_path)] == ["finished", "finished", "killed"]
    trainings.cut = lambda name, epoch: None
    assert search(tmp_path, f"resume={tmp_path}", fixed=())["trials"]["all"] == 5


def test_a_study_that_is_lost_begins_anew_and_ends_the_same(
    trainings: Trainings, tmp_path: Path
) -> None:
    first = search(tmp_path, space(LR), "sweep.trials=6", "sweep.n_warmup_trials=2")
    before = table(tmp_path)
    (tmp_path / asking.STUDY).unlink()
    again = search(tmp_path, f"resume={tmp_path}", fixed=())
    assert again["best"] == first["best"] and table(tmp_path) == before


def test_a_trial_whose_files_are_lost_stops_no_search(trainings: Trainings, tmp_path: Path) -> None:
    first = search(tmp_path, space(LR), "sweep.trials=3", "sweep.pruner=none")
    (tmp_path / "1" / "metrics.json").unlink()
    again = search(tmp_path, f"resume={tmp_path}", "sweep.trials=4", fixed=())
    assert again["trials"]["finished"] == 4
    row = table(tmp_path)[1]
    assert row["value"] and not row["val_accuracy"] and "no finished training run" in row["reason"]
    assert first["trials"]["finished"] == 3


def test_no_trial_begins_after_the_timeout(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainings.cut = lambda name, epoch: clock.__setitem__(0, clock[0] + 1)
    found = search(tmp_path, space(LR), "sweep.timeout=20", "sweep.pruner=none")
    assert found["trials"]["all"] == 3  # 9 s each: the third begins at 18 s


def test_the_sampler_does_not_begin_again(tmp_path: Path) -> None:
    asked = asking.SearchSpec([], [], compose.defaults("sweep", "optuna"), "val/macro_f1", "max")
    drawn = []
    for _ in range(3):  # three processes, a trial each
        study = studies.open_study(tmp_path, asked, 5)
        trial = studies.ask(study, asked)
        drawn.append(trial.suggest_float("x", 0, 1))
        study.tell(trial, 0.5)
    assert len(set(drawn)) == 3
