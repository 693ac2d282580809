"""Images listed in a CSV file: splits, quantities, groups, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datasets.csv import load
from emotion_lab.data.splits import concat_splits
from emotion_lab.data.types import LoadedDataset
from tests.conftest import error_message

ROWS = """path,label,split,valence,intensity,person
a.png,happy,train,0.8,0.9,p1
b.png,Sadness,train,-0.6,,p2
c.png,happy,val,1,1,p3
d.png,sad,val,-1,0.5,p3
"""


def write(folder: Path, text: str) -> Path:
    """Write the CSV file and four pictures."""
    for seed, name in enumerate("abcd"):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    path = folder / "faces.csv"
    path.write_text(text)
    return path


def loaded(path: Path, *splits: str, **cfg: object) -> LoadedDataset:
    settings = {"path": str(path), "strict_labels": True, **cfg}
    return load(settings, splits or ("train", "val", "test"))


def test_splits_labels_and_quantities(tmp_path: Path) -> None:
    data = loaded(write(tmp_path, ROWS))
    assert data.classes == ["happy", "sad"] and list(data.splits) == ["train", "val"]
    assert data.available_splits == ["train", "val"]
    train, val = data.splits["train"], data.splits["val"]
    assert list(train.names) == ["a.png", "b.png"] and train.labels.tolist() == [0, 1]
    np.testing.assert_allclose(train.quantities["valence"], [0.8, -0.6], rtol=1e-6)
    assert np.isnan(train.quantities["intensity"][1]) and "arousal" not in train.quantities
    assert val.image(0).shape == (12, 12, 1)
    assert val.subset(np.array([1])).quantities["valence"].tolist() == [-1]
    assert concat_splits(train, val).quantities["valence"].shape == (4,)
    assert data.notes == ["columns that are not read: person"]


def test_only_requested_splits_are_opened(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    (tmp_path / "c.png").write_bytes(b"damaged")
    assert list(loaded(path, "train").splits) == ["train"]
    with pytest.raises(UserError, match=r"Bad image .*c\.png"):
        loaded(path, "val")


def test_without_a_column_split_all_images_are_train(tmp_path: Path) -> None:
    path = write(tmp_path, "label;path\nhappy;a.png\n\nsad;b.png\n")
    assert list(loaded(path).splits) == ["train"] and len(loaded(path).splits["train"]) == 2


def test_a_column_may_name_the_person(tmp_path: Path) -> None:
    for name in ("person", "Person"):
        data = loaded(write(tmp_path, ROWS), group=name)
        assert data.splits["train"].groups == ["p1", "p2"] and data.notes == []
    with pytest.raises(UserError, match=r"row 3: the column person \(data.group\) is empty"):
        loaded(write(tmp_path, ROWS.replace(",p2", ",")), group="person")


def test_the_data_group_loads_it(tmp_path: Path) -> None:
    cfg = {"name": "csv", "path": str(write(tmp_path, ROWS)), "strict_labels": True}
    assert load_data(cfg, ("val",)).splits["val"].quantities["valence"].tolist() == [1, -1]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("a.png,happy,train,0.8", "a.png,happy,train,7", "row 2: valence=7 is not a number"),
        ("a.png,happy,train,0.8", "a.png,happy,train,x", "row 2: valence=x is not a number"),
        ("a.png,happy,train,0.8", "a.png,happy,train,nan", "row 2: valence=nan is not a number"),
        ("0.9,p1", "1.5,p1", "row 2: intensity=1.5 is not a number from 0 to 1"),
        ("path,label", "path,emotion", "row 1: no column label. Expected path,label and any of"),
        ("Sadness", "hapy", "row 3: the label 'hapy' is unknown. Expected one of angry"),
        ("Sadness", "", "row 3: the label is empty"),
        ("c.png,happy,val", "c.png,happy,dev", "row 4: split=dev is not one of train, val, test"),
        ("b.png", "a.png", "row 3: a.png is already in row 2"),
        ("-0.6,,p2", "-0.6,p2", "row 3: 5 cells, expected 6"),
        ("intensity", "valence", "row 1: a column occurs twice"),
        ("b.png", "e.png", "Bad image"),
        (ROWS, "", "row 1: no column path and label"),
        (ROWS, "path,label\n", "lists no image"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, ROWS.replace(old, new))
    assert message in error_message(loaded, path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is missing\. Set data\.path=<file\.csv>"):
        loaded(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder"):
        loaded(tmp_path)


def test_other_labels_need_strict_labels_off(tmp_path: Path) -> None:
    data = loaded(write(tmp_path, ROWS.replace("Sadness", "bored")), strict_labels=False)
    assert data.classes == ["happy", "sad", "bored"]
