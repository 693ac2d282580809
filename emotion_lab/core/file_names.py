"""Files below a folder, without those that operating systems and programs leave behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emotion_lab.core.errors import UserError

#: Names in lower case, besides all names that start with a dot.
_SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        # NAS systems: Synology and QNAP
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("@sharebin", "@synoeastream", "@synoresource", "__pycache__"),
    }
)


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that no user made (``__MACOSX``)."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


@dataclass
class Ignored:
    """What a search for files left out.

    Attributes:
        system: Number of hidden files and folders and those of the system, by name.
        links: Paths of links that are broken or lead to a folder above.
    """

    system: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return a line for each kind of ignored entries, with their number."""
        notes = []
        if self.links:
            names = ", ".join(sorted(self.links)[:5])
            notes.append(f"ignored {len(self.links)} links that are broken or circular: {names}")
        if self.system:
            n, names = sum(self.system.values()), ", ".join(sorted(self.system)[:5])
            notes.append(f"ignored {n} hidden or system files and folders: {names}")
        return notes


def _raise(error: OSError) -> None:
    raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error


def walk(top: Path, ignored: Ignored) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder from ``top`` down and the names of its files; links are followed.

    Folders and names are sorted. ``ignored`` is updated.

    Raises:
        UserError: If a folder cannot be read.
    """
    # Folder -> real paths of it and of the folders it was entered from.
    entered: dict[str, tuple[str, ...]] = {str(top): (os.path.realpath(top),)}
    for parent, folders, names in os.walk(top, followlinks=True, onerror=_raise):
        reals = entered.pop(parent)
        for name in sorted(folders):
            path = str(Path(parent, name))
            real = os.path.realpath(path)
            if is_system_name(name):
                ignored.system[name] += 1
            elif any(Path(above).is_relative_to(real) for above in reals):
                ignored.links.append(path)
            else:
                entered[path] = (*reals, real)
        folders[:] = sorted(name for name in folders if str(Path(parent, name)) in entered)
        ignored.system.update(name for name in names if is_system_name(name))
        yield Path(parent), sorted(name for name in names if not is_system_name(name))
