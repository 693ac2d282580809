"""Layout of an image folder: its splits, class folders and files, found without opening a file."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.file_names import Ignored, is_system_name, walk
from emotion_lab.core.labels import EMOTIONS, LABEL_SCHEMES, canonical, class_key, class_number
from emotion_lab.core.wording import counted
from emotion_lab.data.images import is_image_name
from emotion_lab.data.types import SPLITS, subfolders

#: Words for a split. PublicTest and PrivateTest are splits of FER2013.
_SPLIT_WORDS: dict[str, tuple[str, ...]] = {
    "train": ("training", "train", "trn"),
    "val": ("validation", "validate", "valid", "val", "devel", "development", "dev", "publictest"),
    "test": ("testing", "test", "tst", "privatetest", "holdout"),
    # The test split if there is another val split, else val.
    "eval": ("evaluation", "eval"),
}
#: Words beside the one for the split: ``train_set``, ``FER2013Test``.
_FILLERS = (
    r"(?:sets?|data|dataset|splits?|images?|imgs?|pictures|photos|faces|folders?|fer2013|fer)"
)
_SPLIT_PATTERNS = {
    split: re.compile(rf"{_FILLERS}*(?:{'|'.join(words)}){_FILLERS}*")
    for split, words in _SPLIT_WORDS.items()
}
#: File name prefixes of FER2013 exports -> split of the challenge.
_PREFIXES: dict[str, str] = {"Training_": "train", "PublicTest_": "val", "PrivateTest_": "test"}


@dataclass
class Listing:
    """Files of each split and class, found without opening any file.

    Attributes:
        root: Folder that all paths are relative to.
        scheme: ``data.label_scheme``, or None.
        files: Split -> class -> relative paths with forward slashes.
        folders: Class -> folders of the class, relative to ``root``.
        notes: Lines to print.
        moved: Whether a file name prefix assigned a file to another split than its folder.
        others: Number of files that are not images, by suffix.
        ignored: Files of the system, and links without a target.
    """

    root: Path
    scheme: str | None = None
    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    moved: bool = False
    others: Counter[str] = field(default_factory=Counter)
    ignored: Ignored = field(default_factory=Ignored)

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()


def _split_of(folder: Path) -> str | None:
    """Return the split that a folder name stands for: one of SPLITS, ``eval``, or None.

    A further word (``rafdb_train``) is accepted if the folder holds at least two class folders.
    """
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", folder.name).lower())
    for split, pattern in _SPLIT_PATTERNS.items():
        if pattern.fullmatch("".join(words)):
            return split
    named = {s for s, pattern in _SPLIT_PATTERNS.items() if any(map(pattern.fullmatch, words))}
    if len(named) != 1 or canonical(folder.name) is not None:
        return None
    return named.pop() if len(emotion_folders(folder, short=True)) > 1 else None


def emotion_folders(folder: Path, short: bool = False) -> list[str]:
    """Return the subfolders that are named after emotions.

    With ``short``, numbers and abbreviations of two letters count. They may also stand for persons.
    """
    names = [child.name for child in subfolders(folder)]
    if short:
        return [n for n in names if canonical(n) is not None or class_number(n) is not None]
    return [n for n in names if len(n.strip()) > 2 and not n.isdigit() and canonical(n) is not None]


def _holds_classes(folder: Path) -> bool:
    """Return whether a folder holds class folders of at least two emotions."""
    return len({canonical(name) for name in emotion_folders(folder)}) > 1


def split_folders(root: Path) -> dict[str, Path]:
    """Return split -> its folder in ``root``; two folders of one split are refused."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in subfolders(root):
        split = _split_of(folder)
        if split is not None:
            found[split].append(folder)
    for folder in found.pop("eval", []):
        found["test" if "val" in found else "val"].append(folder)
    for split, folders in found.items():
        if len(folders) > 1:
            raise UserError(
                f"Both {folders[0]} and {folders[1]} are folders of the {split} split; "
                f"rename or merge one of them."
            )
    return {name: found[name][0] for name in SPLITS if name in found}


def _only_folder(folder: Path) -> Path | None:
    """Return the only subfolder of a folder without images of its own, else None."""
    children = subfolders(folder)
    if len(children) != 1 or any(is_image_name(p.name) and p.is_file() for p in folder.iterdir()):
        return None
    return children[0] if subfolders(children[0]) else None


def find_root(folder: Path) -> Path:
    """Return the folder that holds the split or class folders.

    Archives often unpack to one folder, or several inside each other, around these.
    """
    child = _only_folder(folder)
    while child is not None and (
        split_folders(child) or (_split_of(child) is None and canonical(child.name) is None)
    ):
        folder, child = child, _only_folder(child)
    return folder


def _class_parent(folder: Path) -> Path:
    """Return the folder that holds the class folders of a split: ``train/train``, ``test/images``.

    A single folder is a class unless its name is that of a split or of images, or it holds
    folders named after emotions.
    """
    child = _only_folder(folder)
    while child is not None and canonical(child.name) is None:
        is_filler = re.fullmatch(rf"(?:{_FILLERS}|[\s_-])+", child.name.lower())
        if not (is_filler or _split_of(child) or emotion_folders(child)):
            break
        folder, child = child, _only_folder(child)
    return folder


def _list_class(folder: Path, listing: Listing) -> list[str]:
    """Return the image files below ``folder``, sorted, relative to the root; links are followed."""
    files = []
    for parent, names in walk(folder, listing.ignored):
        relative = listing.relative(parent)
        for name in names:
            if is_image_name(name):
                files.append(f"{relative}/{name}")
            else:
                listing.others[Path(name).suffix.lower() or "no extension"] += 1
    return sorted(files)


def _check_class_folders(folders: list[Path], listing: Listing, strict: bool) -> None:
    """Refuse folders that are no classes: they hold folders of classes or splits."""
    nested = [folder for folder in folders if _holds_classes(folder)]
    if nested:
        more = f" (and {len(nested) - 1} more)" if len(nested) > 1 else ""
        inner = ", ".join(emotion_folders(nested[0])[:3])
        raise UserError(
            f"{nested[0]}{more} is no class folder: it holds class folders itself ({inner}). "
            "Expected are class folders, alone or in train, val and test. Rename or move it, or "
            f"set data.path={nested[0]}."
        )
    for folder in folders:
        splits = [path.name for path in subfolders(folder) if path.name.lower() in SPLITS]
        if len(splits) > 1:
            raise UserError(
                f"{folder} holds folders of splits ({', '.join(splits)}): put the classes into the "
                f"splits, as in {listing.root / splits[0] / folder.name}."
            )
        if strict and canonical(folder.name, listing.scheme) is None:
            raise unknown(
                "class folder",
                listing.relative(folder),
                EMOTIONS,
                "Rename it, or set data.strict_labels=false to keep it as a class.",
            )


def _class_folders(folder: Path, grouped: bool) -> tuple[list[Path], bool]:
    """Return the class folders in ``folder``, and whether they are in folders of persons.

    Folders of persons are ``<person>/<class>``; they need ``grouped`` (``data.group``).
    """
    folders = subfolders(folder)
    persons = [f for f in folders if canonical(f.name) is None and emotion_folders(f)]
    if not grouped or not folders or len(persons) < len(folders):
        return folders, False
    return [child for person in persons for child in subfolders(person)], True


def _list_split(
    listing: Listing, split: str, folder: Path, strict: bool, grouped: bool = False
) -> None:
    """Add the class folders in ``folder`` to the listing."""
    merged: dict[str, list[str]] = defaultdict(list)
    class_folders, of_persons = _class_folders(folder, grouped)
    _check_class_folders(class_folders, listing, strict)
    for class_folder in class_folders:
        relative = listing.relative(class_folder)
        name = class_key(class_folder.name, listing.scheme)
        merged[name].append(relative)
        listing.folders[name].append(relative)
        for file in _list_class(class_folder, listing):
            target = split
            # The split of an explicit val/ folder has priority over the prefix.
            if split != "val":
                base = file.rsplit("/", 1)[-1]
                target = next((s for p, s in _PREFIXES.items() if base.startswith(p)), split)
            listing.moved = listing.moved or target != split
            listing.files.setdefault(target, {}).setdefault(name, []).append(file)
    for name, folders in merged.items():
        if len(folders) > 1 and not of_persons:
            listing.notes.append(f"{' and '.join(folders)} are read as one class, {name}")


def _in_words(scheme: str) -> str:
    """Return a numbering in words: ``rafdb (1 = surprise, 2 = fear, ...)``."""
    names = ", ".join(f"{number} = {name}" for number, name in LABEL_SCHEMES[scheme].items())
    return f"{scheme} ({names})"


def _check_numbers(listing: Listing, excluded: Collection[str]) -> None:
    """Refuse numbered class folders that ``data.label_scheme`` or FER2013's order do not explain.

    ``excluded`` are the keys of the classes in ``data.exclude``.
    """
    scheme, root = listing.scheme, listing.root
    found = {
        class_number(folder.rsplit("/", 1)[-1]): name
        for name, folders in listing.folders.items()
        for folder in folders
    }
    numbers = sorted(number for number in found if number is not None)
    if scheme is not None:
        wrong = [n for n in numbers if n not in LABEL_SCHEMES[scheme] and found[n] not in excluded]
        if wrong:
            listed = ",".join(map(str, wrong))
            raise UserError(
                f"{root} has class folders {listed}, which are not in data.label_scheme="
                f"{_in_words(scheme)}. Set data.exclude=[{listed}], or another scheme."
            )
        return
    if not numbers:
        return
    shown = ", ".join(map(str, numbers[:12]))
    fitting = [name for name, table in LABEL_SCHEMES.items() if set(numbers) <= set(table)]
    exact = [name for name in fitting if len(LABEL_SCHEMES[name]) == len(numbers)]
    if "fer2013" in fitting and 0 in numbers:
        listing.notes.append(
            f"class folders {shown} are read in FER2013's order, 0 = angry to 6 = neutral; set "
            "data.label_scheme=affectnet or ferplus if they are numbered as there"
        )
        return
    advice = "Rename the folders to names of emotions"
    if fitting:
        schemes = " or ".join(_in_words(name) for name in exact or fitting)
        advice = f"Set data.label_scheme={schemes}, or rename the folders to names of emotions"
    raise UserError(
        f"The class folders {shown} in {root} are not numbered 0 to 6 as in FER2013, so their "
        f"emotions are unknown. {advice}."
    )


def _list_top(listing: Listing, folders: Iterable[Path]) -> None:
    """Count what is ignored in the folders above the class folders."""
    for folder in folders:
        for path in folder.iterdir():
            if is_system_name(path.name):
                listing.ignored.system[path.name] += 1
            elif not path.exists():
                listing.ignored.links.append(str(path))


def _add_notes(listing: Listing, splits: dict[str, Path], num_loose: int) -> None:
    """Add where the splits are and what is ignored to the notes."""
    notes = listing.notes
    named = {s: listing.relative(p) for s, p in splits.items() if listing.relative(p).lower() != s}
    if named:
        notes.append(", ".join(f"{split} is read from {path}" for split, path in named.items()))
    tops = {listing.root / listing.relative(p).partition("/")[0] for p in splits.values()}
    others = [p for p in subfolders(listing.root) if p not in tops] if splits else []
    if others:
        unused = " (their class folders are not used)" if any(map(_holds_classes, others)) else ""
        names = ", ".join(path.name for path in others[:5])
        notes.append(f"ignored folders next to the splits: {names}{unused}")
    if listing.moved:
        notes.append("files named PublicTest_ are val, PrivateTest_ test, Training_ train")
    if listing.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.others.items()))
        notes.append(f"ignored files that are not images: {kinds}")
    if num_loose:
        notes.append(f"ignored {counted(num_loose, 'image')} outside class folders")
    notes.extend(listing.ignored.notes())


def list_images(
    start: Path, scheme: str | None, strict: bool, excluded: Collection[str], grouped: bool = False
) -> Listing:
    """Find splits, classes and files.

    Args:
        start: The folder to search; see :func:`find_root`.
        scheme: Numbering of the class folders, a key of ``LABEL_SCHEMES``; None is FER2013's.
        strict: Whether to refuse class names other than the emotions.
        excluded: Keys of the classes in ``data.exclude``.
        grouped: Whether the class folders may be in folders of persons.

    Raises:
        OSError: If a folder cannot be read.
    """
    root = find_root(start)
    listing = Listing(root, scheme)
    if root != start:
        listing.notes.append(f"read from {root}: {start} holds no other folder")
    tops = split_folders(root)
    splits = {split: _class_parent(folder) for split, folder in tops.items()}
    classes = emotion_folders(root)
    if splits and classes and "train" not in splits:
        raise UserError(
            f"{root} holds class folders ({', '.join(classes[:3])}) next to the split "
            f"{', '.join(splits)}: move them into {root / 'train'}."
        )
    num_loose = 0
    for split, folder in (splits or {"train": root}).items():
        num_loose += sum(
            is_image_name(p.name) and not is_system_name(p.name) and p.is_file()
            for p in folder.iterdir()
        )
        _list_split(listing, split, folder, strict, grouped)
    _list_top(listing, {start, root, *tops.values(), *splits.values()})
    if not any(listing.files.values()):
        raise _no_images(listing, num_loose)
    _check_numbers(listing, excluded)
    _add_notes(listing, splits, num_loose)
    return listing


def _no_images(listing: Listing, num_loose: int) -> UserError:
    """Return the error for a folder without class folders that contain images."""
    root = listing.root
    if num_loose:
        return UserError(
            f"{root} holds {counted(num_loose, 'image')} but no class folders; put every image "
            f"in a folder named after its class, for instance {root / 'happy'}."
        )
    if any(p.name.lower().startswith(("fer2013.", "icml_face_data.")) for p in root.iterdir()):
        return UserError(f"{root} holds the FER2013 file, not images: use data=fer2013.")
    kinds = ", ".join(f"{count} {kind}" for kind, count in listing.others.most_common(5))
    found = f" (found {kinds} files)" if kinds else ""
    return UserError(
        f"No images in class folders below {root}{found}; set data.path=<folder with train/ and "
        "test/, or with one folder for each class>."
    )
