"""File hashes, the cache directory and atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
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


def atomic_write(path: Path, data: bytes) -> None:
    """Write a temporary file, then rename it; an earlier file is kept if the write fails.

    Raises:
        OSError: If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
