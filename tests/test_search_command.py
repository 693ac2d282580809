"""The command: mistakes are told at once, and a real search survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emotion_lab import checks, config, sweep
from emotion_lab.errors import UserError
from emotion_lab.searching import asked as asking
from tests.conftest import TINY, command
from tests.test_search import table


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["test=true"], "never opens the test split"),
        (["experiment=demo"], "never opens the test split"),
        (["monitor=train/loss"], "chooses on val"),
        (["sweep=halving", "sweep.pruner=median"], "hyperband or halving"),
        (["sweep=lr_find", "sweep.low=2"], "is not below sweep.high"),
        (["trainer.devices=2"], "one device a trial"),
        (["data.path=/nowhere"], "does not exist"),
        (["resume=nowhere"], "no search to go on with"),
        (["sweep.trials=0"], "expected a whole number of 1 or more"),
        (["optim.lr=1e-3", "optim.weight_decay=0"], "nothing to search"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    typed: list[str], said: str, tmp_path: Path
) -> None:
    overrides = ["data=synthetic", *typed, f"hydra.run.dir={tmp_path / 'never'}"]
    if typed[0].startswith("resume"):
        overrides = overrides[1:]
    with pytest.raises(UserError) as caught:
        sweep.prepare(config.precheck("sweep", overrides), overrides)
    assert said in str(caught.value) and not (tmp_path / "never").exists()


def test_without_optuna_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    overrides = ["data=synthetic", f"hydra.run.dir={tmp_path / 'never'}"]
    with pytest.raises(UserError, match=r"pip install \"emotion_lab\[sweep\]\""):
        sweep.prepare(config.precheck("sweep", overrides), overrides)


def test_a_search_that_goes_on_cannot_change(tmp_path: Path) -> None:
    asking.Asked([], [], {}, "val/macro_f1", "max").save(tmp_path)
    good = [f"resume={tmp_path}", "sweep.trials=50"]
    assert sweep.prepare(config.precheck("sweep", good), good)[0].startswith("hydra.run.dir=")
    bad = [f"resume={tmp_path}", "loss=ce"]
    with pytest.raises(UserError, match="'loss=ce' cannot change"):
        sweep.prepare(config.precheck("sweep", bad), bad)


def _rows(file: Path) -> int:
    return len(file.read_text().splitlines()) - 1 if file.is_file() else 0


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    asking.Asked([], [], {}, "val/macro_f1", "max").save(tmp_path)
    with checks.claimed(tmp_path):
        second = command(f"resume={tmp_path}", module="emotion_lab.sweep", cwd=tmp_path)
    assert second.returncode == 2 and "another process works in" in second.stderr


def test_a_real_search_survives_sigkill(tmp_path: Path) -> None:
    typed = [*TINY, "trainer.max_epochs=15", "trainer.patience=null"]
    typed += ["optim.lr=1e-3,3e-3", "sweep.trials=2", "sweep.seed=1", "hydra.run.dir=s"]
    child = subprocess.Popen(
        [sys.executable, "-m", "emotion_lab.sweep", *typed],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history = tmp_path / "s" / "0" / "history.csv"
    end = time.monotonic() + 120
    while _rows(history) < 3:
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = _rows(history)
    assert 3 <= done < 15
    again = command("resume=s", module="emotion_lab.sweep", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert _rows(history) == 15
    # It went on where it was, and did not train its first epochs again.
    epochs = [line for line in again.stdout.splitlines() if line.startswith("[trial 0] epoch")]
    assert 0 < len(epochs) <= 15 - done + 1
    assert "[trial 0] epoch  1/15" not in again.stdout
    rows = table(tmp_path / "s")
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {row["status"] for row in rows} <= {"finished", "repeated"}
    metrics = json.loads((tmp_path / "s" / "0" / "metrics.json").read_text())
    assert float(rows[0]["value"]) == metrics["monitor"]["best"]
