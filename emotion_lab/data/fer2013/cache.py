"""On-disk cache of the parsed CSV: one folder of arrays per file, verified before use.

A cache folder is written under a temporary name and renamed. Readers therefore never see a
partial cache, and two processes may build it at the same time.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.io import cache_root
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.fer2013.csv_reader import SIZE, Arrays

#: Version of the layout.
FORMAT = 1

_TEMPORARY = ".tmp-"
_STALE_SECONDS = 3600
_ARRAYS = ("images", "labels", "rows")


class CacheCorruptedError(Exception):
    """The cache folder exists, but its content has changed since it was written."""


@dataclass
class CachedSplits:
    """The requested splits, and two facts about every split of the file.

    Attributes:
        splits: The requested splits.
        counts: Split -> 7 image counts.
        rows: Split -> rows of the file, int64 (N,).
    """

    splits: dict[str, Arrays]
    counts: dict[str, list[int]]
    rows: dict[str, np.ndarray]


def class_counts(arrays: Arrays) -> list[int]:
    """Return the images of each emotion, 7 numbers."""
    return np.bincount(arrays.labels, minlength=len(EMOTIONS)).tolist()


def folders(source: Path) -> list[Path]:
    """Return the candidate cache folders of ``source``, preferred first.

    A changed file gets another folder: a valid cache is never overwritten while it is read.
    """
    key = _key(source.stat())
    # cache_root() is shared by files of many folders, so the path is part of the name there.
    return [
        source.parent / ".emotion_lab_cache" / _name(source, key),
        cache_root() / _name(source, {**key, "path": str(source.resolve())}),
    ]


def _key(stat: os.stat_result) -> dict[str, Any]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "format": FORMAT}


def _name(source: Path, key: dict[str, Any]) -> str:
    text = json.dumps(key, sort_keys=True).encode()
    return f"{source.name}-{hashlib.blake2b(text, digest_size=6).hexdigest()}"


def _checksum(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file that is not empty."""
    return {"bytes": path.stat().st_size, "crc32": zlib.crc32(np.memmap(path, np.uint8, "r").data)}


def read(folder: Path, source: Path, splits: tuple[str, ...]) -> CachedSplits | None:
    """Open the requested splits only, images memory-mapped; return None if there is no cache.

    Raises:
        CacheCorruptedError: If sizes, checksums or shapes differ from what was written.
    """
    try:
        if not folder.is_dir():
            return None
    except OSError:  # no permission
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["key"] != _key(source.stat()):
            raise CacheCorruptedError("meta.json belongs to another file")
        counts = {name: entry["counts"] for name, entry in meta["splits"].items()}
        entries = {name: meta["splits"][name] for name in splits if name in meta["splits"]}
        opened = {name: _read_split(folder, name, entry) for name, entry in entries.items()}
        rows = {
            name: np.load(_verified(folder, name, "rows", entry))
            for name, entry in meta["splits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheCorruptedError(str(error)) from error
    return CachedSplits(opened, counts, rows)


def _verified(folder: Path, name: str, array: str, entry: dict[str, Any]) -> Path:
    """Return the path of an array after comparing its checksum."""
    path = folder / f"{name}_{array}.npy"
    if _checksum(path) != entry["files"][array]:
        raise CacheCorruptedError(f"{path.name} was changed")
    return path


def _read_split(folder: Path, name: str, entry: dict[str, Any]) -> Arrays:
    images, labels, rows = (
        np.load(_verified(folder, name, array, entry), mmap_mode="r" if array == "images" else None)
        for array in _ARRAYS
    )
    n = entry["n"]
    if images.shape != (n, SIZE, SIZE, 1) or labels.shape != (n,) or rows.shape != (n,):
        raise CacheCorruptedError(f"{name} has the shape {images.shape}")
    return Arrays(images, labels, rows)


def write(folder: Path, stat: os.stat_result, splits: dict[str, Arrays]) -> None:
    """Write all ``splits`` to ``folder`` atomically; a damaged cache of that name is replaced.

    Args:
        stat: ``stat`` of the source, taken before it was parsed.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
    try:
        meta: dict[str, Any] = {"key": _key(stat), "splits": {}}
        for name, arrays in splits.items():
            files = {}
            for array in _ARRAYS:
                path = temporary / f"{name}_{array}.npy"
                np.save(path, getattr(arrays, array))
                files[array] = _checksum(path)
            n, counts = len(arrays.labels), class_counts(arrays)
            meta["splits"][name] = {"n": n, "counts": counts, "files": files}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp creates 0700, but other users may read the data folder
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Rename ``temporary`` to ``folder``; of several processes, the last one wins."""
    for _ in range(10):
        try:
            temporary.replace(folder)
            return
        except OSError:
            # A non-empty folder cannot be replaced: move it away first.
            if not folder.exists():
                raise
            old = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
            with contextlib.suppress(OSError):  # another process moved it first
                folder.replace(old / "old")
            shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"cannot replace {folder}")


def remove_stale(folder: Path, source: Path) -> None:
    """Remove caches of older versions of ``source`` and of killed processes next to ``folder``."""
    # In cache_root() the same name may belong to another file that is called fer2013.csv.
    next_to_source = folder.parent.parent == source.parent
    pattern = f"{glob.escape(source.name)}-{'?' * 12}"
    outdated = set(folder.parent.glob(pattern)) - {folder} if next_to_source else set()
    for build in folder.parent.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process removed it
            if time.time() - build.stat().st_mtime > _STALE_SECONDS:
                outdated.add(build)
    for path in outdated:
        shutil.rmtree(path, ignore_errors=True)
