"""What a search was asked for, written down in its folder: going on needs nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotion_lab.errors import UserError
from emotion_lab.files import write_whole

#: In the folder of the search.
FILE = "search.json"


@dataclass
class Asked:
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
        write_whole(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def load(folder: Path) -> Asked:
    """Return what the search of a folder was asked for.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"resume={folder}: no search to go on with (no {FILE}).")
    try:
        return Asked(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
