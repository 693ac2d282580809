"""The trained models that this package contains. No torch here.

``emotion_lab/weights/`` holds an exported file of each model and, for some, the checkpoint it was
exported from. ``SHA256SUMS`` in that folder is written by ``sha256sum *.onnx *.ckpt > SHA256SUMS``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash

FOLDER = Path(__file__).resolve().parents[1] / "weights"
#: Name -> suffixes of its files.
MODELS = {"fer2013": (".onnx", ".ckpt"), "fer2013-small": (".onnx",)}
#: Models whose .onnx file computes in int8.
INT8 = ("fer2013-small",)
#: The model that is used where none is named.
DEFAULT = "fer2013"


def is_name(value: Any) -> bool:
    """Return whether ``value`` is the name of a shipped model; a file is named ``./<name>``."""
    return isinstance(value, str) and value in MODELS


def find(name: str, suffix: str) -> Path:
    """Return the verified file of a shipped model.

    Args:
        name: A key of :data:`MODELS`.
        suffix: ``.onnx`` or ``.ckpt``.
    """
    if suffix not in MODELS[name]:
        names = [name for name, suffixes in MODELS.items() if suffix in suffixes]
        raise UserError(
            f"{name} is shipped as an exported file only, but a checkpoint is needed: "
            f"use {' or '.join(names)}."
        )
    path = FOLDER / f"{name}{suffix}"
    if not _is_intact(path):
        raise UserError(f"{path} is missing or damaged: install emotion_lab again.")
    return path


def checkpoint_hash(path: Path) -> str | None:
    """Return the sha256 of the shipped checkpoint of a shipped exported file; None for others.

    The exported file names the checkpoint before its weights were stored as float16.
    """
    name = path.stem
    if path.parent != FOLDER or ".ckpt" not in MODELS.get(name, ()):
        return None
    return _hashes().get(f"{name}.ckpt")


def _hashes() -> dict[str, str]:
    """Return file -> hash in ``SHA256SUMS``; empty if it cannot be read."""
    try:
        lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").split("\n")
        return {file: digest for digest, file in (line.split() for line in lines if line)}
    except (OSError, ValueError):
        return {}


def _is_intact(path: Path) -> bool:
    """Return whether a file of the package has the hash in ``SHA256SUMS``."""
    try:
        return file_hash(path) == _hashes().get(path.name)
    except OSError:
        return False


def no_checkpoint(path: object) -> UserError:
    """Return the error for a checkpoint that does not exist."""
    return UserError(
        f"no such checkpoint: {path}. Give a .ckpt file, a run directory, or the name of a shipped "
        f"model: {', '.join(MODELS)}."
    )
