"""Folders of image files: ``train/`` + ``test/`` (+ ``val/``), or one folder of classes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import EMOTIONS, canonical, class_order
from emotion_lab.data.images import check_bytes, read_image
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset, Split

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

_SPLIT_FOLDERS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
#: Exports of FER2013 keep the challenge's split in the file name.
_PREFIXES: dict[str, str] = {"Training_": "train", "PublicTest_": "val", "PrivateTest_": "test"}

_CHUNK = 128
_SIZE_SAMPLES = 64


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4))


class FileStore:
    """Images in files, decoded when asked for.

    Args:
        paths: Files.
        digests: Content hashes of the files, 16 bytes each, where they are known.
    """

    def __init__(self, paths: list[str], digests: list[bytes] | None = None) -> None:
        self.paths = paths
        self._digests: list[bytes | None] = list(digests) if digests else [None] * len(paths)
        self._size_hint: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    def digest(self, index: int) -> bytes:
        """Return the blake2b-16 hash of the bytes of file ``index``."""
        known = self._digests[index]
        if known is None:
            try:
                known = _digest(Path(self.paths[index]).read_bytes())
            except OSError as error:
                raise UserError(f"Cannot read {self.paths[index]}: {error.strerror}.") from error
            self._digests[index] = known
        return known

    def compute_digests(self) -> None:
        """Hash every file that was not hashed yet, several at a time."""
        with _pool() as pool:
            list(pool.map(self.digest, range(len(self)), chunksize=_CHUNK))

    def size_hint(self) -> int:
        """Return the bytes of all images once decoded, told from up to 64 headers."""
        if self._size_hint is None:
            sizes = []
            picks = np.linspace(0, len(self) - 1, min(len(self), _SIZE_SAMPLES)).astype(int)
            for pick in picks:
                try:
                    with open(self.paths[pick], "rb") as stream, Image.open(stream) as image:
                        grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
                        sizes.append(image.width * image.height * (1 if grey else 3))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    continue
            self._size_hint = int(np.mean(sizes) * len(self)) if sizes else 0
        return self._size_hint


@dataclass
class _Listing:
    """What the folders hold, told from names alone.

    Attributes:
        root: Folder that names are relative to.
        files: Split -> class -> relative paths with forward slashes.
        folders: Class -> the folders that stand for it, relative to ``root``.
        notes: Lines worth printing.
    """

    root: Path
    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)


def _subfolders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the split folders right below ``root``, by our names."""
    found: dict[str, Path] = {}
    for folder in _subfolders(root):
        split = _SPLIT_FOLDERS.get(folder.name.lower())
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"Both {found[split]} and {folder} stand for the {split} split; "
                f"rename or merge one of them."
            )
        found[split] = folder
    return {name: found[name] for name in SPLITS if name in found}


def _resolve_root(cfg: dict) -> Path:
    """Return the folder that holds the splits or the classes."""
    if cfg.get("path"):
        root, setting = Path(str(cfg["path"])).expanduser(), "data.path"
    elif os.environ.get("EMOTION_LAB_DATA"):
        root, setting = Path(os.environ["EMOTION_LAB_DATA"]).expanduser(), "$EMOTION_LAB_DATA"
    else:
        root, setting = Path("data"), "the default"
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
    inside = _subfolders(root)
    # Archives often unpack to one folder around train/ and test/.
    if len(inside) == 1 and not _split_folders(root) and _split_folders(inside[0]):
        root = inside[0]
    return root


def _list_class(folder: Path, root: Path, ignored: Counter) -> list[str]:
    """Return the image files below ``folder``, relative to ``root``, sorted."""
    files = []
    for parent, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = Path(parent).relative_to(root).as_posix()
        for name in names:
            if name.startswith("."):
                continue
            if _is_image(name):
                files.append(f"{relative}/{name}")
            else:
                ignored[os.path.splitext(name)[1].lower() or "no extension"] += 1
    return sorted(files)


def _list(root: Path, strict: bool) -> _Listing:
    """Find splits, classes and files without opening any file."""
    listing = _Listing(root)
    splits = _split_folders(root)
    tops = splits or {"train": root}
    ignored: Counter = Counter()
    loose = 0
    moved = False
    for split, top in tops.items():
        loose += sum(p.is_file() and _is_image(p.name) and p.name[0] != "." for p in top.iterdir())
        merged: dict[str, list[str]] = defaultdict(list)
        for folder in _subfolders(top):
            known = canonical(folder.name)
            relative = folder.relative_to(root).as_posix()
            if known is None and strict:
                raise unknown(
                    "class folder",
                    relative if splits else folder.name,
                    EMOTIONS,
                    "Rename it, or set data.strict_labels=false to keep it as a class.",
                )
            name = known or folder.name.strip().lower()
            merged[name].append(relative)
            listing.folders[name].append(relative)
            for file in _list_class(folder, root, ignored):
                target = split
                # A val/ folder was made on purpose; what stands in it is val.
                if split != "val":
                    base = file.rsplit("/", 1)[-1]
                    target = next((s for p, s in _PREFIXES.items() if base.startswith(p)), split)
                moved = moved or target != split
                listing.files.setdefault(target, {}).setdefault(name, []).append(file)
        for name, folders in merged.items():
            if len(folders) > 1:
                listing.notes.append(f"{' and '.join(folders)} are read as one class, {name}")
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
    if splits:
        others = [p.name for p in _subfolders(root) if p not in splits.values()]
        if others:
            listing.notes.append(f"ignored folders beside the splits: {', '.join(others[:5])}")
    if moved:
        listing.notes.append("files named PublicTest_ are val, PrivateTest_ test, Training_ train")
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        listing.notes.append(f"ignored files that are no images: {kinds}")
    if not any(listing.files.values()):
        _refuse_empty(listing, loose)
    if loose:
        listing.notes.append(f"ignored {loose} images outside class folders")
    return listing


def _refuse_empty(listing: _Listing, loose: int) -> None:
    """Raise the error for a folder without a single usable image."""
    root = listing.root
    kinds = ", ".join(sorted(EXTENSIONS))
    if loose:
        raise UserError(
            f"{root} holds {loose} images but no class folders; put every image in a folder "
            f"named after its class, for instance {root / 'happy'}."
        )
    if any(p.name.lower().startswith(("fer2013.", "icml_face_data.")) for p in root.iterdir()):
        raise UserError(f"{root} holds the FER2013 file, not images: use data=fer2013.")
    raise UserError(
        f"No images ({kinds}) in class folders below {root}; set data.path=<folder with train/ "
        f"and test/, or with one folder for each class>."
    )


def _check_train(listing: _Listing, counts: dict[str, int], cfg: dict) -> None:
    """Refuse a class that has no image to learn from.

    Args:
        listing: What the folders hold.
        counts: Train images of every class.
        cfg: The ``data`` group, for ``exclude``.
    """
    names = cfg.get("exclude") or []
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    excluded = {canonical(name) or name.strip().lower() for name in names}
    for name in class_order(listing.folders):
        if not counts.get(name) and name not in excluded:
            raise UserError(
                f"Class folder {listing.root / listing.folders[name][0]} has no images in train; "
                f"add some or set data.exclude=[{','.join([*names, name])}]."
            )


def _scan(paths: list[str], on_bad: Callable[[str, str], None]) -> tuple[list[int], list[bytes]]:
    """Check and hash every file in one read.

    Returns:
        Positions of the good files, and their digests.
    """

    def look(chunk: list[str]) -> list[tuple[str | None, bytes]]:
        results: list[tuple[str | None, bytes]] = []
        for path in chunk:
            try:
                with open(path, "rb") as stream:
                    data = stream.read()
            except OSError as error:
                results.append((error.strerror or "cannot be opened", b""))
                continue
            results.append((check_bytes(data), _digest(data)))
        return results

    good: list[int] = []
    digests: list[bytes] = []
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    pool = _pool()
    try:
        for number, results in enumerate(pool.map(look, chunks)):
            for offset, (reason, digest) in enumerate(results):
                position = number * _CHUNK + offset
                if reason is None:
                    good.append(position)
                    digests.append(digest)
                else:
                    on_bad(paths[position], reason)
    finally:
        pool.shutdown(cancel_futures=True)
    return good, digests


def _read_split(
    listing: _Listing, split: str, classes: list[str], on_bad: Callable[[str, str], None]
) -> Split:
    """Build one split; this is where its files are opened."""
    by_class = listing.files[split]
    pairs = [(f, i) for i, name in enumerate(classes) for f in sorted(by_class.get(name, []))]
    good, digests = _scan([str(listing.root / file) for file, _ in pairs], on_bad)
    pairs = [pairs[position] for position in good]
    return Split(
        FileStore([str(listing.root / file) for file, _ in pairs], digests),
        np.arange(len(pairs), dtype=np.int64),
        np.array([label for _, label in pairs], dtype=np.int64),
        [file for file, _ in pairs],
    )


@DATASETS.register("image_folder")
def load(cfg: dict, splits: tuple[str, ...]) -> LoadedDataset:
    """Load folders of images.

    Args:
        cfg: The ``data`` group; ``path``, ``exclude``, ``strict_labels`` and ``on_decode_error`` are
            used.
        splits: Which splits to open. Names of files in other splits are read, bytes are not.

    Returns:
        Splits sorted by class, then path. The class set is that of the folder names of all
        splits, so that it does not depend on ``splits``.

    Raises:
        UserError: If there is nothing to read, a class has no image in train, or a file is bad
            and ``on_decode_error`` is ``raise``.
    """
    on_error = cfg.get("on_decode_error") or "raise"
    if on_error not in ("raise", "skip"):
        raise unknown("data.on_decode_error", on_error, ("raise", "skip"), "Set data.on_decode_error=<name>.")
    root = _resolve_root(cfg)
    try:
        listing = _list(root, bool(cfg.get("strict_labels")))
    except OSError as error:
        raise UserError(f"Cannot look into {root}: {error}. Set data.path=<folder>.") from error
    classes = class_order(listing.folders)
    found = [name for name in SPLITS if listing.files.get(name)]
    if "train" in found:
        counts = {name: len(files) for name, files in listing.files["train"].items()}
        _check_train(listing, counts, cfg)

    skipped: list[tuple[str, str]] = []

    def on_bad(path: str, reason: str) -> None:
        if on_error == "raise":
            raise UserError(
                f"Bad image {path}: {reason}. Remove it, or set data.on_decode_error=skip to leave "
                f"bad files out."
            )
        skipped.append((path, reason))

    source = LoadedDataset(classes=classes, splits={}, location=str(root), found=found)
    source.folders = {name: list(folders) for name, folders in listing.folders.items()}
    for name in found:
        if name in splits:
            source.splits[name] = _read_split(listing, name, classes, on_bad)
    if "train" in source.splits:
        numbers = Counter(source.splits["train"].labels.tolist())
        _check_train(listing, {classes[label]: n for label, n in numbers.items()}, cfg)
    source.notes = listing.notes
    source.skipped = [path for path, _ in skipped]
    if skipped:
        first = "; ".join(f"{path} ({reason})" for path, reason in skipped[:5])
        source.notes.append(f"skipped {len(skipped)} bad files: {first}")
    return source
