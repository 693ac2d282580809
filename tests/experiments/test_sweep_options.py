"""Invalid options of a run or sweep: one line before any job starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_lab import train
from emotion_lab.config import compose
from tests.conftest import error_message


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["seed=1,1"], "'seed=1,1' has 1 twice"),
        (["optim.lr=0.01,1e-2"], "has 0.01 twice"),
        (["model=cnn,senet,cnn"], "has cnn twice"),
        (["data.folds=5", "data.fold=range(6)"], "data.fold=5 is not valid: expected 0 to 4"),
        (["data.folds=3,5", "data.fold=2,3"], "data.fold=3 is not valid: expected 0 to 2"),
        (["data.fold=range(3)"], "needs data.folds"),
        (["hydra.launcher.n_jobs=4", "seed=1,2"], "Name the launcher too, hydra/launcher=<name>"),
        (["hydra/launcher=jobli", "seed=1,2"], "Unknown hydra/launcher 'jobli'. Did you mean"),
    ],
)
def test_invalid_sweep_options_are_one_line(typed: list[str], message: str, tmp_path: Path) -> None:
    typed = ["data=synthetic", *typed, f"hydra.sweep.dir={tmp_path / 'never'}"]
    text = error_message(lambda: train.validate(compose.precheck("train", typed, True), typed))
    assert message in text and not (tmp_path / "never").exists()


def test_invalid_run_options_are_reported_before_data_is_read(tmp_path: Path) -> None:
    def error(*typed: str) -> str:
        overrides = ["data=synthetic", *typed, f"hydra.run.dir={tmp_path / 'never'}"]
        return error_message(
            lambda: train.validate(compose.precheck("train", overrides), overrides)
        )

    assert "expected 0 to 4" in error("data.folds=5", "data.fold=5")
    assert "add -m" in error("hydra/launcher=joblib")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no checkpoints/best.ckpt in" in error(f"distill.teacher={empty}")
