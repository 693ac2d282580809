"""Image folders: ``train/`` + ``test/`` (+ ``val/``) with class folders, or class folders only."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import EMOTIONS, canonical, class_order
from emotion_lab.data.file_store import FileStore
from emotion_lab.data.images import IMAGE_SUFFIXES, check_bytes, is_image_name
from emotion_lab.data.pixel_hash import CHUNK_SIZE, file_digest, thread_pool
from emotion_lab.data.types import (
    DATASETS,
    SPLITS,
    LoadedDataset,
    Split,
    class_key,
    data_path,
    excluded_classes,
    subfolders,
)

_SPLIT_FOLDERS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
#: File name prefixes of FER2013 exports -> split of the challenge.
_PREFIXES: dict[str, str] = {"Training_": "train", "PublicTest_": "val", "PrivateTest_": "test"}


@dataclass
class _Listing:
    """Files of each split and class, found without opening any file.

    Attributes:
        root: Folder that all paths are relative to.
        files: Split -> class -> relative paths with forward slashes.
        folders: Class -> folders of the class, relative to ``root``.
        notes: Lines to print.
        moved: Whether a file name prefix assigned a file to another split than its folder.
    """

    root: Path
    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    moved: bool = False


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split name -> split folder in ``root``."""
    folders: dict[str, Path] = {}
    for folder in subfolders(root):
        split = _SPLIT_FOLDERS.get(folder.name.lower())
        if split is None:
            continue
        if split in folders:
            raise UserError(
                f"Both {folders[split]} and {folder} are folders of the {split} split; "
                f"rename or merge one of them."
            )
        folders[split] = folder
    return {name: folders[name] for name in SPLITS if name in folders}


def _resolve_root(cfg: dict[str, Any]) -> Path:
    """Return the folder that contains the split or class folders."""
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
    children = subfolders(root)
    # Archives often unpack to one folder around train/ and test/.
    if len(children) == 1 and not _split_folders(root) and _split_folders(children[0]):
        root = children[0]
    return root


def _list_class(folder: Path, root: Path, ignored: Counter[str]) -> list[str]:
    """Return the image files below ``folder``, relative to ``root``, sorted.

    ``ignored``, the number of other files by extension, is updated.
    """
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(root).as_posix()
        for name in names:
            if name.startswith("."):
                continue
            if is_image_name(name):
                files.append(f"{relative}/{name}")
            else:
                ignored[Path(name).suffix.lower() or "no extension"] += 1
    return sorted(files)


def _list_split(
    listing: _Listing, split: str, folder: Path, ignored: Counter[str], strict: bool
) -> None:
    """Add the class folders in ``folder`` to the listing."""
    merged: dict[str, list[str]] = defaultdict(list)
    for class_folder in subfolders(folder):
        relative = class_folder.relative_to(listing.root).as_posix()
        if strict and canonical(class_folder.name) is None:
            raise unknown(
                "class folder",
                relative,
                EMOTIONS,
                "Rename it, or set data.strict_labels=false to keep it as a class.",
            )
        name = class_key(class_folder.name)
        merged[name].append(relative)
        listing.folders[name].append(relative)
        for file in _list_class(class_folder, listing.root, ignored):
            target = split
            # The split of an explicit val/ folder has priority over the prefix.
            if split != "val":
                base = file.rsplit("/", 1)[-1]
                target = next((s for p, s in _PREFIXES.items() if base.startswith(p)), split)
            listing.moved = listing.moved or target != split
            listing.files.setdefault(target, {}).setdefault(name, []).append(file)
    for name, folders in merged.items():
        if len(folders) > 1:
            listing.notes.append(f"{' and '.join(folders)} are read as one class, {name}")


def _list(root: Path, strict: bool) -> _Listing:
    """Find splits, classes and files; ``strict`` refuses class names other than the emotions."""
    listing = _Listing(root)
    splits = _split_folders(root)
    ignored: Counter[str] = Counter()
    num_loose = 0
    for split, folder in (splits or {"train": root}).items():
        num_loose += sum(
            p.is_file() and is_image_name(p.name) and p.name[0] != "." for p in folder.iterdir()
        )
        _list_split(listing, split, folder, ignored, strict)
    if not any(listing.files.values()):
        raise _no_images(root, num_loose)
    numbered = [
        folder
        for name in class_order(listing.folders)
        for folder in listing.folders[name]
        if name in EMOTIONS and folder.rsplit("/", 1)[-1].strip().isdigit()
    ]
    if numbered:
        listing.notes.append(
            "numbered class folders are read in FER2013's order, 0 = angry to 6 = neutral: "
            + ", ".join(numbered[:7])
        )
    others = [p.name for p in subfolders(root) if p not in splits.values()] if splits else []
    if others:
        listing.notes.append(f"ignored folders next to the splits: {', '.join(others[:5])}")
    if listing.moved:
        listing.notes.append("files named PublicTest_ are val, PrivateTest_ test, Training_ train")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        listing.notes.append(f"ignored files that are not images: {kinds}")
    if num_loose:
        listing.notes.append(f"ignored {num_loose} images outside class folders")
    return listing


def _no_images(root: Path, num_loose: int) -> UserError:
    """Return the error for a folder without class folders that contain images."""
    if num_loose:
        return UserError(
            f"{root} holds {num_loose} images but no class folders; put every image in a folder "
            f"named after its class, for instance {root / 'happy'}."
        )
    if any(p.name.lower().startswith(("fer2013.", "icml_face_data.")) for p in root.iterdir()):
        return UserError(f"{root} holds the FER2013 file, not images: use data=fer2013.")
    return UserError(
        f"No images ({', '.join(sorted(IMAGE_SUFFIXES))}) in class folders below {root}; set "
        "data.path=<folder with train/ and test/, or with one folder for each class>."
    )


def _check_train(listing: _Listing, counts: dict[str, int], cfg: dict[str, Any]) -> None:
    """Refuse a class without train images that ``data.exclude`` does not name."""
    names = excluded_classes(cfg)
    excluded = {class_key(name) for name in names}
    for name in class_order(listing.folders):
        if not counts.get(name) and name not in excluded:
            raise UserError(
                f"Class folder {listing.root / listing.folders[name][0]} has no images in train; "
                f"add some or set data.exclude=[{','.join([*names, name])}]."
            )


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
    listing: _Listing, split: str, classes: list[str], on_invalid: Callable[[str, str], None]
) -> Split:
    """Return one split; its files are opened and checked here."""
    by_class = listing.files[split]
    pairs = [(f, i) for i, name in enumerate(classes) for f in sorted(by_class.get(name, []))]
    valid, digests = _scan([str(listing.root / file) for file, _ in pairs], on_invalid)
    pairs = [pairs[position] for position in valid]
    return Split(
        FileStore([str(listing.root / file) for file, _ in pairs], digests),
        np.arange(len(pairs), dtype=np.int64),
        np.array([label for _, label in pairs], dtype=np.int64),
        [file for file, _ in pairs],
    )


@DATASETS.register("image_folder")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Load folders of images.

    Args:
        cfg: The ``data`` group; ``path``, ``exclude``, ``strict_labels`` and ``on_decode_error``
            are used.
        splits: The splits to open. Files of other splits are listed but not opened.

    Returns:
        Splits sorted by class, then path. The classes are the folder names of all splits and do
        not depend on ``splits``.
    """
    root = _resolve_root(cfg)
    try:
        listing = _list(root, bool(cfg.get("strict_labels")))
    except OSError as error:
        raise UserError(f"Cannot read {root}: {error}. Set data.path=<folder>.") from error
    classes = class_order(listing.folders)
    available = [name for name in SPLITS if listing.files.get(name)]
    if "train" in available:
        counts = {name: len(files) for name, files in listing.files["train"].items()}
        _check_train(listing, counts, cfg)

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
    if "train" in opened:
        numbers = Counter(opened["train"].labels.tolist())
        _check_train(listing, {classes[label]: n for label, n in numbers.items()}, cfg)
    if skipped:
        first = "; ".join(f"{path} ({reason})" for path, reason in skipped[:5])
        listing.notes.append(f"skipped {len(skipped)} bad files: {first}")
    return LoadedDataset(
        classes,
        opened,
        str(root),
        listing.notes,
        [path for path, _ in skipped],
        available,
        {name: list(folders) for name, folders in listing.folders.items()},
    )
