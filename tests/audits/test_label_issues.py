"""Doubtful labels: planted flips are found in out-of-fold predictions, in-sample ones refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from emotion_lab.audits import cleaning_lists, image_stats, label_issues
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import ArrayStore, LoadedDataset, Split
from emotion_lab.models.base import build_model
from emotion_lab.training.fit import make_card
from tests.conftest import TINY, composed

CLASSES = ["angry", "happy", "sad", "contempt"]
SIZES = {"train": 800, "val": 160, "test": 160}


@pytest.fixture(scope="module")
def noisy() -> tuple[image_stats.ImageStats, set[int]]:
    """Return pictures of four patterns in noise, and the numbers of those with a flipped label."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(0, 26, (4, 12, 12))
    splits, wrong, start = {}, set(), 0
    for name, n in SIZES.items():
        truth = rng.integers(0, 4, n)
        images = np.clip(128 + patterns[truth] + rng.normal(0, 60, (n, 12, 12)), 0, 255)
        labels = truth.copy()
        flipped = rng.permutation(n)[: n // 12]
        labels[flipped] = (truth[flipped] + rng.integers(1, 4, len(flipped))) % 4
        wrong |= {start + i for i in flipped.tolist()}
        store = ArrayStore(images.astype(np.uint8)[..., None])
        names = [f"{name}/{i}.png" for i in range(n)]
        splits[name] = Split(store, np.arange(n), labels, names)
        start += n
    return image_stats.scan_images(LoadedDataset(CLASSES, splits, "made"), {"name": "made"}), wrong


def write(path: Path, names: list[str], probabilities: np.ndarray, classes: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "true", "predicted", *(f"p_{name}" for name in classes)])
        for name, row in zip(names, probabilities, strict=True):
            writer.writerow([name, "", "", *(f"{p:.8g}" for p in row)])
    return path


@pytest.fixture(scope="module")
def sweep(
    noisy: tuple[image_stats.ImageStats, set[int]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a five-fold sweep over train and val; columns in another order."""
    looked, _ = noisy
    folder = tmp_path_factory.mktemp("sweep")
    pooled = np.flatnonzero(looked.split < 2)
    x = looked.small[pooled].reshape(len(pooled), -1) / 255.0
    y = looked.label[pooled]
    for number, (train, val) in enumerate(KFold(5, shuffle=True, random_state=0).split(x)):
        model = LogisticRegression(C=0.02, max_iter=500).fit(x[train], y[train])
        order = [2, 0, 3, 1]
        names = [looked.names[i] for i in pooled[val]]
        table = model.predict_proba(x[val])[:, order]
        write(
            folder / str(number) / label_issues.PREDICTIONS,
            names,
            table,
            [CLASSES[i] for i in order],
        )
    return folder


def found(looked: image_stats.ImageStats, places: list[Any]) -> label_issues.LabelIssues:
    files = label_issues.find_predictions([str(place) for place in places])
    tables = [label_issues.read_predictions(file, looked.classes) for file in files]
    return label_issues.find_label_issues(looked, tables, [str(file) for file in files])


def test_planted_flips_are_found(
    noisy: tuple[image_stats.ImageStats, set[int]], sweep: Path
) -> None:
    """At least 75 % of what is listed was flipped, and 75 % of what was flipped is listed."""
    looked, wrong = noisy
    result = found(looked, [sweep])
    assert result.predicted == {"train": 800, "val": 160} and len(result.files) == 5
    wrong = {i for i in wrong if looked.split_of(i) != "test"}
    listed = [doubt.index for doubt in result.ranked]
    hits = len(wrong & set(listed))
    assert hits / len(listed) >= 0.75 and hits / len(wrong) >= 0.75
    # The first of the ranking are the surest.
    assert len(wrong & set(listed[:30])) >= 27
    qualities = [doubt.quality for doubt in result.ranked]
    assert qualities == sorted(qualities) and len(set(listed)) == len(listed)
    for doubt in result.ranked:
        assert doubt.suggested != looked.label[doubt.index]
        assert 0 <= doubt.quality < doubt.certainty <= 1


def test_relabel_holds_train_alone(
    noisy: tuple[image_stats.ImageStats, set[int]], sweep: Path, tmp_path: Path
) -> None:
    looked, _ = noisy
    ranked = found(looked, [sweep]).ranked
    cleaning_lists.write_relabel(tmp_path / "relabel.csv", looked, ranked)
    cleaning_lists.write_doubts(tmp_path / "suspects.csv", looked, ranked)
    with open(tmp_path / "relabel.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "suspects.csv", newline="", encoding="utf-8") as file:
        suspects = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train"}
    assert {row["split"] for row in suspects} == {"train", "val"}
    assert rows == [row for row in suspects if row["split"] == "train"]
    by_name = {looked.names[d.index]: d for d in ranked}
    for row in rows:
        doubt = by_name[row["path"]]
        assert row["label_now"] == looked.label_of(doubt.index)
        assert row["label_suggested"] == CLASSES[doubt.suggested]
        assert float(row["quality"]) == pytest.approx(doubt.quality, abs=1e-6)


def test_predictions_are_joined_by_name(
    noisy: tuple[image_stats.ImageStats, set[int]], tmp_path: Path
) -> None:
    looked, _ = noisy
    names = ["train/3.png", "val/0.png", "test/1.png", "other/9.png"]
    first = np.array([[0.7, 0.1, 0.1, 0.1]] * 4)
    second = np.array([[0.1, 0.1, 0.1, 0.7]])
    tables = [
        label_issues.read_predictions(write(tmp_path / "a.csv", names, first, CLASSES), CLASSES),
        label_issues.read_predictions(
            write(tmp_path / "b.csv", names[:1], second, CLASSES), CLASSES
        ),
    ]
    known, values, strangers, sealed = label_issues.join(looked, tables)
    assert [looked.names[i] for i in known] == ["train/3.png", "val/0.png"]
    np.testing.assert_allclose(values, [[0.4, 0.1, 0.1, 0.4], [0.7, 0.1, 0.1, 0.1]])
    assert (strangers, sealed) == (1, 1)


def test_test_is_never_examined(
    noisy: tuple[image_stats.ImageStats, set[int]], sweep: Path
) -> None:
    looked, _ = noisy
    tables = [label_issues.read_predictions(sweep / "0" / label_issues.PREDICTIONS, CLASSES)]
    sealed = {f"test/{i}.png": np.eye(4)[0] for i in range(160)}
    result = label_issues.find_label_issues(looked, [*tables, sealed], ["a", "b"])
    assert "test" not in result.predicted
    assert all(looked.split_of(doubt.index) != "test" for doubt in result.ranked)
    assert result.notes == ["160 predictions of the test split are not used: it is sealed"]


def test_bad_predictions(noisy: tuple[image_stats.ImageStats, set[int]], tmp_path: Path) -> None:
    looked, _ = noisy
    uniform = np.full((1, 4), 0.25)
    with pytest.raises(UserError, match="has no column p_contempt"):
        label_issues.read_predictions(
            write(tmp_path / "a.csv", ["x"], uniform[:, :3], CLASSES[:3]), CLASSES
        )
    (tmp_path / "b.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="has no column path"):
        label_issues.read_predictions(tmp_path / "b.csv", CLASSES)
    for bad in (np.nan, -0.1, np.inf, 7):
        file = write(
            tmp_path / "c.csv", ["x", "y"], np.array([[1, 0, 0, 0], [1, 0, 0, bad]]), CLASSES
        )
        with pytest.raises(UserError, match="row 3: not a probability"):
            label_issues.read_predictions(file, CLASSES)
    file = write(tmp_path / "e.csv", ["x", "x"], np.repeat(uniform, 2, 0), CLASSES)
    with pytest.raises(UserError, match="row 3: 'x' is there already"):
        label_issues.read_predictions(file, CLASSES)
    file = write(tmp_path / "d.csv", ["elsewhere/1.png"], uniform, CLASSES)
    with pytest.raises(UserError, match="predictions for 0 images of this data"):
        found(looked, [file])


def test_a_class_without_images(
    noisy: tuple[image_stats.ImageStats, set[int]], tmp_path: Path
) -> None:
    """Only two classes were predicted for: the others have no threshold and are set aside."""
    looked, _ = noisy
    chosen = [i for i in range(800) if looked.label[i] < 2][:60]
    values = np.array([np.eye(4)[looked.label[i]] * 0.6 + 0.1 for i in chosen])
    values[:6, :2] = values[:6, 1::-1]  # they say the other class
    file = write(tmp_path / "a.csv", [looked.names[i] for i in chosen], values, CLASSES)
    ranked = found(looked, [file]).ranked
    assert len(ranked) >= 4 and {doubt.index for doubt in ranked} <= set(chosen[:6])
    assert all(doubt.suggested == 1 - looked.label[doubt.index] for doubt in ranked)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return an untrained network as a run would have left it, and its data; the classes turned."""
    torch.manual_seed(0)
    cfg = composed(*TINY, "augment=none")
    data = EmotionData(cfg["data"], ("val",))
    net, spec = build_model(cfg["model"], 7)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    card = {**make_card(cfg, data, spec, data.fingerprints()), "epoch": 0}
    card["classes"] = card["classes"][::-1]
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    ckpt.write(path, {"state_dict": state, ckpt.CARD: card})
    return path, cfg["data"]


def test_a_checkpoint_predicts_its_val(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """As the predictions say that scoring saves; train, which it has learnt, is left alone."""
    path, cfg = checkpoint
    looked = image_stats.scan_images(image_stats.open_all_splits(cfg), cfg)
    table = label_issues.predict_val(str(path), cfg, looked.classes, tmp_path / "val")
    assert list(table) == [n for n in looked.names if n.startswith("synthetic:val:")]
    saved = label_issues.read_predictions(
        tmp_path / "val" / label_issues.PREDICTIONS, looked.classes
    )
    for name, values in table.items():
        np.testing.assert_allclose(values, saved[name], atol=1e-6)
    assert len({int(values.argmax()) for values in table.values()}) > 1
    result = label_issues.find_label_issues(looked, [table], [str(path)])
    assert result.predicted == {"val": 8}
    assert not list(tmp_path.glob("**/*ledger*"))


def test_a_checkpoint_of_other_data(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, cfg = checkpoint
    for other, classes in (({**cfg, "name": "fer2013"}, list(EMOTIONS)), (cfg, CLASSES)):
        with pytest.raises(UserError, match="was trained on data=synthetic with the classes"):
            label_issues.predict_val(str(path), other, classes, tmp_path)
