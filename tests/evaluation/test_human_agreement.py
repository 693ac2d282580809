"""Agreement with human votes, and scores on data with other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.evaluate import evaluate_checkpoint, shared_scores
from emotion_lab.evaluation.human_agreement import agreement
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from tests.conftest import composed, make_checkpoint


def make_result(
    votes: list[list[int]] | None, labels: list[int], predicted: list[int]
) -> EvaluationResult:
    """Return an evaluation result with three classes; the second image of four is unreadable."""
    keep = [i for i in range(len(labels) + 1) if i != 1]
    store = ArrayStore(np.zeros((len(keep) + 1, 4, 4, 1), np.uint8))
    full = np.insert(np.array(labels), 1, 0)
    part = Split(store, np.arange(len(full)), full, [f"r{i}" for i in range(len(full))])
    if votes is not None:
        part.votes = np.insert(np.array(votes), 1, 99, axis=0)
    logits = torch.eye(3)[predicted] * 4
    predictions = Predictions(logits, torch.tensor(labels), torch.tensor(keep))
    card = {"classes": ["a", "b", "c"]}
    return EvaluationResult(None, card, "val", part, predictions, {}, Resize(4, 1), "cpu")  # type: ignore[arg-type]


def test_agreement_by_hand() -> None:
    votes = [[10, 0, 0], [5, 5, 0], [1, 8, 1], [0, 0, 0], [4, 3, 3]]
    summary = agreement(make_result(votes, [0, 0, 0, 2, 2], [0, 1, 1, 2, 2]))
    assert summary is not None and summary["n"] == 4  # nobody voted on the fourth
    bins = {row["from"]: row for row in summary["bins"]}
    # Half and half: b has as many votes as a, so it agrees with the majority.
    expected = {
        1.0: (1, 1, 1),
        0.9: (0, None, None),
        0.7: (1, 0, 1),
        0.5: (1, 0, 1),
        0.0: (1, 1, 0),
    }
    keys = ("n", "accuracy", "accuracy_majority")
    assert {low: tuple(row[key] for key in keys) for low, row in bins.items()} == expected
    assert summary["model"] == pytest.approx((1 + 0.5 + 0.8 + 0.3) / 4)
    assert summary["ceiling"] == pytest.approx((1 + 0.5 + 0.8 + 0.4) / 4)
    same = (1 + 40 / 90 + 56 / 90 + (12 + 6 + 6) / 90) / 4
    assert summary["person"] == pytest.approx(same)
    assert summary["ceiling"] >= summary["model"]
    assert agreement(make_result(None, [0], [0])) is None
    assert agreement(make_result([[0, 0, 0]], [0], [0])) is None


def test_shared_classes_by_hand() -> None:
    """The data has classes a, c and d (two images); the network predicts b once."""
    logits = torch.tensor([[3.0, 1, 0], [0, 5, 4], [2, 0, 1]])
    predictions = Predictions(logits, torch.tensor([0, 2, 2]), torch.arange(3))
    mapping = [
        {"from": "A", "to": "a", "n": 1},
        {"from": "C", "to": "c", "n": 2},
        {"from": "d", "to": None, "n": 2},
    ]
    summary = shared_scores(predictions, mapping, ["a", "b", "c"])
    assert summary["classes"] == ["a", "c"] and summary["n"] == 3
    assert summary["accuracy"] == pytest.approx(2 / 3)  # without b the second is right
    assert summary["n_all"] == 5 and summary["accuracy_all"] == pytest.approx(1 / 5)


def test_data_with_other_class_names(cfg: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    checkpoint = make_checkpoint(cfg, tmp_path / "a.ckpt", list(EMOTIONS))
    generator = np.random.default_rng(0)
    for name, count in (("Anger", 3), ("happiness", 4), ("contempt", 2)):
        folder = tmp_path / "faces" / name
        folder.mkdir(parents=True)
        for i in range(count):
            image = generator.integers(0, 256, (40, 40), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{i}.png"), image)
    data = composed("data=image_folder", f"data.path={tmp_path / 'faces'}")["data"]
    result = evaluate_checkpoint(checkpoint, data, foreign=True)
    rows = {row["from"]: (row["to"], row["n"]) for row in result.mapping}
    assert rows == {"Anger": ("angry", 3), "happiness": ("happy", 4), "contempt": (None, 2)}
    shown = capsys.readouterr().out
    assert "Anger -> angry (3 images)" in shown and "contempt -> left out (2 images)" in shown
    shared = result.scores["shared"]
    assert result.scores["n"] == shared["n"] == 7 and shared["n_all"] == 9
    assert shared["classes"] == ["angry", "happy"]
    right = (result.predicted == result.labels).sum()
    assert shared["accuracy_all"] == pytest.approx(right / 9)
    assert shared["accuracy"] >= result.scores["accuracy"]
