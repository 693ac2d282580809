"""Files, as every room handles them: hashes, where caches lie, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

#: What export writes and ``emotion_lab.inference.loader`` opens, by suffix.
EXPORT_SUFFIXES = (".onnx", ".xml", ".torchscript", ".pt2")


def file_hash(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_root() -> Path:
    """Return the spare place for caches: $EMOTION_LAB_CACHE, else ~/.cache/emotion_lab."""
    given = os.environ.get("EMOTION_LAB_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "emotion_lab"


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is there completely or not at all.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        # After the rename there is none; after any failure it is rubbish.
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, completely or not at all."""
    atomic_write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
