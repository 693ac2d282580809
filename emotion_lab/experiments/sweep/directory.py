"""The directory of a grid sweep: its overrides, and where ``sweep.resume=true`` continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.config import schema
from emotion_lab.config.fields import Role
from emotion_lab.config.overrides import parse, quote
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.migrate import migrate_override
from emotion_lab.core.paths import check_training_folder

#: The overrides of the sweep, in its directory.
FILE = "sweep.json"


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the jobs, without those of the sweep's location and launcher."""
    return [text for text in overrides if not text.lstrip("+~").startswith(("sweep.", "hydra."))]


def _same_sweep(first: Sequence[str], second: Sequence[str]) -> bool:
    """Compare overrides; those that only change the display or the execution may differ."""
    ignored = (Role.DISPLAY, Role.EXECUTION)
    kept = [
        [
            override.input_line
            for override in parse(list(texts))
            if override.is_sweep_override() or schema.role(override.key_or_group) not in ignored
        ]
        for texts in (first, second)
    ]
    return kept[0] == kept[1]


def read(folder: Path) -> list[str] | None:
    """Read the overrides of the sweep in ``folder``; None if there is no sweep."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        overrides = json.loads(file.read_text(encoding="utf-8"))["overrides"]
        if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
            raise ValueError("no list of overrides")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}), so the sweep in this folder cannot be resumed. Its "
            "finished runs can still be compared. For a new sweep set hydra.sweep.dir=<a new "
            "folder>."
        ) from None
    return [migrate_override(text) for text in overrides]


def _latest(root: Path, overrides: list[str]) -> Path:
    """Return the newest sweep below ``root`` with these overrides."""
    matches: list[Path] = []
    damaged = None
    for file in root.rglob(FILE):
        try:
            existing = read(file.parent)
            if existing is not None and _same_sweep(existing, overrides):
                matches.append(file.parent)
        except UserError as error:
            damaged = error
    if not matches and damaged is not None:
        # The damaged sweep may be the requested one.
        raise damaged
    if not matches:
        raise UserError(
            f"sweep.resume=true: no sweep with these options below {root}. Remove sweep.resume, or "
            "set its folder, hydra.sweep.dir=<folder>."
        )
    return max(matches, key=lambda folder: (folder / FILE).stat().st_mtime)


def open_directory(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Return the directory of this sweep; create it with its overrides if it is new."""
    wanted = job_overrides(overrides)
    typed = any(text.startswith("hydra.sweep.dir=") for text in overrides)
    folder = Path(str(cfg.hydra.sweep.dir))
    check_training_folder(folder, "hydra.sweep.dir")
    if cfg.sweep.resume and not typed:
        # outputs/multirun/DATE/TIME
        return _latest(folder.parent.parent, wanted)
    existing = read(folder)
    if existing is not None and not typed:
        # Another sweep was started in the same second.
        numbered = (folder.with_name(f"{folder.name}-{i}") for i in range(2, 1000))
        folder = next(path for path in numbered if not path.exists())
        existing = None
    if existing is not None and not _same_sweep(existing, wanted):
        raise UserError(
            f"{folder} holds another sweep ({' '.join(existing)}). Set hydra.sweep.dir=<a new "
            "folder>."
        )
    if existing is not None and not cfg.sweep.resume:
        raise UserError(
            f"{folder} already holds this sweep: add sweep.resume=true to run the missing jobs, or "
            "set hydra.sweep.dir=<a new folder>."
        )
    if existing is None and cfg.sweep.resume and (folder / "0").exists():
        raise UserError(f"sweep.resume=true: {folder} holds no sweep of emotion_lab (no {FILE}).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the sweep directory {folder} ({error.strerror}). Set "
            "hydra.sweep.dir=<folder>."
        ) from None
    write_json(folder / FILE, {"overrides": wanted})
    return folder


def directory_override(folder: Path) -> str:
    """Return the Hydra override that sets the sweep directory."""
    return f"hydra.sweep.dir={quote(str(folder), interpolate=True)}"


def directory_of(overrides: Sequence[str]) -> Path:
    """Return the sweep directory set by :func:`directory_override`."""
    (text,) = [text for text in overrides if text.startswith("hydra.sweep.dir=")]
    return Path(str(parse([text])[0].value()))
