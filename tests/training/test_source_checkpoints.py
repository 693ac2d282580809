"""Checkpoints that enter a run: val images that they learnt from are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data import contamination
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.training import source_checkpoints
from tests.conftest import make_checkpoint, run_training

Tiny = Callable[..., dict[str, Any]]
FOLDS = ("data.folds=2", "data.n=120", "trainer.max_epochs=1")


@pytest.fixture
def fold_0(tiny: Tiny, tmp_path: Path) -> Path:
    """Return a checkpoint of fold 0: it learnt from all val images of fold 1."""
    path = tmp_path / "fold_0" / "checkpoints" / "best.ckpt"
    return make_checkpoint(tiny(*FOLDS, "data.fold=0"), path, list(EMOTIONS))


def facts(cfg: dict[str, Any]) -> list[dict[str, Any]]:
    return source_checkpoints.check(source_checkpoints.read(cfg), EmotionData(cfg["data"]))[1]


@pytest.mark.parametrize("key", ["model.weights", "distill.teacher"])
def test_a_checkpoint_of_another_fold(
    key: str, fold_0: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run directory names its best checkpoint; both ways into a run give the same line."""
    for path in (fold_0, fold_0.parents[1]):
        (fact,) = facts(tiny(*FOLDS, "data.fold=1", f"{key}={path}"))
        n = fact["of"]
        seen = {"n": n, "near": 0, "unknown": [], "near_unknown": []}
        expected = {"key": key, "checkpoint": str(path), "val": seen}
        assert fact == {**expected, "not_in_train": n, "of": n} and n > 20
        assert capsys.readouterr().out == (
            f"warning: {key}={path} learnt from {n} of {n} val images, {n} of them not in "
            "train: val scores are too high\n"
        )
        (fact,) = facts(tiny(*FOLDS, "data.fold=0", f"{key}={path}"))
        assert fact["val"]["n"] == fact["not_in_train"] == 0
        assert "warning" not in capsys.readouterr().out


def test_the_frame_network_of_a_temporal_model(fold_0: Path, tiny: Tiny) -> None:
    cfg = tiny(*FOLDS, "data.fold=1")
    cfg["model"]["frame_ckpt"] = str(fold_0)
    (fact,) = facts(cfg)
    assert fact["key"] == "model.frame_ckpt" and fact["not_in_train"] == fact["of"] > 20


def test_images_of_other_weights_are_unknown(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    (fact,) = facts(tiny(*FOLDS, f"model.weights={tmp_path / 'foreign.pth'}"))
    unknown = {"unknown": ["foreign.pth"], "near_unknown": []}
    assert fact["val"] == {"n": None, "near": None, **unknown}
    assert "warning: it is unknown whether model.weights=" in capsys.readouterr().out


def test_the_shipped_model_is_checked_by_name(tiny: Tiny) -> None:
    (fact,) = facts(tiny(*FOLDS, "model.weights=fer2013"))
    assert fact["val"] == {"n": 0, "near": 0, "unknown": [], "near_unknown": []}


def test_leaked_val_images_stay_flagged(fold_0: Path, tiny: Tiny, tmp_path: Path) -> None:
    """The run, its report and every later evaluation count them; the score without them is None."""
    metrics = run_training(tiny(*FOLDS, "data.fold=1", f"model.weights={fold_0}"), tmp_path / "run")
    n = metrics["val"]["n"]
    assert metrics["checkpoints"][0]["not_in_train"] == n
    assert metrics["val"]["trained_on"]["n"] == n
    assert metrics["val"]["trained_on"]["others"] == {"n": 0, "accuracy": None}
    report = (tmp_path / "run" / "classification_report.txt").read_text()
    assert f"{n} of {n} images are in the training data: no image remains" in report
    # The images of both trainings are in the card.
    card = ckpt.read(tmp_path / "run" / "checkpoints" / "best.ckpt")[ckpt.CARD]
    every = contamination.of_card(card)
    data = EmotionData(card["config"]["data"])
    for split in ("train", "val"):
        assert every.seen(data.split(split)).exact.all()
    json.dumps(metrics)
