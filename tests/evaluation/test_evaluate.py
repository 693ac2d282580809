"""Scores of a split, the files of a run and the test ledger."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn import metrics

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.wording import counted
from emotion_lab.data import checkpoint_data
from emotion_lab.data.checkpoint_data import CheckpointData, data_config, is_foreign, match_classes
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.evaluate import LedgerEntry, evaluate_checkpoint
from emotion_lab.evaluation.metrics import report_text, score
from emotion_lab.evaluation.predict import Predictions, predict
from emotion_lab.experiments.run.evaluation import check_typed
from emotion_lab.models.load import restore
from emotion_lab.reports.run_files import save_results
from tests.conftest import make_checkpoint

NAMES = list(EMOTIONS)


def predictions(labels: np.ndarray, seed: int = 0, k: int = 7, never: int | None = None) -> Any:
    """Return random logits that are right about half of the time."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(len(labels), k)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 1.5
    if never is not None:
        logits[:, never] = -9
    return Predictions(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.arange(len(labels))
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("never", [None, 1])
def test_scores_match_scikit_learn(seed: int, never: int | None) -> None:
    """The class ``never`` is never predicted: its precision is 0."""
    share = np.array([14, 2, 14, 25, 17, 11, 17]) / 100
    labels = np.random.default_rng(seed).choice(7, 300, p=share)
    labels[:7] = range(7)
    predicted = predictions(labels, seed, never=never)
    guesses = predicted.logits.argmax(1).numpy()
    scores = score(predicted, NAMES)
    assert scores["n"] == 300 and scores["classes"] == NAMES
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guesses), abs=1e-6)
    log_loss = metrics.log_loss(labels, predicted.probabilities.double().numpy(), labels=range(7))
    assert scores["loss"] == pytest.approx(log_loss, abs=1e-5)
    for average in ("macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(
            labels, guesses, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert scores[f"{average}_{name}"] == pytest.approx(value, abs=1e-6), (average, name)
    expected = metrics.precision_recall_fscore_support(labels, guesses, zero_division=0)
    for index, name in enumerate(NAMES):
        row = scores["per_class"][name]
        for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            assert row[key] == pytest.approx(values[index], abs=1e-6), (name, key)
    assert scores["confusion"] == metrics.confusion_matrix(labels, guesses).tolist()
    json.dumps(scores)


def test_classification_report() -> None:
    scores = score(predictions(np.arange(70) % 7), NAMES)
    lines = report_text(scores, "val").splitlines()
    assert lines[0] == f"val: n = 70, accuracy {scores['accuracy']:.4f}"
    assert lines[2].split() == ["precision", "recall", "f1", "support"]
    for name, line in zip(NAMES, lines[3:], strict=False):
        row = scores["per_class"][name]
        values = [f"{row[key]:.4f}" for key in ("precision", "recall", "f1")]
        assert line.split() == [name, *values, "10"]
    values = [f"{scores[f'macro_{key}']:.4f}" for key in ("precision", "recall", "f1")]
    assert "  ".join(lines).count("avg") == 2
    assert lines[-2].split() == ["macro", "avg", *values, "70"]


def test_class_without_samples() -> None:
    labels = np.array([0, 2, 3, 4, 5, 6] * 5)
    scores = score(predictions(labels, never=1), NAMES)
    assert scores["per_class"]["disgust"]["support"] == 0
    lines = [line.split() for line in report_text(scores, "val").splitlines()]
    assert [line for line in lines if "no" in line] == [["disgust", "no", "samples", "0"]]
    # It has no part in the averages.
    guesses = predictions(labels, never=1).logits.argmax(1).numpy()
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))


@pytest.fixture(scope="module")
def checkpoint(cfg: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of an untrained network with its classes in reverse order."""
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    return make_checkpoint(cfg, path, NAMES[::-1])


def test_classes_are_matched_by_name(cfg: dict[str, Any]) -> None:
    data = EmotionData(cfg["data"], ("val",))
    before = data.split("val")
    part, notes = match_classes(before, NAMES, NAMES[::-1])
    assert notes == [] and len(part) == len(before)
    assert [NAMES[::-1][i] for i in part.labels] == [NAMES[i] for i in before.labels]
    known = ["sad", "happy", "contempt"]
    part, notes = match_classes(before, NAMES, known)
    assert sorted({known[i] for i in part.labels}) == ["happy", "sad"]
    kept = [NAMES[i] for i in before.labels if NAMES[i] in known]
    assert [known[i] for i in part.labels] == kept
    assert len(notes) == 5
    count = int((before.labels == 0).sum())
    assert (
        notes[0]
        == f"class 'angry' is unknown to the checkpoint: {counted(count, 'image')} left out"
    )
    with pytest.raises(UserError, match="no class is shared"):
        match_classes(before, NAMES, ["contempt"])


def test_evaluation_is_deterministic(cfg: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    results = [evaluate_checkpoint(checkpoint, cfg["data"]) for _ in range(2)]
    assert results[0].scores == results[1].scores
    scores = results[0].scores
    save_results(tmp_path, results[0], "predictions_val.csv")
    small = {**cfg["data"], "batch_size": 3}
    other = evaluate_checkpoint(checkpoint, small).scores
    assert other["confusion"] == scores["confusion"]
    assert other["loss"] == pytest.approx(scores["loss"], abs=1e-5)
    assert scores["classes"] == NAMES[::-1]
    with (tmp_path / "predictions_val.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    data = EmotionData(cfg["data"], ("val",))
    assert list(rows[0]) == ["path", "true", "predicted", *(f"p_{n}" for n in NAMES[::-1])]
    assert [row["path"] for row in rows] == list(data.split("val").names)
    assert [row["true"] for row in rows] == [NAMES[i] for i in data.split("val").labels]
    for row in rows:
        values = {name: float(row[f"p_{name}"]) for name in NAMES}
        assert sum(values.values()) == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == max(values, key=values.__getitem__)
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(scores["accuracy"])
    assert len({row["predicted"] for row in rows}) > 1, "the network predicts one class only"
    for name in ("classification_report_val.txt", "confusion_val.png", "samples_val.png"):
        assert (tmp_path / name).stat().st_size > 100
    assert scores["fingerprint"]["n"] == len(rows)
    assert not list(tmp_path.glob("*ledger*"))


def test_predict_leaves_the_network_in_eval_mode(cfg: dict[str, Any], checkpoint: Path) -> None:
    net, card = restore(checkpoint)
    net.train()
    data = EmotionData(cfg["data"], ("val",))
    data.prepare_for(32, 1)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    predicted = predict(net, data.eval_dataloader("val"), "cpu")
    assert not net.training and predicted.logits.dtype == torch.float32
    assert predicted.positions.tolist() == list(range(len(predicted.labels)))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert card["classes"] == NAMES[::-1]


def test_data_of_the_checkpoint_is_used(cfg: dict[str, Any]) -> None:
    card = {"config": cfg}
    asked = {"name": "checkpoint", "path": None, "batch_size": 5, "limit": None}
    assert data_config(asked, card) == {**cfg["data"], "batch_size": 5}
    other = {"name": "image_folder", "path": "x"}
    assert data_config(other, card) == other and is_foreign(other, card)
    assert not is_foreign(asked, card)


def save_images(folder: Path, per_class: int) -> Path:
    """Write distinct grey images of two classes, without a val folder."""
    generator = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            image = generator.integers(0, 255, (32, 32), np.uint8)
            cv2.imwrite(str(folder / name / f"{i}.png"), image)
    return folder


@pytest.mark.parametrize(
    ("settings", "n"),
    [
        ({"val_fraction": 0.2}, 8),
        ({"folds": 4, "fold": 1, "split_seed": 3}, 10),
        ({"group": r"/(\d)"}, 4),
    ],
)
def test_val_of_the_training_run_is_remade_for_the_same_data(
    settings: dict[str, Any], n: int, cfg: dict[str, Any], tmp_path: Path
) -> None:
    """The command names the training data itself, with the default seed, fraction and folds."""
    folder = save_images(tmp_path / "faces", per_class=20)
    asked = {**compose.defaults("data", "image_folder"), "path": str(folder / ".." / "faces")}
    trained_on = {**asked, "path": str(folder), **settings}
    prints = EmotionData(trained_on, ("train", "val")).fingerprints()
    card = {
        **{"config": {**cfg, "data": trained_on}, "classes": ["happy", "sad"], "seed": 0},
        **{"fingerprints": prints, "input": {"image_size": 32, "channels": 1}},
    }
    foreign = is_foreign(asked, card)
    data = CheckpointData.open(card, data_config(asked, card), "val", foreign)
    assert len(data.part) == n and data.fingerprint["hash"] == prints["val"]["hash"]
    assert not data.foreign and not [note for note in data.notes if "warning" in note]


def test_test_access_writes_one_line(
    cfg: dict[str, Any], checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    ledger = tmp_path / "deep" / "ledger.jsonl"
    entry = LedgerEntry(ledger, tmp_path)
    evaluate_checkpoint(checkpoint, cfg["data"], entry=entry)
    assert not ledger.exists()
    scores = evaluate_checkpoint(checkpoint, cfg["data"], "test", entry=entry).scores
    (line,) = [json.loads(text) for text in ledger.read_text().splitlines()]
    assert line["n"] == scores["n"] and line["accuracy"] == scores["accuracy"]
    assert line["fingerprint"] == scores["fingerprint"]["hash"]
    assert line["checkpoint"] == file_hash(checkpoint)
    assert line["config"] == test_ledger.config_hash(cfg) and line["run"] == str(tmp_path)
    opened = "test split opened: {} earlier accesses, configurations so far: 1"
    assert opened.format(0) in capsys.readouterr().out
    evaluate_checkpoint(checkpoint, cfg["data"], "test", entry=entry)
    assert opened.format(1) in capsys.readouterr().out
    assert len(ledger.read_text().splitlines()) == 2
    assert len(test_ledger.openings(ledger, line["fingerprint"])) == 2


def test_test_needs_a_ledger(
    cfg: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(checkpoint_data, "EmotionData", lambda *args: opened.append(args))
    with pytest.raises(UserError, match="only through a ledger"):
        evaluate_checkpoint(checkpoint, cfg["data"], "test")
    (tmp_path / "file").touch()
    for ledger in (tmp_path, tmp_path / "file" / "ledger.jsonl"):
        entry = LedgerEntry(ledger, tmp_path)
        with pytest.raises(UserError, match=r"cannot be written .*; the test split is not opened"):
            evaluate_checkpoint(checkpoint, cfg["data"], "test", entry=entry)
    assert opened == []


def test_the_division_of_the_training_run_cannot_be_changed() -> None:
    trained_on = {"name": "fer2013", "folds": 5, "fold": 0, "exclude": None}
    typed = {**trained_on, "fold": 1}
    with pytest.raises(UserError, match=r"data.fold=1 cannot change: .* data.fold=0, .* Remove"):
        check_typed(typed, trained_on, ["data=fer2013", "data.folds=5", "data.fold=1"])
    check_typed(typed, trained_on, ["data=fer2013", "data.folds=5"])
    check_typed(typed, typed, ["data.fold=1"])
