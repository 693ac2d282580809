"""FER2013 CSV: parsing, error messages, cache and download."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data import download
from emotion_lab.data.build import load_data
from emotion_lab.data.datasets import fer2013
from emotion_lab.data.fer2013 import cache
from emotion_lab.data.fingerprint import fingerprint
from tests.conftest import error_message

ALL = ("train", "val", "test")
USAGES = ("Training", "PublicTest", "PrivateTest")


def pixels_of(row: int) -> str:
    values = np.random.default_rng(row).integers(0, 256, 2304)
    return " ".join(map(str, values))


def make_rows(per_class: int = 2) -> list[tuple[str, str, str]]:
    """Return emotion, pixels and Usage of every class in every split."""
    labels = [(usage, str(i)) for usage in USAGES for i in range(7) for _ in range(per_class)]
    return [(emotion, pixels_of(row), usage) for row, (usage, emotion) in enumerate(labels)]


def write_csv(path: Path, rows=None, header="emotion,pixels,Usage", order=(0, 1, 2)) -> Path:
    rows = make_rows() if rows is None else rows
    lines = [header, *(",".join(row[i] for i in order) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path: Path, splits=ALL, **cfg):
    return fer2013.load({"path": str(path), **cfg}, splits)


def message(path: Path, **cfg) -> str:
    return error_message(load, path, **cfg)


@pytest.fixture(autouse=True)
def isolated_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "spare"))
    monkeypatch.delenv("EMOTION_LAB_DATA", raising=False)


def test_values(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv")
    source = load(path)
    assert source.classes == list(EMOTIONS)
    assert {name: len(split) for name, split in source.splits.items()} == dict.fromkeys(ALL, 14)
    assert source.splits["val"].names[0] == "fer2013:14"
    image = source.splits["val"].image(0)
    assert image.shape == (48, 48, 1) and image.dtype == np.uint8
    assert image.reshape(-1).tolist() == [int(v) for v in pixels_of(14).split()]
    assert source.splits["val"].labels.tolist() == np.repeat(np.arange(7), 2).tolist()


@pytest.mark.parametrize("folder", ["plain", "a b=c [1]", "Größe 表情"])
@pytest.mark.parametrize("kind", ["csv", "gz", "zip", "archive", "icml"])
def test_archive_formats_and_paths(tmp_path, folder, kind):
    csv = write_csv(tmp_path / "made.csv")
    target = tmp_path / folder
    target.mkdir()
    if kind == "csv":
        (target / "fer2013").mkdir()
        shutil.copy(csv, target / "fer2013" / "fer2013.csv")
    elif kind == "gz":
        (target / "fer2013.csv.gz").write_bytes(gzip.compress(csv.read_bytes()))
    elif kind == "icml":
        write_csv(target / "icml_face_data.csv", None, "emotion, Usage, pixels", (0, 2, 1))
    else:
        name = "fer2013.zip" if kind == "zip" else "archive.zip"
        with zipfile.ZipFile(target / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(csv, "deep/er/fer2013.csv")
            archive.writestr("__MACOSX/deep/._fer2013.csv", b"x")
            archive.writestr("other.csv", b"x")
    source, plain = load(target), load(csv)
    for name in ALL:
        assert source.splits[name].digests() == plain.splits[name].digests()
        np.testing.assert_array_equal(source.splits[name].labels, plain.splits[name].labels)


@pytest.mark.parametrize(
    "header, order",
    [
        ("emotion, Usage, pixels", (0, 2, 1)),
        ("\ufeff USAGE ,Pixels, Emotion", (2, 1, 0)),
        ('"emotion","pixels","Usage"', (0, 1, 2)),
    ],
)
def test_headers(tmp_path, header, order):
    path = write_csv(tmp_path / "fer2013.csv", header=header, order=order)
    assert len(load(path).splits["test"]) == 14


def test_blank_lines_and_windows_line_endings(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert len(load(path).splits["test"]) == 14


def rows_with_change(index: int, column: int, change) -> list[tuple[str, str, str]]:
    rows = make_rows()
    row = list(rows[index])
    row[column] = change(row[column])
    rows[index] = tuple(row)
    return rows


@pytest.mark.parametrize(
    "column, change, error",
    [
        (1, lambda p: p.rsplit(" ", 1)[0], "2,303 pixels, expected 2,304"),
        (1, lambda p: p + " 7", "2,305 pixels"),
        (1, lambda p: "", "0 pixels"),
        (1, lambda p: "300 " + p.split(" ", 1)[1], "pixel 1 is 300"),
        (1, lambda p: "18446744073709551686 " + p.split(" ", 1)[1], "pixel 1 is 18446"),
        (1, lambda p: "-1 " + p.split(" ", 1)[1], "pixel 1 is '-1'"),
        (1, lambda p: "1.5 " + p.split(" ", 1)[1], "pixel 1 is '1.5'"),
        (1, lambda p: p.rsplit(" ", 1)[0] + " x", "pixel 2304 is 'x'"),
        (0, lambda e: "9", "emotion is '9', expected 0 to 6"),
        (0, lambda e: "", "emotion is ''"),
        (2, lambda u: "Holdout", "Usage is 'Holdout', expected one of Training"),
        (2, lambda u: "Training,1", "4 columns, expected 3"),
    ],
)
def test_invalid_row_message(tmp_path, column, change, error):
    path = write_csv(tmp_path / "fer2013.csv", rows_with_change(4, column, change))
    text = message(path)
    assert error in text
    assert f"row 6 of {path}" in text  # the header is row 1
    assert not list(tmp_path.rglob("meta.json"))


def test_other_image_sizes_are_refused(tmp_path):
    rows = [("0", " ".join(["1"] * 1024), "Training")]
    assert "row 2" in message(write_csv(tmp_path / "fer2013.csv", rows))


def test_pixels_separated_by_tabs(tmp_path):
    rows = rows_with_change(4, 1, lambda p: p.replace(" ", "\t"))
    path = write_csv(tmp_path / "fer2013.csv", rows)
    expected = [int(v) for v in pixels_of(4).split()]
    assert load(path).splits["train"].image(4).reshape(-1).tolist() == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_saved_by_a_spreadsheet(tmp_path, delimiter, encoding):
    path = write_csv(tmp_path / "fer2013.csv", make_rows(1))
    expected = load(path).splits["val"].digests("pixels")
    text = path.read_text().replace(",", delimiter).replace("\n", "\r\n")
    other = tmp_path / "other" / "fer2013.csv.gz"
    other.parent.mkdir()
    other.write_bytes(gzip.compress(text.encode(encoding)))
    assert load(other).splits["val"].digests("pixels") == expected
    other.write_bytes(gzip.compress(text.replace("Training", "Trainig", 1).encode(encoding)))
    assert "row 2 of" in message(other) and "Usage is 'Trainig'" in message(other)


@pytest.mark.parametrize(
    "content, error",
    [
        (b"", "is empty"),
        (b"emotion,pixels,Usage\n", "a header and no rows"),
        (b"emotion,pixels\n0,1 2\n", "found the columns 'emotion', 'pixels'; expected"),
        (b"0,1 2 3,Training\n", "Wrong header in row 1"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "Wrong header in row 1"),
        ("emotion,pixels,Usage\n".encode("utf-16") + b"\n", "is truncated or damaged"),
    ],
)
def test_invalid_files(tmp_path, content, error):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    text = message(path)
    assert error in text and str(path) in text


def test_truncated_archives(tmp_path):
    csv = write_csv(tmp_path / "fer2013.csv")
    packed = gzip.compress(csv.read_bytes())
    archive_path = tmp_path / "valid.zip"
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(csv, "fer2013.csv")
    data = archive_path.read_bytes()
    middle = len(data) // 2
    for name, content in {
        "cut.csv.gz": packed[: len(packed) // 2],
        "no.csv.gz": b"emotion,pixels,Usage\n",
        "cut.zip": data[:middle],
        "bad.zip": data[:middle] + bytes(100) + data[middle + 100 :],
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "truncated or damaged" in message(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("train/happy/1.jpg", b"x")
    assert "data=image_folder" in message(tmp_path / "none.zip")
    (tmp_path / "fer2013.tar.gz").write_bytes(b"x")
    assert "tar archive" in message(tmp_path / "fer2013.tar.gz")


def test_missing_file_message(tmp_path, monkeypatch):
    text = message(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text
    assert all(part in text for part in ("data.path=", "data.download=true", "data=synthetic"))
    (tmp_path / "empty").mkdir()
    assert "looked for fer2013.csv" in message(tmp_path / "empty")
    monkeypatch.setenv("EMOTION_LAB_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="EMOTION_LAB_DATA"):
        fer2013.load({"path": None}, ALL)
    write_csv(tmp_path / "elsewhere" / "fer2013.csv")
    assert len(fer2013.load({}, ("val",)).splits["val"]) == 14


def test_image_folder_is_detected(tmp_path):
    (tmp_path / "images" / "train" / "happy").mkdir(parents=True)
    assert "use data=image_folder" in message(tmp_path)
    assert "use data=image_folder" in message(tmp_path / "images")
    (tmp_path / "images" / "train" / "sad").mkdir()
    assert "use data=image_folder" in message(tmp_path / "images" / "train")


def test_class_without_train_images(tmp_path):
    rows = [row for row in make_rows() if not (row[0] == "1" and row[2] == "Training")]
    path = write_csv(tmp_path / "fer2013.csv", rows)
    for _ in range(2):  # parsed, then from the cache
        text = error_message(load_data, {"name": "fer2013", "path": str(path)}, ("train",))
        assert "no train image of disgust in" in text and "data.exclude=[disgust]" in text
    cfg = {"name": "fer2013", "path": str(path), "exclude": ["Disgusted"]}
    assert load_data(cfg, ("train",)).classes == [name for name in EMOTIONS if name != "disgust"]


def test_absent_split(tmp_path):
    rows = [row for row in make_rows() if row[2] != "PrivateTest"]
    path = write_csv(tmp_path / "fer2013.csv", rows)
    assert set(load(path).splits) == {"train", "val"}
    with pytest.raises(UserError, match=r"split 'test' is missing in .*; found: train, val"):
        load_data({"name": "fer2013", "path": str(path)}, ("test",))


def cache_folders(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.rglob("meta.json"))


def test_cache_is_used_and_invalidated(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "fer2013.csv")
    first = load(path)
    (folder,) = cache_folders(tmp_path)
    assert folder.parent == tmp_path / ".emotion_lab_cache"
    with monkeypatch.context() as patch:
        patch.setattr(fer2013, "parse", lambda path: pytest.fail("parsed again"))
        cached = load(path)
        assert cached.notes == []
        assert cached.splits["train"].digests() == first.splits["train"].digests()
        assert list(cached.splits["test"].names) == list(first.splits["test"].names)
    write_csv(path, make_rows(3))
    assert len(load(path).splits["train"]) == 21
    assert len(cache_folders(tmp_path)) == 1  # the old one was removed
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    calls, original = [], fer2013.parse
    monkeypatch.setattr(fer2013, "parse", lambda path: calls.append(1) or original(path))
    load(path)
    assert calls == [1]


def test_test_split_stays_closed(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv")
    load(path)
    (folder,) = cache_folders(tmp_path)
    (folder / "test_images.npy").unlink()
    source = load(path, ("train", "val"))
    assert set(source.splits) == {"train", "val"} and source.notes == []
    assert "test" in source.available_splits


@pytest.mark.parametrize(
    "name, damage",
    [
        ("val_images.npy", lambda content: content[:1000]),
        ("train_labels.npy", lambda content: content[:-8] + b"\x55" + content[-7:]),
        ("meta.json", lambda content: b'{"key": {'),
        ("meta.json", lambda content: b"[1, 2]"),
        ("meta.json", lambda content: content.replace(b'"size": ', b'"size": 1')),
    ],
)
def test_corrupt_cache_is_rebuilt(tmp_path, name, damage):
    path = write_csv(tmp_path / "fer2013.csv")
    digests = load(path).splits["val"].digests()
    (folder,) = cache_folders(tmp_path)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    source = load(path)
    assert "damaged" in " ".join(source.notes)
    assert source.splits["val"].digests() == digests
    assert load(path).notes == []
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_cache_fallback_folders(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "fer2013.csv")
    (tmp_path / ".emotion_lab_cache").write_text("a file")
    assert load(path).notes == []
    (folder,) = cache_folders(tmp_path)
    assert folder.parent == tmp_path / "spare"
    assert load(path).notes == []
    shutil.rmtree(tmp_path / "spare")
    (tmp_path / "spare").write_text("a file")
    source = load(path)
    assert "no cache" in source.notes[0] and len(source.splits["train"]) == 14


def _build(path: str, queue) -> None:
    source = load(Path(path))
    queue.put(([len(source.splits[name]) for name in ALL], source.splits["val"].digests()))


def test_concurrent_cache_builds(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", make_rows(6))
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queue = context.Queue()
    processes = [context.Process(target=_build, args=(str(path), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(result == results[0] for result in results)
    assert load(path).notes == []
    assert len(list((tmp_path / ".emotion_lab_cache").iterdir())) == 1


def test_overwriting_a_valid_cache(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv")
    reader = load(path)
    (folder,) = cache_folders(tmp_path)
    cache.write(folder, path.stat(), fer2013.parse(path))
    assert len(reader.splits["train"].image(0)) == 48  # still mapped
    assert load(path).notes == []


def test_download_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_connection_problem", lambda: "ConnectTimeout")
    monkeypatch.setitem(sys.modules, "kagglehub", object())
    text = message(tmp_path / "data", download=True)
    target = str(tmp_path / "data" / "fer2013.csv")
    assert all(part in text for part in (download.PAGE, target, "data.path="))
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert "pip install kagglehub" in message(tmp_path / "data", download=True)


def test_download_if_file_is_missing(tmp_path, monkeypatch):
    public = write_csv(tmp_path / "public" / "versions" / "1" / "fer2013.csv")

    class Hub:
        @staticmethod
        def dataset_download(handle):
            assert handle == download.KAGGLE_DATASET
            return str(public.parent)

    monkeypatch.setattr(download, "_connection_problem", lambda: None)
    monkeypatch.setitem(sys.modules, "kagglehub", Hub)
    source = load(tmp_path / "data", ("test",), download=True)
    assert source.location == str(tmp_path / "data" / "fer2013.csv")
    assert len(source.splits["test"]) == 14


@pytest.mark.fer2013
def test_real_fer2013(fer2013_csv, tmp_path):
    # A link, so that the test builds its own cache and does not write to the data folder.
    path = tmp_path / "fer2013.csv"
    path.symlink_to(Path(fer2013_csv).resolve())
    source = load(path)
    fingerprints = {n: fingerprint(s, source.classes) for n, s in source.splits.items()}
    assert [fingerprints[n]["n"] for n in ALL] == [28709, 3589, 3589]
    assert [fingerprints[n]["known_as"] for n in ALL] == [f"FER2013 {usage}" for usage in USAGES]
    seen = set(source.splits["train"].digests())
    assert sum(digest in seen for digest in source.splits["test"].digests()) == 288
