"""Images are compared by their pixels, whatever they are stored as."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotion_lab.config import compose
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.migrate import migrate_config
from emotion_lab.data import pixel_hash
from emotion_lab.data.build import load_data
from emotion_lab.data.file_store import FileStore
from emotion_lab.data.pixel_hash import pixel_digest
from emotion_lab.data.splits import stratified_position
from tests.data.test_fer2013 import make_rows, write_csv


def grey(seed: int, height: int = 48, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8)


def test_a_grey_image_has_one_hash() -> None:
    image = grey(0)
    digest = pixel_digest(image)
    assert digest == pixel_digest(image.repeat(3, axis=2)) == pixel_digest(np.asfortranarray(image))
    # Fingerprints of FER2013 from earlier versions stay valid.
    assert digest == hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    colour = image.repeat(3, axis=2)
    colour[5, 5, 2] ^= 1
    assert len({pixel_digest(x) for x in (image, colour, image[:, ::-1], grey(1))}) == 4
    blank = np.zeros((24, 96, 1), np.uint8)
    shapes = (blank, blank.reshape(96, 24, 1), blank.reshape(48, 48, 1))
    assert len({pixel_digest(x) for x in shapes}) == 3


@pytest.mark.parametrize(
    ("mode", "name"), [("L", "a.png"), ("RGB", "a.png"), ("RGBA", "a.png"), ("RGB", "a.bmp")]
)
def test_lossless_files_have_the_hash_of_the_array(mode: str, name: str, tmp_path: Path) -> None:
    image = grey(2)
    Image.fromarray(image[:, :, 0]).convert(mode).save(tmp_path / name)
    assert FileStore([str(tmp_path / name)]).digest(0) == pixel_digest(image)


def test_csv_and_folder_of_the_same_images_are_the_same_data(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", make_rows(per_class=3))
    splits = ("train", "val", "test")
    csv = load_data({**compose.defaults("data", "fer2013"), "path": str(path)}, splits)
    for split, part in csv.splits.items():
        for i in range(len(part)):
            folder = tmp_path / "faces" / split / EMOTIONS[part.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(part.image(i)[:, :, 0])
            image.convert("RGB" if i % 2 else "L").save(folder / f"{i}.png")
    cfg = {**compose.defaults("data", "image_folder"), "path": str(tmp_path / "faces")}
    folders = load_data(cfg, splits)
    for split, part in csv.splits.items():
        assert sorted(folders.splits[split].digests()) == sorted(part.digests())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return class folders; two files of a class have equal pixels and different bytes."""
    for name in ("happy", "sad"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(20):
            image = Image.fromarray(grey(i + 100 * (name == "sad"), 16, 16)[:, :, 0])
            image.save(tmp_path / "faces" / name / f"{i}.png")
        image.save(tmp_path / "faces" / name / "copy.bmp")
    return tmp_path / "faces"


def test_copies_in_another_format_stay_in_one_split(folder: Path) -> None:
    for seed in range(5):
        cfg = {**compose.defaults("data", "image_folder"), "path": str(folder)}
        source = load_data({**cfg, "split_seed": seed, "val_fraction": 0.4}, ("train", "val"))
        train, val = (set(source.splits[name].digests()) for name in ("train", "val"))
        assert not train & val


def test_splits_of_earlier_runs_are_remade(folder: Path) -> None:
    """Runs of earlier versions have no data.digest_of; they were split by the bytes of the files.

    The expected split is computed as those versions did.
    """
    cfg: dict[str, Any] = {**compose.defaults("data", "image_folder"), "path": str(folder)}
    old = {key: value for key, value in cfg.items() if key != "digest_of"}
    migrated = migrate_config({"data": old})["data"]
    assert migrated == {**old, "digest_of": "file"}
    assert migrate_config({"data": cfg})["data"] == cfg
    fer2013 = {"data": {"name": "fer2013"}}
    assert migrate_config(fer2013) == fer2013
    everything = load_data({**cfg, "val_fraction": 0.3}, ("val",), carve=False).splits["val"]
    files = [(folder / name).read_bytes() for name in everything.names]
    hashes = np.array([hashlib.blake2b(data, digest_size=16).digest() for data in files], "S16")
    groups = np.unique(hashes, return_inverse=True)[1]
    in_val = stratified_position(everything.labels, groups, 0) < 0.3
    expected = [name for name, chosen in zip(everything.names, in_val, strict=True) if chosen]
    splits = {
        of: list(load_data({**data, "val_fraction": 0.3}, ("val",)).splits["val"].names)
        for of, data in (("file", migrated), ("pixels", cfg))
    }
    assert splits["file"] == expected != splits["pixels"]


def test_hashes_of_files_are_cached_by_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    paths = sorted(map(str, folder.rglob("*.png")))
    first = [FileStore(paths).digest(i) for i in range(len(paths))]
    assert not (tmp_path / "cache").exists(), "a few files are not worth a cache"
    monkeypatch.setattr(pixel_hash, "_CACHED_FROM_S", 0.0)
    FileStore(paths).digest(0)
    (cache,) = (tmp_path / "cache" / "pixel_hashes").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(pixel_hash, "read_image", lambda path: pytest.fail("decoded again"))
        assert [FileStore(paths).digest(i) for i in range(len(paths))] == first
    cache.write_bytes(b"damaged")
    assert [FileStore(paths).digest(i) for i in range(len(paths))] == first
    Image.fromarray(grey(7, 16, 16)[:, :, 0]).save(paths[0])
    assert FileStore(paths).digest(0) == pixel_digest(grey(7, 16, 16)) != first[0]


def test_a_file_that_cannot_be_decoded_keeps_the_hash_of_its_bytes(folder: Path) -> None:
    path = folder / "sad" / "3.png"
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(20) + data[80:])
    store = FileStore([str(path)])
    assert store.digest(0) == store.file_digest(0)
