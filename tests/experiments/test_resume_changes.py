"""``resume=`` with changed keys: what is refused, and what the run directory says afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.run import resume, training
from tests.conftest import TINY, composed
from tests.training.conftest import after_batch

#: 2 epochs of 2 batches and 1 optimiser step.
SMALL = (
    "trainer.max_epochs=2",
    "trainer.accumulate_grad_batches=2",
    "schedule=none",
    "data.batch_size=32",
)
AFTER_EPOCH_2, IN_EPOCH_3 = {"epoch": 2, "start": 0}, {"epoch": 2, "start": 1}


def change(typed: tuple[str, ...], position: dict[str, int], **trainer: Any) -> None:
    """Check the resume of a run of 3 epochs with other keys of ``trainer``."""
    saved = composed(*TINY, "trainer.max_epochs=3", *typed)
    config = {**saved, "trainer": {**saved["trainer"], **trainer}}
    resume.check_changes(saved, config, position)


@pytest.mark.parametrize(
    ("typed", "position", "trainer", "message"),
    [
        (
            ("schedule=cosine",),
            AFTER_EPOCH_2,
            {"max_epochs": 9},
            "schedule=cosine was computed for 3",
        ),
        (("schedule=onecycle",), AFTER_EPOCH_2, {"max_epochs": 1}, "cannot change on resume"),
        (("schedule=onecycle",), AFTER_EPOCH_2, {"accumulate_grad_batches": 2}, "computed for 1"),
        (("schedule=cosine",), AFTER_EPOCH_2, {"limit_train_batches": 2}, "computed for null"),
        (("schedule=step",), AFTER_EPOCH_2, {"limit_train_batches": 2}, "schedule=step was"),
        (("schedule=none",), IN_EPOCH_3, {"accumulate_grad_batches": 2}, "batch 1 of epoch 3"),
        (("schedule=plateau",), IN_EPOCH_3, {"limit_train_batches": 1}, "batch 1 of epoch 3"),
        (("schedule=none",), AFTER_EPOCH_2, {"max_epochs": 1}, "max_epochs=2 or more"),
        (("schedule=step",), IN_EPOCH_3, {"max_epochs": 1}, "max_epochs=2 or more"),
        (
            ("schedule=none", "augment=device", "augment.progressive_resize=[[0,32],[0.5,48]]"),
            AFTER_EPOCH_2,
            {"max_epochs": 9},
            "progressive_resize was computed for 3",
        ),
    ],
)
def test_refused(
    typed: tuple[str, ...], position: dict[str, int], trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        change(typed, position, **trainer)
    assert "\n" not in str(caught.value)


def test_allowed() -> None:
    change(("schedule=cosine",), IN_EPOCH_3, accumulate_grad_batches=1, patience=1)
    change(("schedule=none",), AFTER_EPOCH_2, accumulate_grad_batches=2, max_epochs=2)
    change(("schedule=plateau",), AFTER_EPOCH_2, limit_train_batches=2)
    change(("schedule=step",), IN_EPOCH_3, max_epochs=9)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that trains below ``tmp_path / "run"``, without the final evaluation."""

    def finish(config: dict[str, Any], run_dir: Path, fitted: Any) -> float:
        (run_dir / "metrics.json").write_text(json.dumps(fitted.facts))
        return 0.0

    def run(*typed: str, resumed: bool = True) -> dict[str, Any]:
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        overrides = [*typed, *([f"resume={run_dir}"] if resumed else [])]
        training.run_training(OmegaConf.create(composed(*overrides)), overrides, run_dir)
        return yaml.safe_load((run_dir / "config.yaml").read_text())

    monkeypatch.setattr(training, "finish_run", finish)
    return run


def test_the_run_directory_records_a_resume(train: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(*TINY, *SMALL, resumed=False)
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with pytest.raises(UserError, match="too small"):
        train("trainer.max_epochs=1")
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}

    def crash(trainer: Any, batch: Any, index: int) -> None:
        raise RuntimeError("crash")

    with after_batch(crash), pytest.raises(RuntimeError, match="crash"):
        train("trainer.max_epochs=3", "trainer.accumulate_grad_batches=1")
    assert not (run / "metrics.json").exists(), "the metrics are those of 2 epochs"
    expected = {
        **first,
        "trainer": {**first["trainer"], "max_epochs": 3, "accumulate_grad_batches": 1},
    }
    assert yaml.safe_load((run / "config.yaml").read_text()) == expected
    # The checkpoint has the old config: a later plain resume reads config.yaml.
    assert train() == expected
    facts = json.loads((run / "metrics.json").read_text())
    assert facts["epochs"] == 3 and facts["steps"] == 4
    # Batches are counted, because the images of an optimiser step have changed.
    assert facts["images_per_s"] * facts["seconds"] == pytest.approx(3 * 64, rel=0.05)
    # Nothing is left to train.
    assert train("trainer.patience=4")["trainer"]["patience"] == 4

    crashed, plain, last = runs.read_resumes(run)
    assert crashed["changed"] == {
        "trainer.max_epochs": {"old": 2, "new": 3},
        "trainer.accumulate_grad_batches": {"old": 2, "new": 1},
    }
    assert plain["changed"] == {} and set(last["changed"]) == {"trainer.patience"}
    assert [(each["epoch"], each["step"]) for each in (crashed, plain, last)] == [
        (2, 2),
        (2, 2),
        (3, 4),
    ]
    assert set(crashed) == {"time", "epoch", "step", "changed", "commit"}
    assert resume.earlier_values(run) == ["trainer.accumulate_grad_batches=2 until step 2"]


def test_config_of_a_run_resumed_by_an_earlier_version(tmp_path: Path) -> None:
    """Earlier versions did not update config.yaml on resume: without a record, the card counts."""
    resume.save_config(tmp_path, {"trainer": {"max_epochs": 1}})
    card = {"config": {"trainer": {"max_epochs": 6}}}
    assert resume.saved_config(tmp_path, card) == card["config"]
    (tmp_path / "resumes.json").write_text('{"resumes": []}')
    assert resume.saved_config(tmp_path, card) == {"trainer": {"max_epochs": 1}}


def test_a_damaged_record(tmp_path: Path) -> None:
    (tmp_path / "resumes.json").write_text("{")
    with pytest.raises(UserError, match=r"resumes\.json cannot be read"):
        runs.read_resumes(tmp_path)
    (tmp_path / "config.yaml").write_text("trainer: [")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        resume.saved_config(tmp_path, {"config": {}})
