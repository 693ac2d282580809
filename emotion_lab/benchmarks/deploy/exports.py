"""Exported files beside the runtimes of ``benchmark=deploy``: int8, half precision, other formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES
from emotion_lab.inference.base import InferenceBackend
from emotion_lab.inference.loader import load

#: What the runtime of an exported file is called in the table: so, and its format.
EXPORTED = "exported"


def is_exported(runtime: str) -> bool:
    """Tell whether a row's runtime is that of an exported file."""
    return runtime.startswith(f"{EXPORTED} ")


def find(places: Sequence[str]) -> list[Path]:
    """Return the exported files among ``places`` and in the folders among them, sorted by name.

    Raises:
        UserError: If a place is missing or holds none.
    """
    found: list[Path] = []
    for place in map(Path, places):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        files = [file for file in inside if file.is_file() and file.suffix in EXPORT_SUFFIXES]
        if not files:
            raise UserError(
                f"exports={place}: no exported file there. Write some with "
                "python -m emotion_lab.export ckpt=<path>."
            )
        found += [file for file in files if file not in found]
    return found


def opened(path: Path, threads: int) -> tuple[tuple[str, str], str | None, InferenceBackend]:
    """Open a file.

    Returns:
        (runtime, precision) as in the table; the sha256 of its checkpoint; what runs it, which
        maps RGB faces, uint8 (B, S, S, 3), to probabilities (B, K).

    Raises:
        UserError: If it is damaged, or its runtime is not installed.
    """
    model = load(path, threads)
    key = (f"{EXPORTED} {model.meta['format']}", str(model.meta["precision"]))
    return key, model.meta["checkpoint_sha256"], InferenceBackend(path.name, model.run)


def size_mb(path: Path) -> float:
    """Return 10**6 bytes of a file and what belongs to it."""
    parts = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
    return sum(part.stat().st_size for part in parts) / 1e6
