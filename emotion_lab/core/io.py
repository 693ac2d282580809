"""File hashes, the cache directory, atomic writes and paths for native libraries."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

#: Suffixes of exported models.
EXPORT_SUFFIXES = (".onnx", ".xml", ".torchscript", ".pt2")


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_root() -> Path:
    """Return the cache directory: $EMOTION_LAB_CACHE, else ~/.cache/emotion_lab."""
    path = os.environ.get("EMOTION_LAB_CACHE")
    return Path(path).expanduser() if path else Path.home() / ".cache" / "emotion_lab"


@contextlib.contextmanager
def native_path(path: str | Path) -> Iterator[str]:
    """Yield the path of a file for a library that accepts UTF-8 only, such as OpenCV.

    OpenCV ends the process with a segmentation fault at any other name. Such a file gets a
    temporary link, which is removed at the end of the ``with`` block.
    """
    try:
        str(path).encode()
        yield str(path)
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="emotion_lab_") as folder:
            link = Path(folder) / f"file{Path(path).suffix.encode('ascii', 'ignore').decode()}"
            link.symlink_to(Path(path).absolute())
            yield str(link)


def print_any_name() -> None:
    """Print file names that are not UTF-8 as they are, instead of an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return text in UTF-8; file names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def atomic_write(path: Path, data: bytes) -> None:
    """Write a temporary file, then rename it; an earlier file is kept if the write fails.

    Raises:
        OSError: If the file cannot be written.
    """
    with replaced_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces ``path`` at the end of the ``with`` block.

    After an error, it is removed and an earlier file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def move_into_place(files: Sequence[Path], folder: Path) -> None:
    """Flush files of one file system to disk and rename them into ``folder``, in this order."""
    for file in files:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
        file.replace(folder / file.name)


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new empty folder in ``parent``, which is removed at the end.

    Folders of this prefix that a killed process has left are removed first. The folder of a process
    that still runs is locked, and kept.

    Args:
        parent: An existing folder.
        prefix: First characters of the folder name.
    """
    # A slow import.
    from filelock import FileLock

    for file in parent.glob(f"{prefix}*.lock"):
        _remove_unlocked(file)
    folder = parent / f"{prefix}{uuid.uuid4().hex[:12]}"
    lock_file = parent / f"{folder.name}.lock"
    # Locked before the folder exists, so that no other process takes it for an abandoned one.
    # It may wait for a moment, while another process looks at the new lock file.
    with FileLock(lock_file, timeout=10):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock_file.unlink(missing_ok=True)


def _remove_unlocked(lock_file: Path) -> None:
    """Remove a lock file and its folder unless a process holds the lock."""
    from filelock import FileLock, Timeout

    # OSError: another process removed it, or it belongs to another user.
    with contextlib.suppress(Timeout, OSError), FileLock(lock_file, timeout=0):
        shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
        lock_file.unlink(missing_ok=True)
