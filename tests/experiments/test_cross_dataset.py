"""One model on several datasets: page, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.dataset_list import check_datasets, kind_of
from emotion_lab.evaluation.evaluate import Predictor
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.experiments.run.cross_dataset import contamination_text, run_cross_dataset
from tests.conftest import TINY, composed, make_checkpoint

SMALL = ("data.size=32", "model.image_size=32", "augment=none")
FACTS = dict.fromkeys(("checkpoint", "checkpoint_sha256", "runtime", "command"), "x")


def write_faces(folder: Path, names: list[str], n: int = 6, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            image = Image.fromarray(generator.integers(0, 255, (32, 32), np.uint8))
            image.save(folder / name / f"{i}.png")
    return folder


def test_one_page_for_several_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint's own data, other data with its training images, and foreign predictions."""
    own = write_faces(tmp_path / "own", ["happy", "sad"], 10)
    other = write_faces(tmp_path / "other", ["happy", "contempt"], seed=1)
    for i in range(10):
        Image.open(own / "happy" / f"{i}.png").save(other / "happy" / f"copy{i}.bmp")
    data = {**compose.defaults("data", "image_folder"), "path": str(own), "val_fraction": 0.2}
    ckpt = make_checkpoint(
        {**composed(*TINY, *SMALL), "data": data}, tmp_path / "a.ckpt", ["happy", "sad"]
    )
    labels = np.arange(30) % 2
    probabilities = np.eye(2)[np.where(np.arange(30) < 24, labels, 1 - labels)]
    file = tmp_path / "predictions.csv"
    names = [str(i) for i in range(30)]
    groups, predicted = [f"p{i // 3}" for i in range(30)], probabilities.argmax(1)
    arrays = (labels, predicted, probabilities)
    write_predictions(file, names, *arrays, ["happy", "sad"], groups)
    (tmp_path / "run").mkdir()
    config: dict[str, Any] = {
        "data": compose.defaults("data", "checkpoint"),
        **{"split": "val", "tta": "none", "test_ledger": str(tmp_path / "ledger.jsonl")},
        "datasets": ["checkpoint", str(other), str(file)],
    }
    facts = {**FACTS, "model": "senet"}
    accuracy = run_cross_dataset(Predictor.load(ckpt), config, tmp_path / "run", facts)
    content = json.loads((tmp_path / "run" / "cross_dataset.json").read_text())
    first, second, third = content["datasets"]
    assert accuracy == first["accuracy"] and first["n"] == 4 and first["mapping"] == []
    assert first["trained_on"]["n"] == first["trained_on"]["near"] == 0
    # Contempt is left out; 8 or 9 of the 10 copies were trained on.
    assert (second["n"], second["n_all"], second["classes"]) == (16, 22, ["happy"])
    assert {part["from"]: part["to"] for part in second["mapping"]} == {
        **{"happy": "happy", "contempt": None}
    }
    assert 6 <= second["trained_on"]["n"] <= 10
    assert third["n"] == 30 and third["accuracy"] == 0.8 and third["trained_on"] is None
    expected = intervals(labels, predicted, 2, groups=groups)
    assert third["macro_f1_ci95"] == expected["macro_f1_ci95"]
    assert (tmp_path / "run" / second["predictions"]).is_file()
    page = (tmp_path / "run" / "cross_dataset.html").read_text()
    output = capsys.readouterr().out
    for text in ("data of the checkpoint", f"{second['trained_on']['n']} of 16 images", "80.00"):
        assert text in page and text in output
    assert "contempt → left out (6)" in page
    assert contamination_text(third) == "unknown"


def test_the_same_images_under_another_path_are_refused(tmp_path: Path) -> None:
    folders = [write_faces(tmp_path / name, ["happy", "sad"]) for name in ("a", "b")]
    data = {**compose.defaults("data", "image_folder"), "path": str(folders[0])}
    ckpt = make_checkpoint(
        {**composed(*TINY, *SMALL), "data": data}, tmp_path / "a.ckpt", ["happy", "sad"]
    )
    config: dict[str, Any] = {"data": compose.defaults("data", "checkpoint"), "split": "val"}
    config["datasets"] = ["checkpoint", str(folders[1])]
    with pytest.raises(UserError, match=r"data of the checkpoint and .*b hold the same images"):
        run_cross_dataset(Predictor.load(ckpt), config, tmp_path, FACTS)


def test_lists_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", ["happy"], 1)
    with pytest.raises(UserError, match=r"datasets has .*faces/\. twice: give every dataset once"):
        check_datasets([str(folder), f"{folder}/."])
    with pytest.raises(UserError, match="datasets: nowhere does not exist"):
        check_datasets(["checkpoint", "nowhere"])
    file = tmp_path / "predictions.csv"
    file.write_text("path,true,predicted,p_happy,p_sad\n")
    with pytest.raises(UserError, match="datasets has predictions only"):
        check_datasets([str(file)])
    (tmp_path / "fer.csv").write_text("emotion,pixels,Usage\n")
    assert kind_of(str(tmp_path / "fer.csv")) == "fer2013"
    (tmp_path / "list.csv").write_text('"Label";path\nhappy;a.png\n')
    assert kind_of(str(tmp_path / "list.csv")) == "csv"
    assert kind_of(str(folder)) == "image_folder" and kind_of(str(file)) == "predictions"
