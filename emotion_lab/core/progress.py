"""A progress bar for long work, on a terminal only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """Yield ``items`` with a progress bar; it is gone when the work is done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items,
        description=title,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
