"""Label issues: flipped labels in out-of-fold predictions, and prediction files."""

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
from emotion_lab.data import contamination
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import ArrayStore, LoadedDataset, Split
from emotion_lab.models.base import build_model
from emotion_lab.training.fit import make_card
from tests.conftest import TINY, composed

CLASSES = ["angry", "happy", "sad", "contempt"]
SIZES = {"train": 800, "val": 160, "test": 160}


Noisy = tuple[image_stats.ImageStats, set[int]]


@pytest.fixture(scope="module")
def noisy() -> Noisy:
    """Return noisy images of four patterns and the indices of those with a flipped label."""
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
    source = LoadedDataset(CLASSES, splits, "array")
    return image_stats.scan_images(source, {"name": "array"}), wrong


def write(path: Path, names: list[str], probabilities: np.ndarray, classes: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "true", "predicted", *(f"p_{name}" for name in classes)])
        for name, row in zip(names, probabilities, strict=True):
            writer.writerow([name, "", "", *(f"{p:.8g}" for p in row)])
    return path


@pytest.fixture(scope="module")
def sweep(noisy: Noisy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a five-fold sweep over train and val, columns not in class order."""
    stats, _ = noisy
    folder = tmp_path_factory.mktemp("sweep")
    pooled = np.flatnonzero(stats.split < 2)
    x = stats.thumbnails[pooled].reshape(len(pooled), -1) / 255.0
    y = stats.label[pooled]
    for number, (train, val) in enumerate(KFold(5, shuffle=True, random_state=0).split(x)):
        model = LogisticRegression(C=0.02, max_iter=500).fit(x[train], y[train])
        order = [2, 0, 3, 1]
        names = [stats.names[i] for i in pooled[val]]
        table = model.predict_proba(x[val])[:, order]
        write(
            folder / str(number) / label_issues.PREDICTIONS,
            names,
            table,
            [CLASSES[i] for i in order],
        )
    return folder


def find_issues(stats: image_stats.ImageStats, paths: list[Path]) -> label_issues.LabelIssues:
    files = label_issues.find_predictions([str(path) for path in paths])
    tables = [label_issues.read_predictions(file, stats.classes) for file in files]
    return label_issues.find_label_issues(stats, tables, [str(file) for file in files])


def test_flipped_labels_are_found(noisy: Noisy, sweep: Path) -> None:
    """Precision and recall are at least 75 %."""
    stats, wrong = noisy
    result = find_issues(stats, [sweep])
    assert result.predicted == {"train": 800, "val": 160} and len(result.files) == 5
    wrong = {i for i in wrong if stats.split_name(i) != "test"}
    listed = [issue.index for issue in result.ranked]
    hits = len(wrong & set(listed))
    assert hits / len(listed) >= 0.75 and hits / len(wrong) >= 0.75
    # The precision of the first ones is higher.
    assert len(wrong & set(listed[:30])) >= 27
    qualities = [issue.quality for issue in result.ranked]
    assert qualities == sorted(qualities) and len(set(listed)) == len(listed)
    for issue in result.ranked:
        assert issue.suggested != stats.label[issue.index]
        assert 0 <= issue.quality < issue.certainty <= 1


def test_relabel_csv_has_train_only(noisy: Noisy, sweep: Path, tmp_path: Path) -> None:
    stats, _ = noisy
    ranked = find_issues(stats, [sweep]).ranked
    cleaning_lists.write_relabels(tmp_path / "relabel.csv", stats, ranked)
    cleaning_lists.write_suspects(tmp_path / "suspects.csv", stats, ranked)
    rows, suspects = (
        list(csv.DictReader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("relabel.csv", "suspects.csv")
    )
    assert {row["split"] for row in rows} == {"train"}
    assert {row["split"] for row in suspects} == {"train", "val"}
    assert rows == [row for row in suspects if row["split"] == "train"]
    by_name = {stats.names[issue.index]: issue for issue in ranked}
    for row in rows:
        issue = by_name[row["path"]]
        assert row["label_now"] == stats.class_name(issue.index)
        assert row["label_suggested"] == CLASSES[issue.suggested]
        assert float(row["quality"]) == pytest.approx(issue.quality, abs=1e-6)


def test_predictions_are_matched_by_name_and_averaged(noisy: Noisy, tmp_path: Path) -> None:
    stats, _ = noisy
    names = ["train/3.png", "val/0.png", "test/1.png", "other/9.png"]
    first = np.array([[0.7, 0.1, 0.1, 0.1]] * 4)
    second = np.array([[0.1, 0.1, 0.1, 0.7]])
    tables = [
        label_issues.read_predictions(write(tmp_path / "a.csv", names, first, CLASSES), CLASSES),
        label_issues.read_predictions(
            write(tmp_path / "b.csv", names[:1], second, CLASSES), CLASSES
        ),
    ]
    indices, values, num_unknown, num_test = label_issues.average_predictions(stats, tables)
    assert [stats.names[i] for i in indices] == ["train/3.png", "val/0.png"]
    np.testing.assert_allclose(values, [[0.4, 0.1, 0.1, 0.4], [0.7, 0.1, 0.1, 0.1]])
    assert (num_unknown, num_test) == (1, 1)


def test_predictions_of_test_are_ignored(noisy: Noisy, sweep: Path) -> None:
    stats, _ = noisy
    tables = [label_issues.read_predictions(sweep / "0" / label_issues.PREDICTIONS, CLASSES)]
    test = {f"test/{i}.png": np.eye(4)[0] for i in range(160)}
    result = label_issues.find_label_issues(stats, [*tables, test], ["a", "b"])
    assert "test" not in result.predicted
    assert all(stats.split_name(issue.index) != "test" for issue in result.ranked)
    assert result.notes == ["160 predictions of the test split are not used"]


def test_invalid_prediction_files(noisy: Noisy, tmp_path: Path) -> None:
    stats, _ = noisy
    uniform = np.full((1, 4), 0.25)
    with pytest.raises(UserError, match="has no column p_contempt"):
        label_issues.read_predictions(
            write(tmp_path / "a.csv", ["x"], uniform[:, :3], CLASSES[:3]), CLASSES
        )
    (tmp_path / "b.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="has no column path"):
        label_issues.read_predictions(tmp_path / "b.csv", CLASSES)
    for invalid in (np.nan, -0.1, np.inf, 7):
        file = write(
            tmp_path / "c.csv", ["x", "y"], np.array([[1, 0, 0, 0], [1, 0, 0, invalid]]), CLASSES
        )
        with pytest.raises(UserError, match="row 3: expected a probability"):
            label_issues.read_predictions(file, CLASSES)
    file = write(tmp_path / "e.csv", ["x", "x"], np.repeat(uniform, 2, 0), CLASSES)
    with pytest.raises(UserError, match="row 3: duplicate path 'x'"):
        label_issues.read_predictions(file, CLASSES)
    file = write(tmp_path / "d.csv", ["elsewhere/1.png"], uniform, CLASSES)
    with pytest.raises(UserError, match="predictions for 0 images of this data"):
        find_issues(stats, [file])


def test_classes_without_predictions(noisy: Noisy, tmp_path: Path) -> None:
    """Classes without predicted images have no threshold and are excluded."""
    stats, _ = noisy
    chosen = [i for i in range(800) if stats.label[i] < 2][:60]
    values = np.array([np.eye(4)[stats.label[i]] * 0.6 + 0.1 for i in chosen])
    values[:6, :2] = values[:6, 1::-1]  # six wrong labels
    file = write(tmp_path / "a.csv", [stats.names[i] for i in chosen], values, CLASSES)
    ranked = find_issues(stats, [file]).ranked
    assert len(ranked) >= 4 and {issue.index for issue in ranked} <= set(chosen[:6])
    assert all(issue.suggested == 1 - stats.label[issue.index] for issue in ranked)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint of an untrained network, classes reversed, and its data config."""
    torch.manual_seed(0)
    cfg = composed(*TINY, "augment=none")
    data = EmotionData(cfg["data"])
    net, spec = build_model(cfg["model"], 7)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    card = {**make_card(cfg, data, spec, data.fingerprints()), "epoch": 0}
    card["classes"] = card["classes"][::-1]
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt"
    ckpt.write(path, {"state_dict": state, ckpt.CARD: card})
    return path, cfg["data"]


def test_checkpoint_predicts_its_val_split(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cfg = checkpoint
    source = image_stats.open_all_splits(cfg)
    stats = image_stats.scan_images(source, cfg)
    arguments = (str(path), cfg, stats.classes, tmp_path / "val")
    table, notes = label_issues.predict_val(*arguments, source.notes)
    assert notes == []
    # The audit has printed the notes on the data.
    assert source.notes and source.notes[0] not in capsys.readouterr().out
    assert list(table) == [n for n in stats.names if n.startswith("synthetic:val:")]
    saved = label_issues.read_predictions(
        tmp_path / "val" / label_issues.PREDICTIONS, stats.classes
    )
    for name, values in table.items():
        np.testing.assert_allclose(values, saved[name], atol=1e-6)
    assert len({int(values.argmax()) for values in table.values()}) > 1
    result = label_issues.find_label_issues(stats, [table], [str(path)])
    assert result.predicted == {"val": 8}
    assert not list(tmp_path.glob("**/*ledger*"))


def test_checkpoint_of_other_data(checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, cfg = checkpoint
    for other, classes in (({**cfg, "name": "fer2013"}, list(EMOTIONS)), (cfg, CLASSES)):
        with pytest.raises(UserError, match="was trained on data=synthetic with the classes"):
            label_issues.predict_val(str(path), other, classes, tmp_path)


def test_images_that_the_checkpoint_learnt_from_have_no_prediction(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, cfg = checkpoint
    content, classes = ckpt.read(path), list(EMOTIONS)
    val = EmotionData(cfg, ("val",)).split("val")
    seen = contamination.of_split(val.subset(np.arange(3)))
    content[ckpt.CARD]["trained_on"] = seen.entry()
    ckpt.write(tmp_path / "leak.ckpt", content)
    arguments = (str(tmp_path / "leak.ckpt"), cfg, classes, tmp_path / "val")
    table, (note,) = label_issues.predict_val(*arguments)
    assert list(table) == list(val.names[3:])
    assert note.startswith("3 val images that ")
    content[ckpt.CARD]["trained_on"] = contamination.of_split(val).entry()
    ckpt.write(tmp_path / "leak.ckpt", content)
    with pytest.raises(UserError, match="learnt from all 8 val images"):
        label_issues.predict_val(*arguments)
