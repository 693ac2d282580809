"""The parsed CSV on disk: one folder of arrays per file, checked before use.

A cache folder is written under a temporary name and renamed, so a reader sees all of it or
nothing, and two processes that build it at once both end with a good one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotion_lab.core.io import cache_root
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.fer2013.csv_reader import SIZE, Arrays

#: Raise it when the files below change meaning.
FORMAT = 1

_TEMPORARY = ".tmp-"
_STALE_SECONDS = 3600
_PARTS = ("images", "labels", "rows")


class CacheCorruptedError(Exception):
    """The folder is there and what it holds is not what was written."""


@dataclass
class CachedSplits:
    """What a cache gave.

    Attributes:
        splits: The splits that were asked for and exist.
        counts: Images of every class, (7,) each, for every split of the file.
    """

    splits: dict[str, Arrays]
    counts: dict[str, list[int]]


def class_counts(arrays: Arrays) -> list[int]:
    """Return how many images each of the seven emotions has."""
    return np.bincount(arrays.labels, minlength=len(EMOTIONS)).tolist()


def folders(source: Path) -> list[Path]:
    """Return where the cache of ``source`` may stand, best first.

    The key is part of the folder name: a changed file has another folder, and a good cache is
    never overwritten while somebody reads it.
    """
    stat = source.stat()
    key = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "format": FORMAT}
    # Files of many folders share the spare root, so their path belongs to the name there.
    return [
        source.parent / ".emotion_lab_cache" / _name(source, key),
        cache_root() / _name(source, {**key, "path": str(source.resolve())}),
    ]


def _name(source: Path, key: dict) -> str:
    text = json.dumps(key, sort_keys=True).encode()
    return f"{source.name}-{hashlib.blake2b(text, digest_size=6).hexdigest()}"


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def read(folder: Path, source: Path, splits: tuple[str, ...]) -> CachedSplits | None:
    """Open the splits asked for, and no others.

    Returns:
        The arrays (images memory-mapped), or None when there is no cache.

    Raises:
        CacheDamaged: If lengths, checksums or shapes differ from what was written.
    """
    try:
        if not folder.is_dir():
            return None
    except OSError:  # a place we may not look into
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        stat = source.stat()
        key = meta["key"]
        if (key["size"], key["mtime_ns"], key["format"]) != (
            stat.st_size,
            stat.st_mtime_ns,
            FORMAT,
        ):
            raise CacheCorruptedError("meta.json belongs to another file")
        counts = {name: entry["counts"] for name, entry in meta["splits"].items()}
        opened = {
            name: _read_split(folder, name, meta["splits"][name])
            for name in splits
            if name in meta["splits"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheCorruptedError(str(error)) from error
    return CachedSplits(opened, counts)


def _read_split(folder: Path, name: str, entry: dict) -> Arrays:
    for part in _PARTS:
        path = folder / f"{name}_{part}.npy"
        written = entry["files"][part]
        if path.stat().st_size != written["bytes"] or _crc(path) != written["crc32"]:
            raise CacheCorruptedError(f"{path.name} was changed")
    images, labels, rows = (
        np.load(folder / f"{name}_{part}.npy", mmap_mode="r" if part == "images" else None)
        for part in _PARTS
    )
    n = entry["n"]
    if images.shape != (n, SIZE, SIZE, 1) or labels.shape != (n,) or rows.shape != (n,):
        raise CacheCorruptedError(f"{name} has the shape {images.shape}")
    return Arrays(images, labels, rows)


def write(folder: Path, key_of: os.stat_result, splits: dict[str, Arrays]) -> None:
    """Write all ``splits`` to ``folder`` in one step.

    Args:
        folder: Final name; replaced when it holds a damaged cache.
        key_of: ``stat`` of the source, taken before it was parsed.
        splits: Arrays of every split of the file.

    Raises:
        OSError: If the place cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
    try:
        meta: dict = {
            "key": {"size": key_of.st_size, "mtime_ns": key_of.st_mtime_ns, "format": FORMAT},
            "splits": {},
        }
        for name, arrays in splits.items():
            files = {}
            for part in _PARTS:
                path = temporary / f"{name}_{part}.npy"
                np.save(path, getattr(arrays, part))
                files[part] = {"bytes": path.stat().st_size, "crc32": _crc(path)}
            meta["splits"][name] = {
                "n": len(arrays.labels),
                "counts": class_counts(arrays),
                "files": files,
            }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes 0700; a shared data folder is read by others
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Give ``temporary`` its final name; whoever comes last wins with the same content."""
    for _ in range(10):
        try:
            os.replace(temporary, folder)
            return
        except OSError:
            # A folder that is not empty cannot be replaced: move it away first.
            if not folder.exists():
                raise
            old = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
            try:
                os.replace(folder, old / "old")
            except OSError:
                pass  # another process moved it first
            finally:
                shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"cannot replace {folder}")


def tidy(folder: Path, source: Path) -> None:
    """Remove what older versions of ``source`` and killed processes left beside ``folder``."""
    beside = folder.parent.parent == source.parent
    try:
        others = list(folder.parent.iterdir())
    except OSError:
        return
    for other in others:
        if other == folder or not other.is_dir():
            continue
        try:
            old = time.time() - other.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        stale_build = other.name.startswith(_TEMPORARY) and old
        # Names in the spare root may belong to another file that is also called fer2013.csv.
        stem, _, key = other.name.rpartition("-")
        outdated = beside and stem == source.name and len(key) == 12
        if stale_build or outdated:
            shutil.rmtree(other, ignore_errors=True)
