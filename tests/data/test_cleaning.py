"""Cleaning lists: train is cleaned, val only for rows of val, test never."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from tests.conftest import composed, error_message
from tests.data.helpers import write_fer2013, write_images

ALL = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder with train, val and test: three classes with six images each."""
    root = tmp_path_factory.mktemp("faces")
    return write_images(root, ALL, ("happy", "sad", "contempt"), 6, 12)


def config(folder: Path, **keys: Any) -> dict[str, Any]:
    values = {key: str(value) if isinstance(value, Path) else value for key, value in keys.items()}
    return {**composed("data=image_folder")["data"], "path": str(folder), **values}


def load(folder: Path, splits: tuple[str, ...] = ALL, **keys: Any) -> Any:
    return load_data(config(folder, **keys), splits)


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def names(source: Any, split: str) -> set[str]:
    return set(source.splits[split].names)


def labels(source: Any, split: str) -> dict[str, str]:
    part = source.splits[split]
    return {n: source.classes[i] for n, i in zip(part.names, part.labels, strict=True)}


def note(source: Any, key: str) -> str:
    (line,) = [text for text in source.notes if text.startswith(key)]
    return line


def refused(folder: Path, **keys: Any) -> str:
    return error_message(load, folder, **keys)


def test_drop(folder: Path, tmp_path: Path) -> None:
    drop = write_lines(
        tmp_path / "drop.csv",
        "path,split,label_now,reason",
        "train/happy/0.png,train,happy,blank",
        "train/sad/3.png,,,",
        "val/sad/1.png,val,sad,mine",
        "val/sad/2.png,train,sad,not asked for val",
        "val/happy/2.png,,,",
        "test/sad/1.png,test,sad,never",
        "test/sad/2.png,train,sad,never either",
        "train/sad/4.png,train,happy,another label",
        "train/sad/nothere.png,train,sad,gone",
    )
    complete, clean = load(folder), load(folder, drop_csv=drop)
    dropped = names(complete, "train") - names(clean, "train")
    assert dropped == {"train/happy/0.png", "train/sad/3.png"}
    assert names(complete, "val") - names(clean, "val") == {"val/sad/1.png"}
    assert names(clean, "test") == names(complete, "test")
    assert labels(clean, "train").items() <= labels(complete, "train").items()
    assert note(clean, "data.drop_csv") == (
        "data.drop_csv: 2 of train and 1 of val left out; "
        "2 rows name images of val, which is not changed; "
        "1 rows with a label_now that differs from the data are skipped; "
        "2 rows of the test split are skipped: test is never cleaned; "
        "1 rows match no image here"
    )


def test_relabel(folder: Path, tmp_path: Path) -> None:
    relabel = write_lines(
        tmp_path / "relabel.csv",
        "path,split,label_now,label_suggested,quality",
        "train/happy/0.png,train,happy,Sadness,0.01",
        "train/happy/1.png,train,happy,contempt,0.01",
        "train/happy/2.png,train,happy,happy,0.9",
        "train/happy/3.png,train,happy,,0.9",
        "val/happy/0.png,val,happy,sad,0.1",
        "val/happy/1.png,train,happy,sad,0.1",
        "test/happy/0.png,test,happy,sad,0.1",
    )
    complete, clean = load(folder), load(folder, relabel_csv=relabel)
    original, cleaned = labels(complete, "train"), labels(clean, "train")
    assert {n: cleaned[n] for n in original if original[n] != cleaned[n]} == {
        "train/happy/0.png": "sad",
        "train/happy/1.png": "contempt",
    }
    assert labels(clean, "val") == labels(complete, "val") | {"val/happy/0.png": "sad"}
    assert labels(clean, "test") == labels(complete, "test")
    line = note(clean, "data.relabel_csv")
    assert line.startswith("data.relabel_csv: 2 of train and 1 of val given another label; ")
    assert "1 have that label already; 1 rows without a new label" in line
    assert "1 rows of the test split are skipped" in line


def test_drop_and_relabel_keep_the_order(folder: Path, tmp_path: Path) -> None:
    drop = write_lines(tmp_path / "d.csv", "path", "train/happy/0.png")
    relabel = write_lines(
        tmp_path / "r.csv", "path,label", "train/happy/0.png,sad", "train/happy/1.png,sad"
    )
    complete, clean = load(folder), load(folder, drop_csv=drop, relabel_csv=relabel)
    kept = [n for n in complete.splits["train"].names if n != "train/happy/0.png"]
    assert list(clean.splits["train"].names) == kept
    assert labels(clean, "train")["train/happy/1.png"] == "sad"
    image = clean.splits["train"].image(kept.index("train/happy/1.png"))
    position = list(complete.splits["train"].names).index("train/happy/1.png")
    assert np.array_equal(image, complete.splits["train"].image(position))


def test_fingerprints_change_with_cleaning(folder: Path, tmp_path: Path) -> None:
    drop = write_lines(tmp_path / "d.csv", "path", "train/happy/0.png")
    relabel = write_lines(tmp_path / "r.csv", "path,label", "train/happy/1.png,sad")
    fingerprints = [
        EmotionData(config(folder, **more), ALL).fingerprints()
        for more in ({}, {"drop_csv": drop}, {"relabel_csv": relabel})
    ]
    assert len({p["train"]["hash"] for p in fingerprints}) == 3
    assert [p["train"]["n"] for p in fingerprints] == [18, 17, 18]
    for split in ("val", "test"):
        assert fingerprints[0][split] == fingerprints[1][split] == fingerprints[2][split]


@pytest.mark.parametrize(
    "form", ["./{}", "{root}/{}", "C:\\somewhere\\{win}", "elsewhere/faces/{}"]
)
def test_paths_of_moved_data(folder: Path, tmp_path: Path, form: str) -> None:
    name = "train/happy/0.png"
    path = form.format(name, root=folder, win=name.replace("/", "\\"))
    drop = write_lines(tmp_path / "d.csv", "path", f'"{path}"')
    assert names(load(folder), "train") - names(load(folder, drop_csv=drop), "train") == {name}


def test_fer2013_rows_are_matched_by_number(tmp_path: Path) -> None:
    file = write_fer2013(tmp_path / "fer2013.csv")
    drop = write_lines(tmp_path / "d.csv", "path,split", "fer2013:3,train", "fer2013:25,test")
    source = load(file, name="fer2013", drop_csv=drop)
    assert "fer2013:3" not in names(source, "train") and len(source.splits["train"]) == 13
    assert [len(source.splits[n]) for n in ("val", "test")] == [7, 7]


def test_val_contains_the_same_images_with_cleaning(folder: Path, tmp_path: Path) -> None:
    """Folds and carving val come first; rows of train do not clean the val split of a fold."""
    drop = write_lines(tmp_path / "d.csv", "path", *(f"train/{c}/0.png" for c in ("happy", "sad")))
    for fold in range(3):
        complete = load(folder, folds=3, fold=fold)
        clean = load(folder, folds=3, fold=fold, drop_csv=drop)
        assert names(complete, "val") == names(clean, "val")
        dropped = names(complete, "train") - names(clean, "train")
        assert dropped == {"train/happy/0.png", "train/sad/0.png"} & names(complete, "train")
    only = tmp_path / "only"
    only.mkdir()
    (only / "train").symlink_to(folder / "train")
    splits = ("train", "val")
    complete, clean = load(only, splits=splits), load(only, splits=splits, drop_csv=drop)
    assert names(complete, "val") == names(clean, "val")


def test_cleaning_does_not_depend_on_requested_splits(folder: Path, tmp_path: Path) -> None:
    """The result does not depend on the opened splits, and test needs no list."""
    drop = write_lines(
        tmp_path / "d.csv", "path,split", "train/happy/0.png,train", "val/happy/0.png,val"
    )
    complete = load(folder, drop_csv=drop)
    for split in ALL:
        assert names(load(folder, splits=(split,), drop_csv=drop), split) == names(complete, split)
    assert note(load(folder, splits=("val",), drop_csv=drop), "data.drop_csv") == (
        "data.drop_csv: 1 of val left out"
    )
    (tmp_path / "d.csv").write_text("path\ntrain/happy/0.png\n")
    assert load(folder, splits=("val",), drop_csv=drop).notes == load(folder, splits=("val",)).notes
    (tmp_path / "d.csv").unlink()
    assert len(load(folder, splits=("test",), drop_csv=drop).splits["test"]) == 18


def test_rows_of_unreadable_files(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "faces"))
    (broken / "train" / "sad" / "0.png").write_bytes(b"no image")
    drop = write_lines(tmp_path / "d.csv", "path", "train/sad/0.png")
    clean = load(broken, on_decode_error="skip", drop_csv=drop)
    assert "1 rows name files that are unreadable" in note(clean, "data.drop_csv")


def test_empty_list(folder: Path, tmp_path: Path) -> None:
    drop = write_lines(tmp_path / "d.csv", "path,split,reason")
    clean = load(folder, drop_csv=drop)
    assert names(clean, "train") == names(load(folder), "train")
    assert note(clean, "data.drop_csv") == "data.drop_csv: no images left out"


def test_relabel_to_excluded_class(folder: Path, tmp_path: Path) -> None:
    relabel = write_lines(tmp_path / "r.csv", "path,label", "train/sad/0.png,contempt")
    clean = load(folder, exclude=["contempt"], relabel_csv=relabel)
    assert labels(clean, "train")["train/sad/0.png"] == "sad"
    assert "1 rows with a label that data.exclude leaves out" in note(clean, "data.relabel_csv")


OTHER_DATA = (
    "none of its rows names an image of this data; it was made for other data (row 2 is "
    "'fer2013:1', here images are called 'train/happy/0.png')"
)
CONFLICT = "rows 2 and 3 give train/sad/0.png the labels 'sad' and 'happy'"


@pytest.mark.parametrize(
    ("key", "lines", "message"),
    [
        ("drop_csv", "file,reason", "expected path in row 1"),
        ("drop_csv", "", "expected path in row 1"),
        ("drop_csv", "path|split", "expected path in row 1"),
        ("drop_csv", "path,split train/sad/0.png,trian", "Unknown split 'trian'. Did you mean 't"),
        ("drop_csv", "path,split ,train", "row 2: the path is missing"),
        ("drop_csv", "path,split fer2013:1,train fer2013:2,test", OTHER_DATA),
        ("drop_csv", "path,label_now train/sad/0.png,happy", "another label_now"),
        ("drop_csv", "path " + " ".join(f"train/sad/{i}.png" for i in range(6)), "image of sad"),
        ("relabel_csv", "path,split a,train", "expected path and label or label_suggested"),
        ("relabel_csv", "path,label train/sad/0.png,sad train/sad/0.png,happy", CONFLICT),
    ],
)
def test_invalid_lists(folder: Path, tmp_path: Path, key: str, lines: str, message: str) -> None:
    file = write_lines(tmp_path / "list.csv", *lines.split(" "))
    assert message in refused(folder, **{key: file})


def test_missing_list_and_unknown_label(folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.csv"
    assert refused(folder, drop_csv=missing).startswith(f"data.drop_csv={missing}: no such file.")
    assert "no such file" in refused(folder, relabel_csv=tmp_path)
    lines = ("path,label", "train/sad/0.png,sad", "train/sad/1.png,hapy")
    message = refused(folder, relabel_csv=write_lines(tmp_path / "r.csv", *lines))
    assert message.startswith("Unknown label 'hapy'. Did you mean 'happy'?")
    assert "row 3 of data.relabel_csv=" in message


def test_relabel_conflicts_with_label_source(folder: Path, tmp_path: Path) -> None:
    relabel = write_lines(tmp_path / "r.csv", "path,label", "train/sad/0.png,happy")
    with pytest.raises(UserError, match=r"data.relabel_csv and data.label_source=majority both"):
        load(folder, label_source="majority", ferplus_csv="x.csv", relabel_csv=relabel)
