"""Run folders of ``train`` as other commands find them. Nothing here imports torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emotion_lab.core.errors import UserError
from emotion_lab.core.migrate import migrate_config, migrate_override

#: What makes a folder a finished run of ``train``.
FILES = ("config.yaml", "metrics.json")


def monitor_mode(cfg: Mapping[str, Any]) -> str:
    """Return whether more (``max``) or less (``min``) of the monitored metric is better."""
    mode = cfg["trainer"]["monitor_mode"]
    return ("min" if "loss" in cfg["monitor"] else "max") if mode == "auto" else mode


@dataclass(frozen=True)
class Run:
    """A finished run of ``train``.

    Attributes:
        folder: The run folder.
        config: Its resolved config.
        metrics: Its ``metrics.json``: ``val`` (scores), ``seed``, ``monitor``, ``seconds``, ...
        overrides: What was typed; None where the run did not write it down.
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
        """Whether more (``max``) or less (``min``) of the monitored metric is better."""
        return monitor_mode(self.config)

    def history(self) -> list[dict[str, float]]:
        """Return the rows of ``history.csv``, numbers as numbers; ``best`` is 0 or 1."""
        with open(self.folder / "history.csv", encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        words = {"True": 1.0, "False": 0.0}
        return [
            {key: words[text] if text in words else float(text) for key, text in row.items()}
            for row in rows
        ]


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a finished run of ``train``."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        UserError: If it is none, or its files cannot be read.
    """
    if not is_run(folder):
        raise UserError(f"{folder} is no finished training run: it lacks {' or '.join(FILES)}.")
    try:
        config = migrate_config(
            yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        )
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        typed = folder / ".hydra" / "overrides.yaml"
        overrides = yaml.safe_load(typed.read_text(encoding="utf-8")) if typed.is_file() else None
        if overrides is not None:
            overrides = [migrate_override(str(text)) for text in overrides]
        run = Run(folder, config, metrics, overrides)
        _ = run.seed, run.mode, metrics["val"]["accuracy"], metrics["monitor"]["best"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read as a training run: {error}.") from None
    return run


def find(places: Iterable[Path]) -> list[Run]:
    """Return the finished runs of run folders, sweep folders, or folders that hold such.

    Args:
        places: Each a run, or a folder in which runs lie at any depth.

    Returns:
        Every run once, in the order of the places and of their names (numbers as numbers).

    Raises:
        UserError: For a place that is missing or holds no finished run.
    """
    found: dict[Path, Run] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"no such run folder: {place}.")
        folders = [place] if is_run(place) else [p.parent for p in place.rglob("metrics.json")]
        runs = [folder for folder in folders if is_run(folder)]
        if not runs:
            raise UserError(f"{place} holds no finished training run (config.yaml, metrics.json).")
        for folder in sorted(runs, key=_natural):
            if folder.resolve() not in found:
                found[folder.resolve()] = read(folder)
    return list(found.values())


def _natural(folder: Path) -> list[tuple[int, int | str]]:
    """Sort ``2`` before ``10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in folder.parts]
