"""FER2013 from the CSV of the 2013 challenge (Goodfellow et al. 2013, arXiv:1307.0414)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.download import download_fer2013
from emotion_lab.data.fer2013 import cache
from emotion_lab.data.fer2013.csv_reader import USAGE, Arrays, parse
from emotion_lab.data.image_tree import emotion_folders, find_root, split_folders
from emotion_lab.data.types import (
    DATASETS,
    SPLITS,
    ArrayStore,
    LoadedDataset,
    SampleNames,
    Split,
    data_path,
    subfolders,
)

#: File names that are searched for in a folder and in its sub-folder ``fer2013``.
FILE_NAMES: tuple[str, ...] = (
    "fer2013.csv",
    "fer2013.csv.gz",
    "fer2013.csv.zip",
    "fer2013.zip",
    "icml_face_data.csv",
    "icml_face_data.csv.gz",
    "icml_face_data.csv.zip",
    "icml_face_data.zip",
    "archive.zip",
)

_HINT = (
    "Set data.path=<file or folder>, or data.download=true to download it, "
    "or data=synthetic to try without data."
)


class Fer2013Names(SampleNames):
    """Sample names ``fer2013:<row>``.

    Args:
        rows: int64 (N,), rows of the file; the first row below the header is 0.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def _name(self, index: int) -> str:
        return f"fer2013:{int(self.rows[index])}"


def _file_in(folder: Path) -> Path | None:
    for parent in (folder, folder / "fer2013"):
        for name in FILE_NAMES:
            if (parent / name).is_file():
                return parent / name
    return None


def _image_folder_in(folder: Path) -> Path | None:
    """Return ``folder`` or a sub-folder of it that contains class or split folders, if any."""
    for parent in (folder, *subfolders(folder)):
        root = find_root(parent)
        if split_folders(root) or len(emotion_folders(root, short=True)) >= 2:
            return parent
    return None


def find_file(cfg: dict[str, Any]) -> Path:
    """Return the path of the CSV (or archive); download it with ``data.download=true``."""
    name, setting = data_path(cfg)
    start = Path(name).expanduser()
    try:
        if start.is_file():
            return start
        path = _file_in(start) if start.is_dir() else None
        if path:
            return path
        if cfg.get("download"):
            is_file = start.name.lower().endswith((".csv", ".gz", ".zip")) and not start.is_dir()
            return download_fer2013(start.parent if is_file else start)
        images = _image_folder_in(start) if start.is_dir() else None
    except OSError as error:
        raise UserError(f"Cannot read {start} (from {setting}): {error}.") from error
    if images:
        raise UserError(
            f"{start} (from {setting}) holds folders of images, not the FER2013 CSV: "
            f"use data=image_folder data.path={images}."
        )
    if start.is_dir():
        raise UserError(
            f"No FER2013 file in {start} (from {setting}); looked for {', '.join(FILE_NAMES[:4])}, "
            f"icml_face_data.csv and archive.zip there and in fer2013/. {_HINT}"
        )
    raise UserError(
        f"No FER2013 file: {start} (from {setting}) does not exist; "
        f"looked for fer2013.csv, plain, .gz or .zip. {_HINT}"
    )


def _read(path: Path, splits: tuple[str, ...], notes: list[str]) -> cache.CachedSplits:
    """Return the requested splits from the cache, or parse the file and write the cache."""
    folders = cache.folders(path)
    for folder in folders:
        try:
            cached = cache.read(folder, path, splits)
        except cache.CacheCorruptedError as error:
            notes.append(f"the cache {folder} was damaged ({error}); built again")
            continue
        if cached is not None:
            return cached
    stat = path.stat()
    parsed = parse(path)
    for folder in folders:
        try:
            cache.write(folder, stat, parsed)
            cache.remove_stale(folder, path)
            break
        except OSError:
            continue
    else:
        tried = " or ".join(str(folder.parent) for folder in folders)
        notes.append(f"no cache: cannot write {tried}; set EMOTION_LAB_CACHE=<folder>")
    counts = {name: cache.class_counts(arrays) for name, arrays in parsed.items()}
    rows = {name: arrays.rows for name, arrays in parsed.items()}
    return cache.CachedSplits({n: parsed[n] for n in splits if n in parsed}, counts, rows)


def _split(arrays: Arrays) -> Split:
    indices = np.arange(len(arrays.labels), dtype=np.int64)
    return Split(ArrayStore(arrays.images), indices, arrays.labels, Fer2013Names(arrays.rows))


@DATASETS.register("fer2013")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Load FER2013: Training is train, PublicTest is val, PrivateTest is test.

    Args:
        cfg: The ``data`` group; ``path`` and ``download`` are used.
        splits: The splits to open. Files of other splits stay closed if the cache exists.

    Returns:
        Images uint8 (48, 48, 1), labels in ``EMOTIONS`` order.
    """
    path = find_file(cfg)
    notes: list[str] = []
    try:
        data = _read(path, tuple(n for n in SPLITS if n in splits), notes)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error}. Set data.path=<file or folder>.") from error
    return LoadedDataset(
        classes=list(EMOTIONS),
        splits={name: _split(arrays) for name, arrays in data.splits.items()},
        location=str(path),
        notes=notes,
        available_splits=[name for name in USAGE.values() if name in data.counts],
        rows=data.rows,
    )
