"""The specification of a search, saved in its directory so that ``resume=`` needs nothing else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.migrate import migrate_config, migrate_override

#: The specification, in the search directory.
FILE = "search.json"
#: Optuna's study, in the same directory; ``optuna-dashboard sqlite:///study.db`` displays it.
STUDY = "study.db"
#: Required keys of the ``sweep`` group.
SWEEP = (
    *("trials", "timeout", "seed", "sampler", "n_startup_trials"),
    *("min_epochs", "pruner", "n_warmup_trials", "reduction_factor"),
)
#: Keys that may change when a search is resumed.
RESUME_KEYS = ("sweep.trials", "sweep.timeout")


@dataclass
class SearchSpec:
    """The specification of a search.

    Attributes:
        overrides: Overrides of every trial, as typed.
        space: One override per searched dimension.
        sweep: The ``sweep`` group: trials, sampler, pruner, seed, ...
        monitor: The metric to optimise.
        mode: ``max`` or ``min``: whether higher or lower is better.
    """

    overrides: list[str]
    space: list[str]
    sweep: dict[str, Any]
    monitor: str
    mode: str

    def save(self, folder: Path) -> None:
        """Write ``search.json``."""
        write_json(folder / FILE, asdict(self))


def trial_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that apply to every trial, without those of the search itself."""
    search = ("sweep.", "sweep=", "hydra", "resume=")
    return [text for text in overrides if not text.lstrip("+~").startswith(search)]


def check_resume(folder: Path, overrides: Sequence[str]) -> None:
    """Raise if ``resume=`` names no search, or if an override would change the search."""
    for text in overrides:
        key = text.lstrip("+~").split("=", 1)[0]
        if key not in ("resume", *RESUME_KEYS) and not key.startswith("hydra."):
            raise UserError(
                f"resume= continues the search with its original options; '{text}' cannot change. "
                f"Allowed: {', '.join(RESUME_KEYS)}."
            )
    load(folder)


#: Words of SQLite's errors about a file that may be intact.
_NO_ACCESS = ("unable to open", "locked", "readonly", "disk I/O")


def study_error(file: Path, error: BaseException | str) -> UserError:
    """Return the error for a study that cannot be opened.

    A study that is moved away is recreated: the same seed draws the same settings, and finished
    trials are read from their run directories.

    Args:
        file: The study.
        error: Of the database, or the result of its check. Only an error that says so means that
            the file is damaged; a locked file or one without permission is intact.
    """
    reason = str(error).splitlines()[0]
    if any(words in reason for words in _NO_ACCESS):
        return UserError(
            f"{file} cannot be used ({reason}). Check that the folder can be written and that no "
            "other process uses the study, then run the same command again."
        )
    is_damaged = isinstance(error, (str, sqlite3.DatabaseError))
    # A valid file of another program lacks tables or columns.
    is_damaged = is_damaged and not isinstance(error, sqlite3.OperationalError)
    state = "is damaged" if is_damaged else "is no study that this version can read"
    return UserError(
        f"{file} {state} ({reason}). Move it away and run the same command again: the study is "
        "recreated, and trials that are finished in this folder are not trained again."
    )


def check_study_file(file: Path, timeout_s: float = 5.0) -> None:
    """Raise if the study exists and is not an intact SQLite file.

    Args:
        file: The study.
        timeout_s: How long to wait for another process that uses it.
    """
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(file, timeout_s)) as connection:
            (status,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise study_error(file, error) from None
    if status != "ok":
        raise study_error(file, str(status))


def load(folder: Path) -> SearchSpec:
    """Read the specification of the search in ``folder``."""
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"resume={folder}: no search to resume (no {FILE}).")
    check_study_file(folder / STUDY)
    try:
        spec = SearchSpec(**json.loads(file.read_text(encoding="utf-8")))
        spec.sweep = migrate_config({"sweep": spec.sweep})["sweep"]
        spec.overrides = [migrate_override(str(text)) for text in spec.overrides]
        missing = [key for key in SWEEP if key not in spec.sweep]
        if missing:
            raise ValueError(f"it lacks sweep.{missing[0]}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    if spec.monitor == "val/loss" and any(map(runs.has_earlier_loss, folder.glob("*/"))):
        raise UserError(
            f"resume={folder}: its trials were compared by the values of their own losses, which "
            "val/loss was in an earlier version; it is now the cross-entropy. Start a new search."
        )
    return spec
