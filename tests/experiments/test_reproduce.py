"""``reproduce=``: a run repeated from its saved config, and the report of the differences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from emotion_lab import train
from emotion_lab.config import compose
from emotion_lab.config import overrides as command_line
from emotion_lab.core import runs
from emotion_lab.experiments import reproduce
from emotion_lab.experiments.leaderboard import grouping
from tests.conftest import TINY, command, composed, error_message

FACTS: dict[str, Any] = {
    "commit": "abc",
    "precision": "32-true",
    "versions": {"torch": "2.14", "numpy": "2.4"},
    "hardware": {"accelerator": "cpu", "cpu": "one", "threads": 2, "cores": 2},
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with dropout, augmentation and mixing: many sources of randomness."""
    run = tmp_path_factory.mktemp("reproduce") / "a run = 1"
    done = command(
        *(*TINY, "augment=device", "mix.mixup=0.2", "seed=3", "test=true"),
        *(f"test_ledger={run.parent}/ledger.jsonl", f"hydra.run.dir={run}"),
        cwd=run.parent,
    )
    assert done.returncode == 0, done.stderr
    return run


def test_reproduction_is_identical_to_the_last_digit(first: Path) -> None:
    again = first.parent / "again"
    done = command(f"reproduce={first}", f"hydra.run.dir={again}", cwd=first.parent)
    assert done.returncode == 0, done.stderr
    assert "history.csv is identical to the last digit, 2 epochs" in done.stdout
    assert (again / "history.csv").read_bytes() == (first / "history.csv").read_bytes()
    saved = json.loads((again / "replay.json").read_text())
    assert saved["identical"] and saved["first_difference"] is None and saved["of"] == str(first)
    # The test split was opened once, by the run itself.
    assert len((first.parent / "ledger.jsonl").read_text().splitlines()) == 1
    assert "test" not in json.loads((again / "metrics.json").read_text())
    # A reproduction is a run like any other.
    assert runs.read(again).config["reproduce"] == str(first)
    # Both are one configuration, and neither lacks keys of the other.
    ranked = grouping.read([first, again], None)
    assert len(ranked.groups) == 1 and ranked.groups[0].runs[0].folder == again
    assert len(ranked.notes) == 1 and "same seed" in ranked.notes[0]


def test_other_data_is_refused_before_training(first: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["data"]["n"] = 90
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    done = command(f"reproduce={run}", "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 2 and "but that of the run had 64 images" in done.stderr
    assert not (tmp_path / "again" / "checkpoints").exists()


def refused(*typed: str) -> str:
    argv = command_line.quote_texts(list(typed))
    overrides, multirun, _ = command_line.flags(argv)
    return error_message(
        lambda: train.validate(compose.precheck("train", overrides, multirun), overrides)
    )


def test_invalid_reproductions(first: Path, tmp_path: Path) -> None:
    assert "'model=cnn' cannot change" in refused(f"reproduce={first}", "model=cnn")
    assert "'seed=1' cannot change" in refused(f"reproduce={first}", "seed=1")
    assert "neither with -m" in refused("-m", f"reproduce={first}", "seed=1,2")
    assert "no finished training run" in refused(f"reproduce={tmp_path}")
    assert "already holds" in refused(f"reproduce={first}", f"hydra.run.dir={first}")


def test_report_of_a_run_that_was_changed_on_resume(first: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(first, tmp_path / "run"))
    changed = {"trainer.precision": {"old": "fp32", "new": "bf16"}}
    entry = {"epoch": 1, "step": 5, "changed": changed}
    (run / "resumes.json").write_text(json.dumps({"resumes": [entry]}))
    lines = reproduce.report(runs.read(run), run, {**FACTS, "commit": "other"})
    assert "reproduce: the original run was trained with trainer.precision=" in "\n".join(lines)
    saved = json.loads((run / "replay.json").read_text())
    assert saved["changed_on_resume"] == ['trainer.precision="fp32" until step 5']


def test_differences(first: Path) -> None:
    run = runs.read(first)
    same = runs.Run(run.folder, run.config, {**run.metrics, **FACTS}, None)
    assert reproduce.differences(same, FACTS) == []
    now = json.loads(json.dumps(FACTS))
    now["commit"], now["precision"] = "def", "bf16-mixed"
    now["versions"] = {"torch": "2.15", "timm": "1.0", "numpy": "2.4"}
    now["hardware"]["threads"], now["hardware"]["cores"] = 1, 8
    assert reproduce.differences(same, now) == [
        "commit: def instead of abc",
        "precision: bf16-mixed instead of 32-true",
        "timm: 1.0 instead of none",
        "torch: 2.15 instead of 2.14",
        "threads: 1 instead of 2",
    ]
    dirty = {**FACTS, "commit": "abc+dirty"}
    changed = runs.Run(run.folder, run.config, {**run.metrics, **dirty}, None)
    assert "uncommitted changes" in reproduce.differences(changed, dirty)[0]


def test_first_difference_of_two_histories(first: Path, tmp_path: Path) -> None:
    lines = (first / "history.csv").read_text().splitlines()
    other = tmp_path / "history.csv"
    other.write_text("\n".join(lines[:2]) + "\n")
    old = first / "history.csv"
    assert reproduce.first_difference(old, other) == "1 epoch instead of 2"
    cells = lines[2].split(",")
    column = lines[0].split(",").index("train/criterion")
    cells[column] = "9.5"
    other.write_text("\n".join([*lines[:2], ",".join(cells)]) + "\n")
    text = reproduce.first_difference(old, other)
    assert (
        text is not None
        and text.startswith("epoch 2, train/criterion: ")
        and ": 9.5 instead of " in text
    )


def test_missing_keys_of_an_older_version_get_defaults(first: Path) -> None:
    run = runs.read(first)
    del run.config["data"]["cache_limit_mib"], run.config["sweep"]
    del run.config["distill"]["precompute"]
    now = composed(f"reproduce='{first}'")
    config_again = reproduce.reproduced_config(run, now)
    assert config_again["data"]["cache_limit_mib"] == 2048 and config_again["sweep"]
    assert config_again["data"]["n"] == 80 and not config_again["test"]
    assert config_again["distill"]["precompute"] is False
