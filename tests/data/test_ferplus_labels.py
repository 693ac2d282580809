"""``data.labels=ferplus``: eight classes by the published rule, and the ways to learn the votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS, LABEL_SCHEMES
from emotion_lab.data import checkpoint_data
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.ferplus import draw_labels, published_majority
from tests.conftest import TINY, command, composed, error_message
from tests.data.helpers import USAGES, write_fer2013

#: Columns of the votes file: the classes of FER+ in their order, then the two that are no emotion.
COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
CLASSES = ["neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"]


def votes(**counts: int) -> list[int]:
    """Return the votes of an image in the order of :data:`COLUMNS`."""
    return [counts.get(name, 0) for name in COLUMNS]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return a FER2013 file of 28 rows (14 train, 7 val, 7 test) and its votes.

    Every class of FER2013 is in every split, with the same FER+ label unless set otherwise here.
    """
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    rows = []
    for row in range(len(USAGES)):
        other = "fear" if row % 7 == 0 else "anger"
        rows.append(votes(**{names[row % 7]: 6, "contempt": 3, other: 1}))
    rows[0] = votes(sadness=6, anger=4)  # angry in FER2013
    rows[1] = votes(NF=9, disgust=1)
    rows[2] = votes(fear=5, sadness=5)  # no majority
    rows[5] = rows[19] = rows[26] = votes(contempt=7, surprise=3)
    rows[15] = votes(unknown=6, disgust=4)
    csv, new = write_fer2013(tmp_path / "fer2013.csv"), tmp_path / "fer2013new.csv"
    lines = [",".join(["Usage", "Image name", *COLUMNS])]
    lines += [f"{u},,{','.join(map(str, row))}" for u, row in zip(USAGES, rows, strict=True)]
    new.write_text("\n".join(lines) + "\n")
    return csv, new


def overrides_of(files: tuple[Path, Path]) -> list[str]:
    return [f"data.path={files[0]}", f"data.ferplus_csv={files[1]}", "data.labels=ferplus"]


def load(files: tuple[Path, Path], *overrides: str) -> Any:
    cfg = composed(*overrides_of(files), *overrides)["data"]
    return load_data(cfg, ("train", "val", "test"))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"neutral": 6, "happiness": 4}, 0),
        ({"neutral": 5, "happiness": 5}, -1),
        # 5 of 10 is not more than half, but the two votes given once are dropped: 5 of 8.
        ({"fear": 5, "sadness": 3, "anger": 1, "unknown": 1}, 6),
        ({"contempt": 4, "sadness": 2, "anger": 2, "fear": 2}, -1),
        ({"contempt": 4, "sadness": 2, "anger": 1, "fear": 1, "unknown": 1, "NF": 1}, 7),
        ({"unknown": 6, "happiness": 4}, 8),
        ({"NF": 10}, 9),
        (dict.fromkeys(COLUMNS, 1), -1),
        ({}, -1),
    ],
)
def test_published_majority(counts: dict[str, int], expected: int) -> None:
    assert published_majority(np.array([votes(**counts)])).tolist() == [expected]


def test_images_classes_and_labels(files: tuple[Path, Path]) -> None:
    source = load(files)
    assert source.classes == CLASSES == list(LABEL_SCHEMES["ferplus"].values())
    train, val, test = (source.splits[name] for name in ("train", "val", "test"))
    assert list(train.names)[:4] == ["fer2013:0", "fer2013:3", "fer2013:4", "fer2013:5"]
    assert (len(train), len(val), len(test)) == (12, 6, 7)
    assert [CLASSES[label] for label in train.labels[:4]] == ["sad", "happy", "sad", "contempt"]
    assert train.label_sets["original"][:2].tolist() == [CLASSES.index("angry"), 1]
    assert train.soft is None and train.votes[0].tolist() == [0, 0, 0, 6, 4, 0, 0, 0]
    counts = "12 of 14 train images, 6 of 7 val images, 7 of 7 test images"
    assert any(counts in note for note in source.notes)
    # Row 0: sad for angry; row 5: contempt for surprise.
    assert "train: 2 FER+ labels differ from those of FER2013" in source.notes


@pytest.mark.parametrize("label_source", ["original", "majority", "soft", "sampled"])
def test_every_way_to_learn_has_the_same_labels(
    files: tuple[Path, Path], label_source: str
) -> None:
    plain, source = load(files), load(files, f"data.label_source={label_source}")
    for name, split in source.splits.items():
        assert list(split.names) == list(plain.splits[name].names)
        assert split.labels.tolist() == plain.splits[name].labels.tolist()
    soft = source.splits["train"].soft
    assert (soft is None) == (label_source in ("original", "majority"))
    if soft is not None:
        np.testing.assert_allclose(soft[0], [0, 0, 0, 0.6, 0.4, 0, 0, 0], rtol=1e-6)
        # Row 3: 6 happiness, 3 contempt, 1 anger, which is dropped.
        np.testing.assert_allclose(soft[1], [0, 2 / 3, 0, 0, 0, 0, 0, 1 / 3], rtol=1e-6)


def test_excluded_classes_folds_and_limit(files: tuple[Path, Path]) -> None:
    without = load(files, "data.exclude=[contempt]", "data.label_source=soft")
    assert without.classes == CLASSES[:7]
    train = without.splits["train"]
    assert "fer2013:5" not in list(train.names) and train.soft.shape == (11, 7)
    np.testing.assert_allclose(train.soft[1], np.eye(7)[1])  # the votes for contempt do not count
    original = load(files, "data.exclude=[angry]").splits["train"].label_sets["original"]
    assert original[0] == -1 and original[1] == 1
    folds = load(files, "data.folds=2", "data.exclude=[disgust,surprise]")
    names = [name for part in ("train", "val") for name in folds.splits[part].names]
    assert len(names) == len(set(names)) == 16
    val = folds.splits["val"]
    emotions = [EMOTIONS[int(name.split(":")[1]) % 7] for name in val.names]
    expected = [folds.classes.index(e) if e in folds.classes else -1 for e in emotions]
    assert val.label_sets["original"].tolist() == expected
    assert len(load(files, "data.limit=8").splits["train"]) == 8


def test_draw_labels() -> None:
    shares = np.array([[0.25, 0.0, 0.75]] * 3 + [[0.0, 1.0, 0.0]], np.float32)
    drawn = draw_labels(shares, np.array([0.24, 0.26, 1 - 1e-12, 0.0]))
    assert drawn.tolist() == [0, 2, 2, 1]


def test_drawn_labels_depend_on_seed_epoch_and_position(files: tuple[Path, Path]) -> None:
    cfg = composed(*overrides_of(files), "data.label_source=sampled")["data"]

    def labels(keys: list[tuple[int, int]], seed: int = 3, name: str = "train") -> list[int]:
        data = EmotionData(cfg, seed=seed)
        data.prepare_for(48, 1)
        batch = data.dataset(name).__getitems__(keys)
        assert batch.soft is None or name == "val"
        return batch.labels.tolist()

    together = [labels([(epoch, p) for p in range(12)]) for epoch in range(40)]
    assert labels([(7, 4), (7, 0)]) == [together[7][4], together[7][0]]  # as after a resume
    assert together != [labels([(epoch, p) for p in range(12)], 4) for epoch in range(40)]
    first = np.array(together)[:, 0]  # 6 votes for sad, 4 for angry
    assert set(first) == {3, 4} and 12 < (first == 3).sum() < 36
    val = load(files).splits["val"].labels
    assert labels([(7, p) for p in range(6)], name="val") == val.tolist()
    data = EmotionData(cfg)
    data.prepare_for(48, 1)
    scored = torch.cat([batch.labels for batch in data.eval_dataloader("train")])
    assert scored.tolist() == load(files).splits["train"].labels.tolist()


def test_other_data_and_missing_votes_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    csv, new = files
    cases = {
        "data.labels=ferplus needs the FER+ votes: set data.ferplus_csv": (f"data.path={csv}",),
        "data.labels=ferplus belongs to data=fer2013, not to data=image_folder": (
            *("data=image_folder", f"data.path={tmp_path}", f"data.ferplus_csv={new}"),
        ),
        "data.labels=ferplus belongs to data=fer2013, not to data=synthetic": ("data=synthetic",),
    }
    for message, overrides in cases.items():
        data_cfg = composed("data.labels=ferplus", *overrides)["data"]
        assert error_message(load_data, data_cfg, ("train",)).startswith(message)
    new.write_text("\n".join(new.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match="has 27 rows, the data has 28"):
        load(files)


def test_folds_of_other_labels_are_refused(files: tuple[Path, Path]) -> None:
    card = {"config": {"data": composed(*overrides_of(files), "data.folds=2")["data"]}}
    other = composed(f"data.path={files[0]}")["data"]
    with pytest.raises(UserError, match="trained on folds of data"):
        checkpoint_data.data_config(other, card)
    card["config"]["data"]["folds"] = None
    assert checkpoint_data.data_config(other, card)["labels"] == "fer2013"


def test_train_and_evaluate(files: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = command(
        *overrides_of(files),
        *(text for text in TINY if not text.startswith("data")),
        *("data.label_source=soft", "loss=multi_target", "data.batch_size=4"),
        *("trainer.max_epochs=1", f"hydra.run.dir={run}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    card = ckpt.read(run / "checkpoints" / "best.ckpt")[ckpt.CARD]
    assert card["classes"] == CLASSES
    assert {name: card["fingerprints"][name]["n"] for name in ("train", "val")} == {
        "train": 12,
        "val": 6,
    }
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["fingerprints"]["train"]["n"] == 12 and metrics["val"]["n"] == 6
    assert list(metrics["val"]["by_labels"]) == ["original"]
    assert "12 of 14 train images, 6 of 7 val images, 7 of 7 test images" in done.stdout
    # The same network on FER2013's labels: all images of val, seven of its eight classes.
    for labels, n in (("ferplus", 6), ("fer2013", 7)):
        out = tmp_path / labels
        scored = command(
            *(f"ckpt={run}", "split=val", f"data.labels={labels}", f"hydra.run.dir={out}"),
            module="emotion_lab.evaluate",
            cwd=tmp_path,
        )
        assert scored.returncode == 0, scored.stderr
        assert json.loads((out / "metrics.json").read_text())["val"]["n"] == n


@pytest.mark.fer2013
@pytest.mark.shared
def test_real_votes_keep_the_published_images(fer2013_csv: Path, ferplus_csv: Path) -> None:
    source = load((fer2013_csv, ferplus_csv))
    assert [len(split) for split in source.splits.values()] == [25_060, 3_199, 3_153]
