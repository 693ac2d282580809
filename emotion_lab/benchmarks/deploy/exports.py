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


def open_exports(
    files: Sequence[Path], sha256: str, threads: int
) -> dict[tuple[str, str], tuple[Path, InferenceBackend]]:
    """Open the files that were exported from the checkpoint with this hash.

    Returns:
        (backend, precision) as in the table -> file and backend, which maps RGB faces, uint8
        (B, S, S, 3), to probabilities (B, K).
    """
    opened: dict[tuple[str, str], tuple[Path, InferenceBackend]] = {}
    for file in files:
        model = load(file, threads)
        if model.meta["checkpoint_sha256"] != sha256:
            continue
        kind = (f"{EXPORTED} {model.meta['format']}", str(model.meta["precision"]))
        if kind in opened:
            raise UserError(
                f"{file} and {opened[kind][0]} have the same format and precision: list only one "
                "of them in exports."
            )
        opened[kind] = (file, InferenceBackend(file.name, model.run))
    return opened
