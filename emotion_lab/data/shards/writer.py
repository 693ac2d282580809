"""Writer of a dataset as WebDataset shards with an index; the output is complete or absent."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.progress import track
from emotion_lab.data.file_store import FileStore
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.pixel_hash import file_digest
from emotion_lab.data.shards.storage import META
from emotion_lab.data.shards.store import FORMAT, INDEX
from emotion_lab.data.splits import exclude_classes, subsample
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset, Split, excluded_classes

#: Dataset name -> licence of the images.
LICENCES: dict[str, str] = {
    "fer2013": "FER2013 (ICML 2013 challenge): the terms of the copy it came from apply",
    "synthetic": "synthetic, rendered by emotion_lab; shows no person",
}
UNKNOWN_LICENCE = "not stated"

#: Block size of a tar file in bytes.
_BLOCK = 512


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _encode(split: Split, position: int) -> tuple[bytes, str, bytes]:
    """Return the encoded image, its extension and the hash of its content.

    Arrays are encoded as PNG, which is lossless; their content is the array.
    """
    store, index = split.store, int(split.indices[position])
    if isinstance(store, FileStore):
        path = Path(store.paths[index])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from None
        digest = file_digest(data)
        if digest != store.file_digest(index):
            raise UserError(f"{path} changed while the data was sharded: start again.")
        return data, path.suffix.lower().lstrip("."), digest
    image = store[index]
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue(), "png", file_digest(image.tobytes())


def _write_tar_files(
    split: Split, name: str, root: Path, shard_bytes: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Write the images of a split to tar files of about ``shard_bytes``; train is shuffled.

    Returns ``INDEX`` (N,) in the order of ``split``, and ``file`` and ``bytes`` of each shard.
    """
    from webdataset import TarWriter

    n = len(split)
    index = np.zeros(n, INDEX)
    order: Any = np.arange(n)
    if name == "train":
        # Image folders are sorted by class, so a buffer of a few shards would not be a random
        # sample. The fourth number makes this order differ from every (seed, epoch) of training.
        order = np.random.default_rng((0, 0, 0, 1)).permutation(n)
    shards: list[dict[str, Any]] = []
    writer: Any = None
    offset = 0

    def close() -> None:
        if writer is None:
            return
        # The offsets of the index are computed here, but the library writes the file.
        assert writer.tarstream.offset == offset
        writer.close()
        shards[-1]["bytes"] = (root / shards[-1]["file"]).stat().st_size

    for position in track(order.tolist(), f"{name}: {n:,} images", n):
        data, extension, digest = _encode(split, position)
        fields = {"cls": str(int(split.labels[position])).encode(), extension: data}
        if writer is None or offset + _padded(len(data)) + 3 * _BLOCK > shard_bytes:
            close()
            shards.append({"file": f"{name}/{len(shards):06d}.tar"})
            # A constant mtime, so that the same data gives the same bytes.
            writer = TarWriter(str(root / shards[-1]["file"]), encoder=False, mtime=0)
            offset = 0
        index[position]["digest"] = np.void(digest)
        writer.write({"__key__": f"{position:09d}", **fields})
        for field in sorted(fields):
            offset += _BLOCK
            if field == extension:
                row = index[position]
                row["shard"], row["offset"], row["size"] = len(shards) - 1, offset, len(data)
            offset += _padded(len(fields[field]))
    close()
    index["label"] = split.labels
    return index, shards


def _file_entry(path: Path, root: Path) -> dict[str, Any]:
    return {
        "file": path.relative_to(root).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": file_hash(path),
    }


def _write_split(
    split: Split, name: str, classes: list[str], root: Path, shard_bytes: int
) -> dict[str, Any]:
    """Write one split to ``root/<name>`` and return its entry for ``stream.json``."""
    folder = root / name
    folder.mkdir()
    index, shards = _write_tar_files(split, name, root, shard_bytes)
    end = 0
    with (folder / "names.bin").open("wb") as file:
        for position in range(len(split)):
            index[position]["pixels"] = np.void(split.store.digest(int(split.indices[position])))
            end += file.write(str(split.names[position]).encode("utf-8", "surrogateescape"))
            index[position]["name"] = end
    np.save(folder / "index.npy", index)
    return {
        "n": len(split),
        "digest_of": "file" if isinstance(split.store, FileStore) else "pixels",
        "decoded_bytes": int(split.store.size_hint() * len(split) / max(len(split.store), 1)),
        "fingerprint": fingerprint(split, classes),
        "shards": shards,
        "index": _file_entry(folder / "index.npy", root),
        "names": _file_entry(folder / "names.bin", root),
    }


def open_all_splits(cfg: dict[str, Any]) -> LoadedDataset:
    """Open every split of a dataset; only ``data.exclude`` and ``data.limit`` are applied."""
    load = DATASETS.get(str(cfg["name"]))
    names = load(cfg, ()).available_splits or list(SPLITS)
    source = exclude_classes(load(cfg, tuple(names)), excluded_classes(cfg))
    seed = int(cfg.get("split_seed") or 0)
    source.splits = {
        name: subsample(split, cfg.get("limit"), seed)
        for name, split in source.splits.items()
        if len(split)
    }
    return source


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder next to ``out`` that is renamed to ``out`` if no error occurs.

    A lock file prevents two processes from writing the same folder.
    """
    from filelock import FileLock, Timeout

    temporary = out.with_name(f".{out.name}.part")
    lock = FileLock(f"{temporary}.lock", timeout=0)
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
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        temporary.mkdir()
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}); no partial output is left. Free some "
            "space, or name another folder."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def write_shards(
    source: LoadedDataset, name: str, out: Path, shard_bytes: int, licence: str | None = None
) -> dict[str, Any]:
    """Write a dataset as shards. ``out`` appears only after all files are written.

    Args:
        source: All splits to write.
        name: Name of the dataset.
        out: Folder to create.
        shard_bytes: Approximate size of a shard.
        licence: Licence of the images; None uses ``LICENCES``.

    Returns:
        The content of ``stream.json``.
    """
    import webdataset

    from emotion_lab import __version__

    with _new_folder(out) as root:
        meta = {
            "format": FORMAT,
            "source": name,
            "licence": licence or LICENCES.get(name, UNKNOWN_LICENCE),
            "classes": source.classes,
            "folders": source.class_folders,
            "notes": [f"{len(source.skipped)} unreadable files left out"] if source.skipped else [],
            "written_by": {"emotion_lab": __version__, "webdataset": webdataset.__version__},
            "splits": {
                split_name: _write_split(split, split_name, source.classes, root, shard_bytes)
                for split_name, split in source.splits.items()
            },
        }
        (root / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return meta
