"""The folder of a sweep: what was asked for, and where the same sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from emotion_lab.config.overrides import parse, quote
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.core.migrate import migrate_override
from emotion_lab.core.paths import check_folder

#: What was asked for, in the sweep's folder.
FILE = "sweep.json"
#: What may differ when the same sweep is started again.
_OWN = ("sweep.", "hydra.")


def asked(overrides: Sequence[str]) -> list[str]:
    """Return what makes a sweep the same: its overrides, without where and how it runs."""
    return [text for text in overrides if not text.lstrip("+~").startswith(_OWN)]


def _read(folder: Path) -> list[str] | None:
    """Return what the sweep of a folder was asked for; None where there is none.

    Raises:
        UserError: If it cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["overrides"]
        if not isinstance(known, list) or not all(isinstance(text, str) for text in known):
            raise ValueError("no list of overrides")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}), so it is not known which sweep lies there. Its finished "
            "runs can still be compared; to sweep, set hydra.sweep.dir=<a new folder>."
        ) from None
    return [migrate_override(text) for text in known]


def _latest(root: Path, wanted: list[str]) -> Path:
    """Return the newest sweep below ``root`` that was asked for the same.

    Raises:
        UserError: If there is none, or the only one left may be one that is damaged.
    """
    same, damaged = [], None
    for file in root.rglob(FILE):
        try:
            same += [file.parent] if _read(file.parent) == wanted else []
        except UserError as error:
            damaged = error
    if not same and damaged is not None:
        raise damaged
    if not same:
        raise UserError(
            f"sweep.resume=true: no sweep with these options below {root}. Start it without, or "
            "name its folder, hydra.sweep.dir=<folder>."
        )
    return max(same, key=lambda folder: (folder / FILE).stat().st_mtime)


def choose(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Return the folder of this sweep and write down there what was asked for.

    Args:
        cfg: The composed config of the first job, with the ``hydra`` node.
        overrides: What was typed.

    Raises:
        UserError: If there is nothing to resume, or the folder holds another sweep.
    """
    wanted = asked(overrides)
    typed = any(text.startswith("hydra.sweep.dir=") for text in overrides)
    folder = Path(str(cfg.hydra.sweep.dir))
    check_folder(folder, "hydra.sweep.dir")
    if cfg.sweep.resume and not typed:
        # outputs/multirun/DATE/TIME
        return _latest(folder.parent.parent, wanted)
    known = _read(folder)
    if known is not None and not typed:
        # Another sweep was started in the same second.
        numbers = (folder.with_name(f"{folder.name}-{i}") for i in range(2, 1000))
        folder = next(place for place in numbers if not place.exists())
        known = None
    if known is not None and known != wanted:
        raise UserError(
            f"{folder} holds another sweep ({' '.join(known)}). Set hydra.sweep.dir=<a new folder>."
        )
    if known is not None and not cfg.sweep.resume:
        raise UserError(
            f"{folder} already holds this sweep: add sweep.resume=true to go on with what is "
            "missing, or set hydra.sweep.dir=<a new folder>."
        )
    if known is None and cfg.sweep.resume and (folder / "0").exists():
        raise UserError(f"sweep.resume=true: {folder} holds no sweep of ours (no {FILE}).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the sweep folder {folder} ({error.strerror}). Set "
            "hydra.sweep.dir=<folder>."
        ) from None
    atomic_write(folder / FILE, (json.dumps({"overrides": wanted}, indent=2) + "\n").encode())
    return folder


def override(folder: Path) -> str:
    """Return the override that tells Hydra the folder."""
    return f"hydra.sweep.dir={quote(str(folder), interpolate=True)}"


def named(overrides: Sequence[str]) -> Path:
    """Return the folder that :func:`override` told."""
    (text,) = [text for text in overrides if text.startswith("hydra.sweep.dir=")]
    return Path(str(parse([text])[0].value()))
