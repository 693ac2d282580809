"""Any data set as a stream: WebDataset shards and their index, complete or not there at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.progress import track
from emotion_lab.data.datasets.image_folder import FileStore
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.shards.storage import META
from emotion_lab.data.shards.store import FORMAT, INDEX
from emotion_lab.data.splits import exclude, limit
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset, Split

#: What is known about what may be done with the images.
LICENCES: dict[str, str] = {
    "fer2013": "FER2013 (ICML 2013 challenge): the terms of the copy it came from apply",
    "synthetic": "drawn by emotion_lab; shows no person",
}
UNKNOWN_LICENCE = "not stated"

_BLOCK = 512


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _encoded(split: Split, position: int) -> tuple[bytes, str]:
    """Return the image file of an image and its kind; pixels become a PNG, which loses nothing.

    Raises:
        UserError: If its file changed after it was looked at.
    """
    store, index = split.store, int(split.indices[position])
    if isinstance(store, FileStore):
        path = Path(store.paths[index])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from None
        if hashlib.blake2b(data, digest_size=16).digest() != store.digest(index):
            raise UserError(f"{path} changed while the data was converted: start again.")
        return data, path.suffix.lower().lstrip(".")
    image = store[index]
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _write_shards(
    split: Split, name: str, folder: Path, shard_bytes: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Write the images of a split in random order, a new shard whenever one is full.

    Returns:
        Their index, ``INDEX`` (N,) in the order of ``split``, and (file, bytes) of each shard.
    """
    from webdataset import TarWriter

    n = len(split)
    index = np.zeros(n, INDEX)
    order: Any = np.arange(n)
    if name == "train":
        # A folder comes sorted by class: a few of its shards together would not be a fair sample.
        # The last number keeps this order apart from every (seed, epoch) of training.
        order = np.random.default_rng((0, 0, 0, 1)).permutation(n)
    shards: list[dict[str, Any]] = []
    writer: Any = None
    place = 0

    def close() -> None:
        if writer is None:
            return
        # The place of every image is worked out here and written by the library: hold it to that.
        assert writer.tarstream.offset == place
        writer.close()
        shards[-1]["bytes"] = (folder.parent / shards[-1]["file"]).stat().st_size

    for position in track(order.tolist(), f"{name}: {n:,} images", n):
        data, kind = _encoded(split, position)
        fields = {"cls": str(int(split.labels[position])).encode(), kind: data}
        if writer is None or place + _padded(len(data)) + 3 * _BLOCK > shard_bytes:
            close()
            shards.append({"file": f"{name}/{len(shards):06d}.tar"})
            # A fixed time: the same data gives the same bytes.
            writer = TarWriter(str(folder.parent / shards[-1]["file"]), encoder=False, mtime=0)
            place = 0
        writer.write({"__key__": f"{position:09d}", **fields})
        for field in sorted(fields):
            place += _BLOCK
            if field == kind:
                row = index[position]
                row["shard"], row["offset"], row["size"] = len(shards) - 1, place, len(data)
            place += _padded(len(fields[field]))
    close()
    index["label"] = split.labels
    return index, shards


def _described(path: Path, root: Path) -> dict[str, Any]:
    return {
        "file": path.relative_to(root).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
    }


def _write_split(
    split: Split, name: str, classes: list[str], root: Path, shard_bytes: int
) -> dict[str, Any]:
    """Write one split into ``root/<name>``; returns its entry in ``stream.json``."""
    folder = root / name
    folder.mkdir()
    index, shards = _write_shards(split, name, folder, shard_bytes)
    ends = 0
    with (folder / "names.bin").open("wb") as file:
        for position in range(len(split)):
            index[position]["digest"] = np.void(split.store.digest(int(split.indices[position])))
            ends += file.write(str(split.names[position]).encode("utf-8", "surrogateescape"))
            index[position]["name"] = ends
    np.save(folder / "index.npy", index)
    return {
        "n": len(split),
        "digest_of": "file" if isinstance(split.store, FileStore) else "pixels",
        "decoded_bytes": int(split.store.size_hint() * len(split) / max(len(split.store), 1)),
        "fingerprint": fingerprint(split, classes),
        "shards": shards,
        "index": _described(folder / "index.npy", root),
        "names": _described(folder / "names.bin", root),
    }


def open_source(cfg: dict[str, Any]) -> LoadedDataset:
    """Open every split of a data set as its loader gives it; nothing is cut or cleaned.

    Args:
        cfg: The ``data`` group; ``exclude`` and ``limit`` are followed.

    Raises:
        UserError: If the data cannot be read.
    """
    load = DATASETS.get(str(cfg["name"]))
    found = load(cfg, ()).found or list(SPLITS)
    source = exclude(load(cfg, tuple(found)), cfg.get("exclude"))
    seed = int(cfg.get("split_seed") or 0)
    source.splits = {
        name: limit(part, cfg.get("limit"), seed)
        for name, part in source.splits.items()
        if len(part)
    }
    return source


def write_stream(
    source: LoadedDataset, name: str, out: Path, shard_bytes: int, licence: str | None = None
) -> dict[str, Any]:
    """Write a source as a stream.

    Everything goes into a hidden folder beside ``out``, which gets its name when all is written:
    an interrupted conversion leaves nothing that could be taken for a stream.

    Args:
        source: All splits to write.
        name: What the data set is called.
        out: Folder to make; it must not exist.
        shard_bytes: Size of a shard, about.
        licence: What may be done with the images; None says what is known.

    Returns:
        The content of ``stream.json``.

    Raises:
        UserError: If ``out`` exists, cannot be written, or is being written by another process.
    """
    import webdataset
    from filelock import FileLock, Timeout

    from emotion_lab import __version__

    part = out.with_name(f".{out.name}.part")
    lock = FileLock(f"{part}.lock", timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is writing {out}: wait for it, or name another."
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): name another folder.") from None
    try:
        if out.exists():
            raise UserError(f"out={out} exists, and nothing is replaced: name a new folder.")
        shutil.rmtree(part, ignore_errors=True)  # what a killed process left
        part.mkdir()
        meta = {
            "format": FORMAT,
            "source": name,
            "licence": licence or LICENCES.get(name, UNKNOWN_LICENCE),
            "classes": source.classes,
            "folders": source.folders,
            "notes": [f"{len(source.skipped)} unreadable files left out"] if source.skipped else [],
            "written_by": {"emotion_lab": __version__, "webdataset": webdataset.__version__},
            "splits": {
                split: _write_split(part_of, split, source.classes, part, shard_bytes)
                for split, part_of in source.splits.items()
            },
        }
        (part / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        os.replace(part, out)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}); nothing was left behind. Free some "
            "space, or name another folder."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
    return meta
