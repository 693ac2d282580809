"""The sweep command: validation, help, and resuming a killed search."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import create_trial

from emotion_lab import sweep
from emotion_lab.cli.help import show
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.tuning import search, study
from emotion_lab.experiments.tuning import space as spaces
from emotion_lab.experiments.tuning.spec import STUDY, SearchSpec, check_study_file
from tests.conftest import TINY, command, error_message
from tests.experiments.test_sweep import table, wait_for

SPEC = SearchSpec([], [], compose.defaults("sweep", "optuna"), "val/macro_f1", "max")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["test=true"], "never opens the test split"),
        (["experiment=demo"], "never opens the test split"),
        (["monitor=train/loss"], "selects on val"),
        (
            ["monitor=val/criterion", "sweep.space=['loss=ce,focal']"],
            "monitor=val/criterion is measured with the loss of each run",
        ),
        (
            ["sweep.space=['data.sampler=shuffle,weighted','loss=ce,weighted_focal']"],
            "every class equally often, and loss=weighted_focal weights rare classes again",
        ),
        (["sweep=halving", "sweep.pruner=median"], "hyperband or halving"),
        (["sweep=lr_find", "sweep.min_lr=2"], "is not below sweep.max_lr"),
        (["trainer.devices=2"], "one device per trial"),
        (["data.path=/nowhere"], "does not exist"),
        (["resume=nowhere"], "no search to resume"),
        (["sweep.trials=0"], "expected a whole number of 1 or more"),
        (["data.folds=5", "data.fold=5"], "expected 0 to 4"),
        (["hydra/launcher=joblib"], "'hydra/launcher=joblib' does not apply"),
        (["hydra.sweep.dir=x"], "'hydra.sweep.dir=x' does not apply"),
        (["distill.teacher=/nowhere"], "no such checkpoint"),
        (["optim.lr=1e-3", "optim.weight_decay=0"], "nothing to search"),
    ],
)
def test_invalid_options_are_reported_before_anything_starts(
    typed: list[str], message: str, tmp_path: Path
) -> None:
    overrides = ["data=synthetic", *typed, f"hydra.run.dir={tmp_path / 'never'}"]
    if typed[0].startswith("resume"):
        overrides = overrides[1:]
    text = error_message(lambda: sweep.validate(compose.precheck("sweep", overrides), overrides))
    assert message in text and not (tmp_path / "never").exists()


def test_resumed_search_cannot_change(tmp_path: Path) -> None:
    SPEC.save(tmp_path)
    good = [f"resume={tmp_path}", "sweep.trials=50"]
    assert sweep.validate(compose.precheck("sweep", good), good)[0].startswith("hydra.run.dir=")
    bad = [f"resume={tmp_path}", "loss=ce"]
    with pytest.raises(UserError, match="'loss=ce' cannot change"):
        sweep.validate(compose.precheck("sweep", bad), bad)


@pytest.mark.parametrize("content", [b"junk" * 600, b"SQLite format 3\0" + b"junk" * 600])
def test_damaged_study_is_one_line(content: bytes, tmp_path: Path) -> None:
    SPEC.save(tmp_path)
    (tmp_path / STUDY).write_bytes(content)
    overrides = [f"resume={tmp_path}"]
    with pytest.raises(UserError, match=r"study.db is damaged .*Move it away") as caught:
        sweep.validate(compose.precheck("sweep", overrides), overrides)
    assert "\n" not in str(caught.value)


def test_foreign_sqlite_file_is_one_line(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / STUDY) as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")
    with pytest.raises(UserError, match=r"study.db is no study that this version can read"):
        study.open_study(tmp_path, SPEC, 3)


def test_a_study_in_use_is_not_called_damaged(tmp_path: Path) -> None:
    study.open_study(tmp_path, SPEC, 3)
    with sqlite3.connect(tmp_path / STUDY, isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"cannot be used \(database is locked\)"):
            check_study_file(tmp_path / STUDY, timeout_s=0.1)
    (tmp_path / "folder" / STUDY).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot be used \(unable to open database file\)"):
        check_study_file(tmp_path / "folder" / STUDY)


def test_every_folder_name_has_its_own_study(tmp_path: Path) -> None:
    names = ["run?a", "run?b", "a#b", "a%20b", "a b", "é", "x%3Fy", os.fsdecode(b"caf\xe9")]
    for name in names:
        (tmp_path / name).mkdir()
        opened = study.open_study(tmp_path / name, SPEC, 3)
        assert opened.trials == []
        opened.add_trial(create_trial(value=0.5))
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in names:
        assert len(study.open_study(tmp_path / name, SPEC, 3).trials) == 1
        assert [path.name for path in (tmp_path / name).iterdir()] == [STUDY]


def test_incomplete_search_file_is_one_line(tmp_path: Path) -> None:
    SearchSpec([], [], {"trials": 3}, "val/macro_f1", "max").save(tmp_path)
    overrides = [f"resume={tmp_path}"]
    with pytest.raises(UserError, match=r"search.json cannot be read: it lacks sweep.timeout"):
        sweep.validate(compose.precheck("sweep", overrides), overrides)


def test_plan_shows_default_space_and_existing_trials() -> None:
    cfg = compose.to_container(compose.precheck("sweep", ["data=synthetic"]).sweep)
    space = spaces.read(cfg.pop("space"), ["data=synthetic", "trainer.max_epochs=7"])
    spec = SearchSpec([], space.typed, {**cfg, "timeout": 60.0}, "val/macro_f1", "max")
    first, second, third = search.plan(spec, space, Path("s"), 7, 0, default_space=True)
    assert third == "the output of each trial is in s/<trial>/job.log"
    assert "planned: 30 trials of at most 7 epochs, no new trial after 60 s" in first
    assert "sampler tpe, pruner median" in first
    assert "sweep.space, as no option has several values" in second
    assert "optim.lr=tag(log,interval(1e-4,1e-2))" in second
    first, second, _ = search.plan(spec, space, Path("s"), 7, 4, default_space=False)
    assert "30 trials (4 already in the study)" in first and "sweep.space" not in second


def test_help_describes_the_default_space(capsys: pytest.CaptureFixture[str]) -> None:
    show("sweep")
    text = " ".join(capsys.readouterr().out.split())
    space = compose.defaults("sweep", "optuna")
    assert f"A search has {space['trials']} trials" in text and "sweep.space is searched" in text
    for low, high in (("1e-4", "1e-2"), ("1e-5", "1e-1")):
        assert f"from {low} to {high}" in text and f"({low},{high})" in str(space["space"])
    assert f"sweep=halving {compose.defaults('sweep', 'halving')['trials']}" in text


def test_second_process_in_the_same_folder_is_rejected(tmp_path: Path) -> None:
    SPEC.save(tmp_path)
    with paths.locked_run_dir(tmp_path):
        second = command(f"resume={tmp_path}", module="emotion_lab.sweep", cwd=tmp_path)
    assert second.returncode == 2 and "another process works in" in second.stderr


def test_search_survives_sigkill(tmp_path: Path) -> None:
    typed = [*TINY, "trainer.max_epochs=15", "trainer.patience=null"]
    typed += ["optim.lr=1e-3,3e-3", "sweep.trials=2", "sweep.seed=1", "hydra.run.dir=s"]
    child = subprocess.Popen(
        [sys.executable, "-m", "emotion_lab.sweep", *typed],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history = tmp_path / "s" / "0" / "history.csv"
    wait_for(history, lines=4)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = len(history.read_text().splitlines()) - 1
    assert 3 <= done < 15
    again = command("resume=s", module="emotion_lab.sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(history.read_text().splitlines()) == 1 + 15
    # It is resumed from its last checkpoint: its first epochs are not trained again.
    # Its log has the epochs of both starts, the console one line.
    log = (tmp_path / "s" / "0" / "job.log").read_text()
    epochs = re.findall(r"^ *(\d+)/15 ", log, re.MULTILINE)
    assert epochs[-1] == "15" and len(epochs) <= 16 and epochs.count("1") == 1
    assert "1/15 " not in again.stdout
    (line,) = re.findall(r"^trial 0: .*$", again.stdout, re.MULTILINE)
    assert "optim.lr=" in line and ", val/macro_f1 0." in line
    rows = table(tmp_path / "s")
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {row["status"] for row in rows} <= {"finished", "repeated"}
    metrics = json.loads((tmp_path / "s" / "0" / "metrics.json").read_text())
    assert float(rows[0]["value"]) == metrics["monitor"]["best"]
