"""FER2013 from the challenge's CSV file (Goodfellow et al. 2013)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS, canonical
from emotion_lab.data.download import download_fer2013
from emotion_lab.data.fer2013 import cache
from emotion_lab.data.fer2013.csv_reader import USAGE, Arrays, parse
from emotion_lab.data.types import DATASETS, SPLITS, ArrayStore, LoadedDataset, Split

#: File names looked for in a folder, and in its sub-folder ``fer2013``.
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

_MEND = (
    "Set data.path=<file or folder>, or data.download=true to fetch it, "
    "or data=synthetic to try without data."
)


class Fer2013Names(Sequence):
    """Sample names ``fer2013:<row>``, made when asked for.

    Args:
        rows: int64 (N,), rows of the file counted from 0 below the header.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return f"fer2013:{int(self.rows[index])}"


def _start(cfg: dict) -> tuple[Path, str]:
    """Return where to look and the setting that said so."""
    if cfg.get("path"):
        return Path(str(cfg["path"])).expanduser(), "data.path"
    if os.environ.get("EMOTION_LAB_DATA"):
        return Path(os.environ["EMOTION_LAB_DATA"]).expanduser(), "$EMOTION_LAB_DATA"
    return Path("data"), "the default"


def _in_folder(folder: Path) -> Path | None:
    for parent in (folder, folder / "fer2013"):
        for name in FILE_NAMES:
            if (parent / name).is_file():
                return parent / name
    return None


def _image_folder(folder: Path) -> Path | None:
    """Return the folder of class or split folders at or right below ``folder``, if any."""

    def subfolders(parent: Path) -> list[Path]:
        return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))

    for parent in (folder, *subfolders(folder)):
        names = [p.name for p in subfolders(parent)]
        split_names = {name.lower() for name in names} & {"train", "test", "val", "validation"}
        if split_names or sum(canonical(name) is not None for name in names) >= 2:
            return parent
    return None


def find_file(cfg: dict) -> Path:
    """Return the CSV (or archive) that ``cfg`` points at, fetching it when asked to.

    Raises:
        UserError: If there is none; the message says what was looked for and where.
    """
    start, setting = _start(cfg)
    try:
        if start.is_file():
            return start
        if start.is_dir():
            found = _in_folder(start)
            if found:
                return found
        if cfg.get("download"):
            names_file = start.name.lower().endswith((".csv", ".gz", ".zip")) and not start.is_dir()
            return download_fer2013(start.parent if names_file else start)
        images = _image_folder(start) if start.is_dir() else None
    except OSError as error:
        raise UserError(f"Cannot look into {start} (from {setting}): {error}.") from error
    if images:
        raise UserError(
            f"{start} (from {setting}) holds folders of images, not the FER2013 CSV: "
            f"use data=image_folder data.path={images}."
        )
    if start.is_dir():
        raise UserError(
            f"No FER2013 file in {start} (from {setting}); looked for {', '.join(FILE_NAMES[:4])}, "
            f"icml_face_data.csv and archive.zip there and in fer2013/. {_MEND}"
        )
    raise UserError(
        f"No FER2013 file: {start} (from {setting}) does not exist; "
        f"looked for fer2013.csv, plain, .gz or .zip. {_MEND}"
    )


def _read(path: Path, splits: tuple[str, ...], notes: list[str]) -> cache.CachedSplits:
    """Return the splits asked for, from the cache or, the first time, from the file."""
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
            cache.tidy(folder, path)
            break
        except OSError:
            continue
    else:
        tried = " or ".join(str(folder.parent) for folder in folders)
        notes.append(f"no cache: cannot write {tried}; set EMOTION_LAB_CACHE=<folder>")
    counts = {name: cache.class_counts(arrays) for name, arrays in parsed.items()}
    return cache.CachedSplits({n: parsed[n] for n in splits if n in parsed}, counts)


def _check_classes(counts: dict[str, list[int]], cfg: dict, path: Path) -> None:
    """Refuse a train split that lacks one of the classes."""
    excluded = cfg.get("exclude") or []
    excluded = {canonical(str(n)) for n in ([excluded] if isinstance(excluded, str) else excluded)}
    missing = [
        name
        for name, count in zip(EMOTIONS, counts.get("train", [1] * len(EMOTIONS)), strict=True)
        if count == 0 and name not in excluded
    ]
    if missing:
        raise UserError(
            f"No Training image of {', '.join(missing)} in {path}; leave it out with "
            f"data.exclude=[{','.join(sorted({*missing, *(e for e in excluded if e)}))}]."
        )


def _split(arrays: Arrays) -> Split:
    indices = np.arange(len(arrays.labels), dtype=np.int64)
    return Split(ArrayStore(arrays.images), indices, arrays.labels, Fer2013Names(arrays.rows))


@DATASETS.register("fer2013")
def load(cfg: dict, splits: tuple[str, ...]) -> LoadedDataset:
    """Load FER2013: Training is train, PublicTest is val, PrivateTest is test.

    Args:
        cfg: The ``data`` group; ``path``, ``download`` and ``exclude`` are used.
        splits: Which splits to open; the others stay closed once the cache is built.

    Returns:
        Images uint8 (48, 48, 1), labels in the order of ``EMOTIONS``.

    Raises:
        UserError: If the file is missing, damaged or has a wrong row.
    """
    path = find_file(cfg)
    notes: list[str] = []
    try:
        data = _read(path, tuple(n for n in SPLITS if n in splits), notes)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error}. Set data.path=<file or folder>.") from error
    _check_classes(data.counts, cfg, path)
    return LoadedDataset(
        classes=list(EMOTIONS),
        splits={name: _split(arrays) for name, arrays in data.splits.items()},
        location=str(path),
        notes=notes,
        found=[name for name in USAGE.values() if name in data.counts],
    )
