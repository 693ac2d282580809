"""Image files and image folders."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datasets import image_folder
from emotion_lab.data.file_store import FileStore
from emotion_lab.data.images import check_bytes, check_file, read_image
from tests.conftest import error_message

ALL = ("train", "val", "test")


def write_image(path: Path, seed: int = 0, size: int = 12, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = (3,) if mode == "RGB" else ()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, *channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_tree(root: Path, files: list[str]) -> Path:
    for seed, name in enumerate(files):
        write_image(root / name, seed)
    return root


def make_folder(root: Path) -> Path:
    parts = itertools.product(("train", "test"), ("happy", "sad"), range(3))
    return write_tree(root, [f"{split}/{name}/{i}.png" for split, name, i in parts])


def load(path: Path, splits=ALL, **cfg):
    return image_folder.load({"path": str(path), **cfg}, splits)


def message(path: Path, splits=ALL, **cfg) -> str:
    return error_message(load, path, splits, **cfg)


def sizes(source) -> dict[str, int]:
    return {name: len(split) for name, split in source.splits.items()}


@pytest.mark.parametrize("name", ["a.png", "b c=d[1].png", "Größe 表情.png"])
def test_grey_stays_one_channel(tmp_path, name):
    path = write_image(tmp_path / name)
    image = read_image(path)
    assert image.shape == (12, 12, 1) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[:, :, 0], np.asarray(Image.open(path)))


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "RGBA", "LA", "1"])
def test_modes(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    base = Image.new("RGB", (6, 4), (200, 200, 200))
    base.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (4, 6, 1 if mode in ("LA", "1") else 3)
    assert image.dtype == np.uint8


def test_transparency_becomes_grey(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert set(read_image(tmp_path / "x.png").reshape(-1).tolist()) == {128}


def test_high_bit_depths_are_scaled(tmp_path):
    deep = np.array([[0, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").reshape(-1).tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "x.tif")
    assert read_image(tmp_path / "x.tif").reshape(-1).tolist() == [0, 128, 255]


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (8, 4, 3)


def test_invalid_file_messages(tmp_path):
    content = write_image(tmp_path / "valid.jpg", size=64).read_bytes()
    cut = content[: len(content) // 2]
    for name, data in {"cut.jpg": cut, "text.png": b"hello", "e.png": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            read_image(tmp_path / name)
        assert check_file(tmp_path / name)
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UserError, match=path.name):
            read_image(path)
        assert check_file(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_check_detects_truncated_files(tmp_path, suffix):
    data = write_image(tmp_path / f"x.{suffix}", size=40, mode="RGB").read_bytes()
    assert check_bytes(data) is None
    assert check_bytes(data + b"trailing bytes of a camera") is None
    assert check_bytes(data[:-40]) is not None
    assert check_bytes(data[:20]) is not None


def test_train_and_test(tmp_path):
    source = load(make_folder(tmp_path / "a b=c [1] é"))
    assert source.classes == ["happy", "sad"]
    assert sizes(source) == {"train": 6, "test": 6}
    assert source.available_splits == ["train", "test"]
    assert source.splits["train"].names[:2] == ["train/happy/0.png", "train/happy/1.png"]
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.splits["train"].image(0).shape == (12, 12, 1)


@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION"])
def test_val_folder_and_case(tmp_path, val):
    write_tree(
        tmp_path, [f"{s}/{c}/a.PNG" for s in ("Train", val, "TEST") for c in ("Anger", "fear")]
    )
    source = load(tmp_path)
    assert sizes(source) == dict.fromkeys(ALL, 2)
    assert source.classes == ["angry", "fear"]


def test_names_of_fer2013_exports(tmp_path):
    files = ["train/{}/Training_1.png", "train/{}/Training_2.png"]
    files += ["test/{}/PublicTest_3.png", "test/{}/PrivateTest_4.png"]
    write_tree(tmp_path, [file.format(name) for name in ("happy", "sad") for file in files])
    source = load(tmp_path)
    assert sizes(source) == {"train": 4, "val": 2, "test": 2}
    assert source.splits["val"].names == [
        "test/happy/PublicTest_3.png",
        "test/sad/PublicTest_3.png",
    ]
    assert any("PublicTest_ are val" in note for note in source.notes)


def test_one_folder_of_classes(tmp_path):
    write_tree(tmp_path, [f"{c}/sub/{i}.jpg" for c in ("happy", "sad", "Bored ") for i in range(4)])
    source = load(tmp_path)
    assert sizes(source) == {"train": 12}
    assert source.classes == ["happy", "sad", "bored"]
    carved = load_data(
        {"name": "image_folder", "path": str(tmp_path), "val_fraction": 0.25}, ALL[:2]
    )
    assert sizes(carved) == {"train": 9, "val": 3}


def test_merged_ignored_and_hidden_folders(tmp_path):
    make_folder(tmp_path)
    write_image(tmp_path / "train" / "Happiness" / "z.webp", 9)
    write_image(tmp_path / "train" / "loose.png")
    write_image(tmp_path / "extra" / "x.png")
    (tmp_path / "train" / "sad" / "readme.txt").write_text("x")
    (tmp_path / "train" / "sad" / ".hidden.png").write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    source = load(tmp_path)
    assert sizes(source) == {"train": 7, "test": 6}
    notes = "\n".join(source.notes)
    assert "train/Happiness and train/happy are read as one class, happy" in notes
    assert "1 .txt" in notes and "1 image outside class folders" in notes and "extra" in notes


def test_strict_labels(tmp_path):
    make_folder(tmp_path)
    write_image(tmp_path / "train" / "hapy" / "1.png", 77)
    assert load(tmp_path).classes == ["happy", "sad", "hapy"]
    text = message(tmp_path, strict_labels=True)
    assert "train/hapy" in text and "Did you mean 'happy'" in text


def test_class_without_train_images(tmp_path):
    make_folder(tmp_path)
    write_image(tmp_path / "test" / "Contempt" / "1.png")
    (tmp_path / "train" / "fear").mkdir()
    cfg = {"name": "image_folder", "path": str(tmp_path), "val_fraction": 0.4}
    for splits in (("train", "val"), ("train",)):
        text = error_message(load_data, cfg, splits)
        assert "no train image of fear, contempt in " in text
        assert "(folder train/fear, test/Contempt)" in text
        assert "data.exclude=[fear,contempt]" in text
    # Classes without images can be scored, also with val cut out of train.
    for splits, expected in ((("test",), {"test": 7}), (("val",), {"val": 2})):
        source = load_data(cfg, splits)
        assert source.classes == ["fear", "happy", "sad", "contempt"] and sizes(source) == expected
    assert sizes(load_data(cfg, ("train", "test"), carve=False)) == {"train": 6, "test": 7}
    (tmp_path / "train" / "fear").rmdir()
    assert load(tmp_path, exclude=["Contempt"]).classes == ["happy", "sad", "contempt"]
    cfg = {"name": "image_folder", "path": str(tmp_path), "exclude": ["contempt"]}
    source = load_data(cfg, ("test",))
    assert source.classes == ["happy", "sad"] and sizes(source) == {"test": 6}


def test_only_a_test_folder(tmp_path):
    write_tree(tmp_path, ["test/happy/1.png", "test/sad/1.png"])
    assert sizes(load(tmp_path)) == {"test": 2}
    with pytest.raises(UserError, match=r"split 'train' is missing in .*; found: test"):
        load_data({"name": "image_folder", "path": str(tmp_path)}, ("train", "val"))


def test_invalid_paths(tmp_path):
    assert "does not exist" in message(tmp_path / "none")
    (tmp_path / "fer2013.csv").write_text("x")
    assert "data=fer2013" in message(tmp_path / "fer2013.csv")
    assert "data=fer2013" in message(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "No images" in message(tmp_path / "empty")
    (tmp_path / "hollow" / "happy").mkdir(parents=True)
    assert "No images" in message(tmp_path / "hollow")
    write_image(tmp_path / "flat" / "1.png")
    assert "no class folders" in message(tmp_path / "flat")
    write_tree(tmp_path / "twice", ["val/happy/1.png", "valid/happy/1.png"])
    assert "are folders of the val split" in message(tmp_path / "twice")


def test_invalid_file_is_raised_or_skipped(tmp_path):
    make_folder(tmp_path)
    invalid = tmp_path / "train" / "happy" / "bad.jpg"
    invalid.write_bytes(b"not an image")
    text = message(tmp_path)
    assert str(invalid) in text and "data.on_decode_error=skip" in text
    source = load(tmp_path, on_decode_error="skip")
    assert sizes(source) == {"train": 6, "test": 6}
    assert source.skipped == [str(invalid)]
    assert any(
        note == f"skipped 1 of 13 images (7.7%) that cannot be read: {invalid} (not an image)"
        for note in source.notes
    )
    for path in (tmp_path / "train" / "sad").iterdir():
        path.write_bytes(b"")
    assert "leaves no image of sad in train" in message(tmp_path, on_decode_error="skip")


def test_other_splits_stay_closed(tmp_path):
    make_folder(tmp_path)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"broken")
    cfg = {"name": "image_folder", "path": str(tmp_path), "val_fraction": 0.4}
    assert sizes(load_data(cfg, ("train", "val"))) == {"train": 4, "val": 2}
    assert "test" in message(tmp_path, ("test",))


def test_store(tmp_path):
    make_folder(tmp_path)
    store = load(tmp_path).splits["train"].store
    assert store.size_hint() == 6 * 144
    unpickled = pickle.loads(pickle.dumps(store))
    unhashed = FileStore(store.paths)
    for index in range(6):
        assert len(store.digest(index)) == 16
        assert store.digest(index) == unpickled.digest(index) == unhashed.digest(index)
        assert store.file_digest(index) == unhashed.file_digest(index) != store.digest(index)
    assert len({store.digest(index) for index in range(6)}) == 6
