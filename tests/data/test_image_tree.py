"""Folders as people have them: names of splits and classes, numbering, wrappers, links."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from emotion_lab.config.compose import precheck
from emotion_lab.config.overrides import quote_texts
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS, LABEL_SCHEMES
from emotion_lab.data.build import load_data
from emotion_lab.data.datasets import fer2013, image_folder
from emotion_lab.data.types import LoadedDataset
from tests.conftest import error_message
from tests.data.helpers import make_data, write_images

CLASSES = ("angry", "happy", "sad")
NFC = "dégoût"
NFD = unicodedata.normalize("NFD", NFC)
LATIN_1 = os.fsdecode(NFC.encode("latin-1"))


def load(path: Path, **cfg: object) -> LoadedDataset:
    return image_folder.load({"path": str(path), **cfg}, ("train", "val", "test"))


def make(root: Path, splits: list[str], classes: tuple[str, ...] = CLASSES) -> Path:
    return write_images(root, splits, classes, n=2, size=8)


def sizes(source: LoadedDataset) -> dict[str, int]:
    return {name: len(split) for name, split in source.splits.items()}


@pytest.mark.parametrize(
    "train, val, test",
    [
        ("train_set", "val_set", "test_set"),
        ("Training", "Validation", "testing"),
        ("train-images", "valid data", "Test Images"),
        ("train", "dev", "eval"),
        ("training", "evaluation", "test"),
        ("FER2013Train", "FER2013Valid", "FER2013Test"),
        ("Training", "PublicTest", "PrivateTest"),
        ("rafdb_train", "rafdb_val", "rafdb_test"),
        ("train/train", "val/images", "test/test"),
    ],
)
def test_usual_names_of_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    source = load(make(tmp_path, [train, val, test]))
    assert source.classes == list(CLASSES)
    assert sizes(source) == {"train": 6, "val": 6, "test": 6}
    for split, folder in (("train", train), ("val", val), ("test", test)):
        assert all(name.startswith(f"{folder}/") for name in source.splits[split].names)
        exact = folder.lower() == split
        assert exact or any(f"{split} is read from {folder}" in note for note in source.notes)


def test_classes_with_words_of_splits_stay_classes(tmp_path: Path) -> None:
    classes = ("test anxiety", "dev team", "happy")
    source = load(make(tmp_path, ["."], classes))
    assert source.classes == ["happy", "dev team", "test anxiety"]


@pytest.mark.parametrize("splits", [["S001", "S002"], ["train/S001", "train/S002"], ["fold1"]])
def test_a_folder_of_class_folders_is_no_class(tmp_path: Path, splits: list[str]) -> None:
    make(tmp_path, splits)
    if splits == ["fold1"]:
        make(tmp_path, ["."], ("happy", "sad"))
    text = error_message(load, tmp_path)
    assert f"{tmp_path / splits[0]}" in text and "holds class folders itself" in text
    assert ("(and 1 more)" in text) == (len(splits) > 1)


def test_folders_inside_of_a_class_may_have_names_of_it_or_of_persons(tmp_path: Path) -> None:
    for folder in ("happy/joy", "happy/smile", "sad/AN", "sad/SU", "sad/1", "sad/2"):
        make(tmp_path, [folder], (".",))
    source = load(tmp_path)
    assert source.classes == ["happy", "sad"] and sizes(source) == {"train": 12}


def test_classes_next_to_a_test_split_are_not_forgotten(tmp_path: Path) -> None:
    make(tmp_path, [".", "test"])
    text = error_message(load, tmp_path)
    assert "(angry, happy, sad) next to the split test" in text
    assert f"move them into {tmp_path / 'train'}" in text


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    text = error_message(load, make(tmp_path, ["happy", "sad"], ("train", "test")))
    assert f"as in {tmp_path / 'test' / 'happy'}" in text


def test_unknown_folders_next_to_the_splits_are_named(tmp_path: Path) -> None:
    notes = load(make(tmp_path, ["train", "test", "sample"])).notes
    assert "ignored folders next to the splits: sample (their class folders are not used)" in notes


@pytest.mark.parametrize("scheme, first", [("rafdb", 1), ("affectnet", 0), ("ferplus", 0)])
def test_numbers_of_other_datasets_need_their_scheme(
    tmp_path: Path, scheme: str, first: int
) -> None:
    numbers = tuple(str(n) for n in range(first, 8))
    make(tmp_path, ["train", "test"], numbers)
    text = error_message(load, tmp_path)
    assert f"{scheme} ({first} = {LABEL_SCHEMES[scheme][first]}" in text
    assert "data.label_scheme=" in text and "not numbered 0 to 6" in text
    source = load(tmp_path, label_scheme=scheme)
    assert source.classes == [*EMOTIONS, *(["contempt"] if first == 0 else [])]
    train = source.splits["train"]
    for name, label in zip(train.names, train.labels, strict=True):
        assert source.classes[label] == LABEL_SCHEMES[scheme][int(name.split("/")[1])]


def test_numbers_in_a_relabel_list_have_the_scheme_of_the_folders(tmp_path: Path) -> None:
    make(tmp_path, ["train", "val"], tuple(map(str, range(1, 8))))
    relabel = tmp_path / "relabel.csv"
    relabel.write_text("path;label_now;label\ntrain/4/0.png;4;1\n")  # happy becomes surprise
    cfg = {"name": "image_folder", "path": str(tmp_path), "label_scheme": "rafdb"}
    train = load_data({**cfg, "relabel_csv": str(relabel)}, ("train",)).splits["train"]
    labels = dict(zip(train.names, train.labels.tolist(), strict=True))
    assert EMOTIONS[labels["train/4/0.png"]] == "surprise"
    assert EMOTIONS[labels["train/4/1.png"]] == "happy"


def test_published_numberings() -> None:
    """RAF-DB's and AffectNet's readme, and the columns of fer2013new.csv."""
    assert list(LABEL_SCHEMES["rafdb"].items())[:3] == [
        (1, "surprise"),
        (2, "fear"),
        (3, "disgust"),
    ]
    assert [LABEL_SCHEMES["affectnet"][i] for i in (0, 3, 6, 7)] == [
        *("neutral", "surprise", "angry", "contempt")
    ]
    assert [LABEL_SCHEMES["ferplus"][i] for i in (0, 2, 4, 7)] == [
        *("neutral", "surprise", "angry", "contempt")
    ]


def test_fer2013_numbers_are_noted(tmp_path: Path) -> None:
    source = load(make(tmp_path, ["."], ("0", "3", "06")))
    assert source.classes == ["angry", "happy", "neutral"]
    assert any("0 = angry" in n and "data.label_scheme=affectnet" in n for n in source.notes)


def test_numbers_without_any_scheme(tmp_path: Path) -> None:
    make(tmp_path, ["."], tuple(map(str, range(10))))
    text = error_message(load, tmp_path)
    assert "Rename the folders" in text and "label_scheme" not in text
    text = error_message(load, tmp_path, label_scheme="affectnet")
    assert "class folders 8,9" in text and "data.exclude=[8,9]" in text
    cfg = {"name": "image_folder", "path": str(tmp_path), "label_scheme": "affectnet"}
    source = load_data({**cfg, "exclude": ["8", "9", "6"], "val_fraction": 0.5}, ("train", "val"))
    assert source.classes == [*EMOTIONS[1:], "contempt"]  # 6 is angry in AffectNet


@pytest.mark.parametrize("other", [NFD, LATIN_1, " DÉGOÛT"])
def test_one_class_in_two_encodings(tmp_path: Path, other: str) -> None:
    make(tmp_path, ["train"], ("happy", NFC))
    make(tmp_path, ["test"], ("happy", other))
    source = load(tmp_path)
    assert source.classes == ["happy", NFC]
    assert source.splits["test"].names[2:] == [f"test/{other}/0.png", f"test/{other}/1.png"]
    cfg = {"name": "image_folder", "path": str(tmp_path), "exclude": [NFD]}
    assert "at least 2 are needed" in error_message(load_data, cfg, ("train",))


def test_names_that_are_not_utf8_have_a_fingerprint_and_keep_their_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for split in ("train", "val"):
        make(tmp_path, [split], ("happy", LATIN_1))
        (tmp_path / split / "happy" / "0.png").rename(tmp_path / split / "happy" / name)
    cfg = {"name": "image_folder", "path": str(tmp_path)}
    data = make_data(**cfg, drop_csv=None)
    assert data.fingerprints()["val"]["counts"] == {"happy": 2, NFC: 2}
    assert f"val/happy/{name}" in data.split("val").names
    drop = tmp_path / "drop.csv"
    drop.write_bytes(b"path\ntrain/happy/caf\xe9.png\n")
    assert make_data(**cfg, drop_csv=str(drop)).class_counts().tolist() == [1, 2]


def test_names_in_any_script_need_no_quotes() -> None:
    for value, names in {
        f"[{NFC}]": [NFC],
        f"[{NFD},happy]": [NFD, "happy"],
        "[幸福, 悲]": ["幸福", "悲"],
        "[8,9]": ["8", "9"],
        "[]": [],
    }.items():
        overrides = quote_texts(["data=image_folder", f"data.exclude={value}"])
        assert precheck("train", overrides).data.exclude == names
    swept = ["-m", "data.exclude=[happy],[sad]"]
    assert quote_texts(swept) == swept


def test_files_and_folders_of_the_system_are_ignored_and_counted(tmp_path: Path) -> None:
    make(tmp_path, ["train", "test"])
    for folder in ("__MACOSX", "train/@eaDir", "train/.ipynb_checkpoints", "test/happy/@eaDir"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thumb.png").write_bytes(b"no image")
    for file in (".DS_Store", "train/Thumbs.db", "test/sad/._0.png", "test/sad/desktop.ini"):
        (tmp_path / file).write_bytes(b"no image")
    source = load(tmp_path)
    assert source.classes == list(CLASSES) and sizes(source) == {"train": 6, "test": 6}
    (note,) = [note for note in source.notes if "system" in note]
    assert note.startswith("ignored 8 hidden or system files and folders: ")


@pytest.mark.parametrize("inside", [["images/images/train", "images/images/test"], ["a/b"]])
def test_archive_with_folders_around_it(tmp_path: Path, inside: list[str]) -> None:
    make(tmp_path, inside)
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    source = load(tmp_path)
    root = tmp_path / ("images/images" if len(inside) > 1 else "a/b")
    assert source.classes == list(CLASSES) and source.location == str(root)
    assert f"read from {root}: {tmp_path} holds no other folder" in source.notes
    text = error_message(fer2013.find_file, {"path": str(tmp_path)})
    assert f"use data=image_folder data.path={tmp_path}" in text


def test_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", ["."], ("sad", "more"))
    make(tmp_path / "data", ["."], ("angry", "happy"))
    for link, target in {"sad": "elsewhere/sad", "happy/more": "elsewhere/more"}.items():
        (tmp_path / "data" / link).symlink_to(tmp_path / target)
    (tmp_path / "data" / "angry" / "circle").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone").symlink_to(tmp_path / "nowhere")
    source = load(tmp_path / "data")
    assert source.classes == list(CLASSES) and sizes(source) == {"train": 8}
    assert "happy/more/0.png" in source.splits["train"].names
    names = f"{tmp_path / 'data' / 'angry' / 'circle'}, {tmp_path / 'data' / 'gone'}"
    assert f"ignored 2 links that are broken or circular: {names}" in source.notes


def test_a_class_named_twice_is_an_error_of_the_split(tmp_path: Path) -> None:
    make(tmp_path, ["val_set", "valid", "train"])
    with pytest.raises(UserError, match="are folders of the val split"):
        load(tmp_path)
