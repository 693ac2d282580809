"""Exported files in the deployment benchmark: int8, half precision and other formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES
from emotion_lab.inference.base import InferenceBackend
from emotion_lab.inference.loader import load

#: Prefix of the backend name of an exported file in tables; its format follows.
EXPORTED = "exported"


def is_exported(backend: str) -> bool:
    """Return whether a row's backend is an exported file."""
    return backend.startswith(f"{EXPORTED} ")


def find_exports(paths: Sequence[str]) -> list[Path]:
    """Return the exported files among ``paths``; of directories those inside, sorted by name."""
    result: list[Path] = []
    for path in map(Path, paths):
        candidates = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [file for file in candidates if file.is_file() and file.suffix in EXPORT_SUFFIXES]
        if not files:
            raise UserError(
                f"exports={path}: no exported file found. Create some with "
                "python -m emotion_lab.export ckpt=<path>."
            )
        result += [file for file in files if file not in result]
    return result


def open_export(path: Path, threads: int) -> tuple[tuple[str, str], str | None, InferenceBackend]:
    """Open an exported file.

    Returns:
        (backend, precision) as in the table; the sha256 of its checkpoint; the backend, which
        maps RGB faces, uint8 (B, S, S, 3), to probabilities (B, K).
    """
    model = load(path, threads)
    key = (f"{EXPORTED} {model.meta['format']}", str(model.meta["precision"]))
    return key, model.meta["checkpoint_sha256"], InferenceBackend(path.name, model.run)


def size_mb(path: Path) -> float:
    """Return the size of an exported file, with OpenVINO's ``.bin``, in 10**6 bytes."""
    files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    return sum(file.stat().st_size for file in files) / 1e6
