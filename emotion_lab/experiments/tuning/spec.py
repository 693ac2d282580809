"""What a search was asked for, written down in its folder: going on needs nothing else."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.core.migrate import migrate_config, migrate_override

#: In the folder of the search.
FILE = "search.json"
#: Beside it, Optuna's; optuna-dashboard sqlite:///study.db shows it.
STUDY = "study.db"
#: What the ``sweep`` group must say.
SWEEP = (
    *("trials", "timeout", "seed", "sampler", "n_startup_trials"),
    *("min_epochs", "pruner", "n_warmup_trials", "reduction_factor"),
)


@dataclass
class SearchSpec:
    """What was asked for.

    Attributes:
        overrides: Of every trial, as typed.
        space: What is searched, an override each.
        sweep: The ``sweep`` group: trials, sampler, pruner, seed, ...
        monitor: The metric that is searched for.
        mode: ``max`` or ``min``: what is better.
    """

    overrides: list[str]
    space: list[str]
    sweep: dict[str, Any]
    monitor: str
    mode: str

    def save(self, folder: Path) -> None:
        """Write ``search.json``."""
        atomic_write(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def damaged(file: Path, reason: str) -> UserError:
    """Build the error for a study that cannot be read.

    A study that is gone begins anew and is told what its finished trials are worth, since the same
    seed draws the same settings.
    """
    return UserError(
        f"{file} is damaged ({reason}). Move it away and the same command begins the study anew; "
        "trials that are finished in this folder are not trained again."
    )


def check_whole(file: Path) -> None:
    """Make sure that the study is a whole SQLite file, where it is there.

    Raises:
        UserError: If it is not.
    """
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(file)) as base:
            (said,) = base.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise damaged(file, str(error)) from None
    if said != "ok":
        raise damaged(file, str(said).splitlines()[0])


def load(folder: Path) -> SearchSpec:
    """Return what the search of a folder was asked for.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"resume={folder}: no search to go on with (no {FILE}).")
    check_whole(folder / STUDY)
    try:
        asked = SearchSpec(**json.loads(file.read_text(encoding="utf-8")))
        asked.sweep = migrate_config({"sweep": asked.sweep})["sweep"]
        asked.overrides = [migrate_override(str(text)) for text in asked.overrides]
        lost = [key for key in SWEEP if key not in asked.sweep]
        if lost:
            raise ValueError(f"it lacks sweep.{lost[0]}")
        return asked
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
