"""Progress of long loops: a bar on a terminal, else a line each minute or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterable[T]:
    """Yield ``items`` and show a progress bar, which is removed at the end."""
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


#: Seconds between two lines where there is no terminal.
_LINE_S = 60.0


@contextmanager
def file_progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show the number of files, files per second and the time left, on standard error.

    Yields:
        A function to call after each file.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(
        TextColumn("{task.description}"),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    begin = last_line = time.monotonic()
    done = 0

    def advance() -> None:
        nonlocal done, last_line
        done += 1
        now = time.monotonic()
        rate = done / max(1e-9, now - begin)
        bar.update(task, completed=done, rate=f"{rate:.1f} files/s")
        if not console.is_terminal and now - last_line > _LINE_S:
            last_line = now
            minutes = (total - done) / rate / 60
            console.print(
                f"{done:,} of {total:,} files, {rate:.1f} files/s, {minutes:.0f} min left"
            )

    with bar:
        task = bar.add_task(title, total=total, rate="")
        yield advance
