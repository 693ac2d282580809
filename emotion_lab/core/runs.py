"""Finished runs of ``train``: how other commands find and read them. No torch here."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emotion_lab.core.errors import UserError
from emotion_lab.core.migrate import (
    has_old_loss,
    migrate_config,
    migrate_history,
    migrate_monitor,
    migrate_monitors,
    migrate_override,
)

#: The resumes of a run, oldest first; see :func:`read_resumes`.
RESUMES = "resumes.json"
#: Files that every finished run has.
FILES = ("config.yaml", "metrics.json")


def monitor_mode(cfg: Mapping[str, Any]) -> str:
    """Return whether a larger (``max``) or smaller (``min``) monitored value is better."""
    mode = cfg["trainer"]["monitor_mode"]
    is_loss = cfg["monitor"].endswith(("/loss", "/criterion"))
    return ("min" if is_loss else "max") if mode == "auto" else mode


@dataclass(frozen=True)
class Run:
    """A finished run of ``train``.

    Attributes:
        folder: The run directory.
        config: Resolved config, with today's keys.
        metrics: Content of ``metrics.json``: ``val`` (scores), ``seed``, ``monitor``, ...
        overrides: Overrides of the command line; None if they were not saved.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    overrides: list[str] | None

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.metrics["seed"])

    @property
    def mode(self) -> str:
        """Whether a larger (``max``) or smaller (``min``) monitored value is better."""
        return monitor_mode(self.config)

    def history(self) -> list[dict[str, float]]:
        """Return the rows of ``history.csv``, see :func:`read_history`."""
        return read_history(self.folder / "history.csv", self.config)


def read_history(file: Path, config: Mapping[str, Any] | None = None) -> list[dict[str, float]]:
    """Return the rows of a ``history.csv``, numbers as numbers; ``best`` is 0 or 1.

    Args:
        file: The history of a run of any version.
        config: Config of the run; see :func:`emotion_lab.core.migrate.migrate_history`.

    Returns:
        Rows with today's names; a value that was not measured is NaN.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = {"True": 1.0, "False": 0.0, "": math.nan}
    parsed = (
        {key: numbers[text] if text in numbers else float(text) for key, text in row.items()}
        for row in rows
    )
    return migrate_history(parsed, config or {})


def _first_row(folder: Path) -> dict[str, str]:
    """Return the first row of ``history.csv`` in a run directory, empty without one."""
    history = folder / "history.csv"
    if not history.is_file():
        return {}
    with history.open(encoding="utf-8", newline="") as stream:
        return next(csv.DictReader(stream), {})


def has_earlier_loss(folder: Path) -> bool:
    """Return whether an earlier version made a run, which called the criterion ``loss``."""
    return has_old_loss(_first_row(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.yaml`` of a run with today's keys and names of metrics."""
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    config = migrate_config(yaml.safe_load(text))
    return migrate_monitors(config) if has_earlier_loss(folder) else config


def is_run(folder: Path) -> bool:
    """Return whether a directory is a finished run of ``train``."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Run:
    """Read a finished run."""
    if not is_run(folder):
        raise UserError(f"{folder} is no finished training run: {' or '.join(FILES)} is missing.")
    try:
        config = read_config(folder)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        file = folder / ".hydra" / "overrides.yaml"
        overrides = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        if overrides is not None:
            overrides = [migrate_override(str(text)) for text in overrides]
        run = Run(folder, config, metrics, overrides)
        if "best_epoch" in metrics and _first_row(folder).get("epoch") == "0":
            metrics["best_epoch"] += 1
        if has_earlier_loss(folder):
            name = metrics["monitor"].get("name", config["monitor"])
            metrics["monitor"]["name"] = migrate_monitor(name, config)
        _ = run.seed, run.mode, metrics["val"]["accuracy"], metrics["monitor"]["best"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read as a training run: {error}.") from None
    return run


def read_resumes(folder: Path) -> list[dict[str, Any]]:
    """Return the resumes of a run, oldest first; empty if it was never resumed.

    Returns:
        For each resume ``time`` (UTC, ISO 8601), ``epoch`` (completed epochs), ``step`` (optimiser
        steps done), ``changed`` (dotted key -> ``old`` and ``new`` value) and ``commit``.
    """
    file = folder / RESUMES
    if not file.is_file():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["resumes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None


def find(paths: Sequence[str | Path]) -> list[Run]:
    """Return the finished runs in directories.

    Args:
        paths: The paths of ``runs=``: run directories, or folders with runs at any depth.

    Returns:
        Every run once, in the order of ``paths``, then by name with numbers in numeric order.
    """
    if not paths:
        raise UserError("runs is missing: give a sweep directory or a list, runs=[<run>,<run>].")
    result: dict[Path, Run] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"no such run directory: {path}.")
        candidates = [path] if is_run(path) else [p.parent for p in path.rglob("metrics.json")]
        run_dirs = [folder for folder in candidates if is_run(folder)]
        if not run_dirs:
            raise UserError(f"{path} holds no finished training run (config.yaml, metrics.json).")
        for folder in sorted(run_dirs, key=_natural_order):
            if folder.resolve() not in result:
                result[folder.resolve()] = read(folder)
    return list(result.values())


def _natural_order(folder: Path) -> list[tuple[int, int | str]]:
    """Return a sort key that puts ``2`` before ``10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in folder.parts]
