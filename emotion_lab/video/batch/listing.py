"""The files that ``source=`` names: a folder, a glob, a list, or an S3 prefix."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from emotion_lab.core.errors import UserError
from emotion_lab.core.file_names import Ignored, is_system_name, walk
from emotion_lab.data import s3
from emotion_lab.data.images import is_image_name
from emotion_lab.video.batch.base import Chunk, FileItem
from emotion_lab.video.recording import is_recording

#: Suffixes of video files; those of photos are in :mod:`emotion_lab.data.images`.
VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
        *(".3gp", ".ts", ".mts", ".m2ts", ".ogv"),
    }
)
#: Photos of one chunk: enough for a full batch of faces, few enough for an even load.
PHOTOS = 16


def is_many(source: str) -> bool:
    """Return whether ``source`` names a folder, a glob, a list or an S3 prefix."""
    if source.startswith("s3://"):
        return True
    path = Path(source).expanduser()
    if path.exists():
        return (path.is_dir() and not is_recording(path)) or path.suffix.lower() == ".txt"
    return path.suffix.lower() == ".txt" or (glob.has_magic(source) and "://" not in source)


def _is_media(name: str) -> bool:
    return is_image_name(name) or Path(name).suffix.lower() in VIDEO_SUFFIXES


def list_files(source: str) -> tuple[list[FileItem], list[str]]:
    """Return the photos and clips of ``source``, in order, and notes about files left out.

    Args:
        source: A folder, with its subfolders; a glob (``**`` enters folders); a ``.txt`` file with
            a path or an ``s3://`` address per line, relative to the folder of that file (empty
            lines and those with ``#`` are skipped); or ``s3://bucket/prefix``.

    Raises:
        UserError: If there is no such file or address, no photo or clip, or a file of a list is
            missing.
    """
    path = Path(source).expanduser()
    if source.startswith("s3://"):
        items, notes = _media(_list_bucket(source))
    elif path.is_dir():
        items, notes = _list_folder(path)
    elif path.suffix.lower() == ".txt":
        items, notes = _read_list(path), []
    else:
        # Path.glob takes no absolute pattern.
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [name for name in found if Path(name).is_file()]
        items, notes = _media(FileItem(name, name) for name in files)
    if not items:
        raise UserError(
            f"source={source}: no photo or clip found{''.join(f'; {note}' for note in notes)}. "
            "Set source=<folder, glob, list.txt or s3://bucket/prefix>."
        )
    return items, notes


def _media(items: Iterable[FileItem]) -> tuple[list[FileItem], list[str]]:
    """Return the photos and clips among ``items``, and a note about the other files."""
    every = list(items)
    kept = [item for item in every if _is_media(item.name)]
    if len(kept) == len(every):
        return kept, []
    others = [item.name for item in every if not _is_media(item.name)]
    more = ", ..." if len(others) > 3 else ""
    names = ", ".join(others[:3])
    return kept, [f"left out {len(others)}, neither photo nor clip: {names}{more}"]


def _list_folder(root: Path) -> tuple[list[FileItem], list[str]]:
    ignored = Ignored()
    files = [folder / name for folder, names in walk(root, ignored) for name in names]
    files.sort(key=lambda file: file.relative_to(root).parts)
    items, notes = _media(FileItem(file.relative_to(root).as_posix(), str(file)) for file in files)
    return items, [*ignored.notes(), *notes]


def _read_list(file: Path) -> list[FileItem]:
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"source={file} cannot be read: {error.strerror}.") from None
    items: dict[str, FileItem] = {}
    missing: list[str] = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        path = name
        if not name.startswith("s3://"):
            path = str(file.parent / Path(name).expanduser())
            if not Path(path).is_file():
                missing.append(f"line {number}: {name}")
        items[name] = FileItem(name, path)
    if missing:
        count = f"{len(missing)} of {len(items)} files do" if len(missing) > 1 else "1 file does"
        raise UserError(
            f"source={file}: {count} not exist ({missing[0]}). Paths are relative to the folder "
            "of the list; correct or remove the line."
        )
    return list(items.values())


def _list_bucket(address: str) -> Iterator[FileItem]:
    bucket, prefix = s3.split_address(address, "source")
    pages = s3.s3_client().get_paginator("list_objects_v2")
    try:
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                name = f"s3://{bucket}/{entry['Key']}"
                if not any(is_system_name(part) for part in entry["Key"].split("/") if part):
                    yield FileItem(name, name)
    except UserError:
        raise
    except Exception as error:  # botocore creates exception classes at run time
        raise s3.read_error(address, "source", error) from None


def chunks(items: Iterable[FileItem], photos: int = PHOTOS) -> list[Chunk]:
    """Group the files: a clip alone, up to ``photos`` photos together."""
    by_kind: dict[bool, list[FileItem]] = {True: [], False: []}
    for item in items:
        by_kind[is_image_name(item.name)].append(item)
    # Clips first: a long clip that starts last would keep a single worker busy at the end.
    result: list[Chunk] = [[item] for item in by_kind[False]]
    batches = iter(by_kind[True])
    while batch := list(itertools.islice(batches, photos)):
        result.append(batch)
    return result


def save_name(name: str) -> Path:
    """Return the relative path for the annotated file of ``name``, without its folders above."""
    parts = re.sub(r"^s3://", "", name).split("/")
    return Path(*(part for part in parts if part not in ("", ".", "..")))
