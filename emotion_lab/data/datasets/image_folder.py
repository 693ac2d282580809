"""Image folders: ``train/`` + ``test/`` (+ ``val/``) with class folders, or class folders only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import class_key, class_order
from emotion_lab.data.file_store import FileStore
from emotion_lab.data.image_tree import Listing, list_images
from emotion_lab.data.images import check_bytes, check_file
from emotion_lab.data.pixel_hash import CHUNK_SIZE, file_digest, thread_pool
from emotion_lab.data.types import (
    DATASETS,
    SPLITS,
    LoadedDataset,
    Split,
    data_path,
    excluded_classes,
)


def _folder(cfg: dict[str, Any]) -> Path:
    """Return ``data.path``, which must be a folder."""
    name, setting = data_path(cfg)
    root = Path(name).expanduser()
    if not root.exists():
        raise UserError(
            f"No image folder: {root} (from {setting}) does not exist. "
            f"Set data.path=<folder>, or data=synthetic to try without data."
        )
    if not root.is_dir():
        hint = " Use data=fer2013 for a CSV." if ".csv" in root.name.lower() else ""
        raise UserError(
            f"{root} (from {setting}) is a file; data=image_folder needs a folder.{hint}"
        )
    return root


def _check_skipped(
    listing: Listing,
    opened: dict[str, Split],
    classes: list[str],
    excluded: set[str],
    skipped: list[tuple[str, str]],
) -> None:
    """Add a note on the skipped files; refuse if a class or more than half of the files is lost.

    Args:
        listing: All files, skipped ones included.
        opened: Split name -> its images, without the skipped ones.
        classes: Class names in label order.
        excluded: Keys of the classes in ``data.exclude``, which may be lost.
        skipped: (path, reason) of the skipped files.
    """
    if not skipped:
        return
    total = sum(len(part) for part in opened.values()) + len(skipped)
    share = f"{len(skipped):,} of {total:,} images ({len(skipped) / total:.1%})"
    first = "; ".join(f"{path} ({reason})" for path, reason in skipped[:5])
    more = f"; and {len(skipped) - 5:,} more" if len(skipped) > 5 else ""
    for split, part in opened.items():
        left = np.bincount(part.labels, minlength=len(classes))
        needed = set(listing.files[split]) - excluded
        lost = [name for i, name in enumerate(classes) if name in needed and not left[i]]
        if lost:
            raise UserError(
                f"data.on_decode_error=skip leaves no image of {', '.join(lost)} in {split} of "
                f"{listing.root}: {share} cannot be read. Replace them: {first}{more}."
            )
    if 2 * len(skipped) > total:
        raise UserError(
            f"More than half of {listing.root} cannot be read, {share}: copy the data again. "
            f"Files: {first}{more}."
        )
    listing.notes.append(f"skipped {share} that cannot be read: {first}{more}")


def _check_and_hash(paths: list[str]) -> list[tuple[str | None, bytes]]:
    """Return for each file why it is invalid (None if valid) and its digest."""
    results: list[tuple[str | None, bytes]] = []
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            results.append((error.strerror or "cannot be opened", b""))
            continue
        results.append((check_bytes(data), file_digest(data)))
    return results


def _scan(
    paths: list[str], on_invalid: Callable[[str, str], None]
) -> tuple[list[int], list[bytes]]:
    """Return positions and digests of the valid files; each file is read once, in parallel."""
    valid: list[int] = []
    digests: list[bytes] = []
    chunks = [paths[start : start + CHUNK_SIZE] for start in range(0, len(paths), CHUNK_SIZE)]
    pool = thread_pool()
    try:
        results = (result for chunk in pool.map(_check_and_hash, chunks) for result in chunk)
        for position, (reason, digest) in enumerate(results):
            if reason is None:
                valid.append(position)
                digests.append(digest)
            else:
                on_invalid(paths[position], reason)
    finally:
        pool.shutdown(cancel_futures=True)
    return valid, digests


def _read_split(
    listing: Listing, split: str, classes: list[str], on_invalid: Callable[[str, str], None]
) -> Split:
    """Return one split; its files are opened, checked and decoded here."""
    by_class = listing.files[split]
    pairs = [(f, i) for i, name in enumerate(classes) for f in sorted(by_class.get(name, []))]
    valid, digests = _scan([str(listing.root / file) for file, _ in pairs], on_invalid)
    pairs = [pairs[position] for position in valid]
    store = FileStore([str(listing.root / file) for file, _ in pairs], digests)
    opened = Split(
        store,
        np.arange(len(pairs), dtype=np.int64),
        np.array([label for _, label in pairs], dtype=np.int64),
        [file for file, _ in pairs],
    )
    damaged = store.unreadable()
    for path in (store.paths[position] for position in damaged):
        on_invalid(path, check_file(path) or "unreadable")
    return opened.subset(np.setdiff1d(opened.indices, damaged)) if damaged else opened


@DATASETS.register("image_folder")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Load folders of images.

    Args:
        cfg: The ``data`` group; ``path``, ``exclude``, ``label_scheme``, ``strict_labels``,
            ``group`` and ``on_decode_error`` are used.
        splits: The splits to open. Files of other splits are listed but not opened.

    Returns:
        Splits sorted by class, then path. The classes are the folder names of all splits and do
        not depend on ``splits``.
    """
    folder, excluded = _folder(cfg), {class_key(name) for name in excluded_classes(cfg)}
    try:
        strict, grouped = bool(cfg.get("strict_labels")), bool(cfg.get("group"))
        listing = list_images(folder, cfg.get("label_scheme"), strict, excluded, grouped)
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error}. Set data.path=<folder>.") from error
    return load_listing(listing, class_order(listing.folders), cfg, splits)


def load_listing(
    listing: Listing, classes: list[str], cfg: dict[str, Any], splits: tuple[str, ...]
) -> LoadedDataset:
    """Open the splits of listed files; the arguments are those of :func:`load`."""
    excluded = {class_key(name) for name in excluded_classes(cfg)}
    available = [name for name in SPLITS if listing.files.get(name)]
    skipped: list[tuple[str, str]] = []

    def on_invalid(path: str, reason: str) -> None:
        if cfg.get("on_decode_error") != "skip":
            raise UserError(
                f"Bad image {path}: {reason}. Remove it, or set data.on_decode_error=skip to leave "
                f"bad files out."
            )
        skipped.append((path, reason))

    opened = {
        name: _read_split(listing, name, classes, on_invalid)
        for name in available
        if name in splits
    }
    _check_skipped(listing, opened, classes, excluded, skipped)
    return LoadedDataset(
        classes,
        opened,
        str(listing.root),
        listing.notes,
        [path for path, _ in skipped],
        available,
        {name: list(folders) for name, folders in listing.folders.items()},
    )
