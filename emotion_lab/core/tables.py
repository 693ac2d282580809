"""Text tables: borders and colour on a terminal, aligned plain text in a pipe, and CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emotion_lab.core.io import atomic_write, to_bytes

#: A width that no row reaches, so that rich neither wraps nor truncates cells.
_UNLIMITED = 100_000


@dataclass(frozen=True)
class TextTable:
    """A table; its cells are printed as they are, without rich's markup.

    Attributes:
        header: Names of the C columns.
        rows: Rows of C cells; an empty row separates sections.
        left: Indices of the columns with text, aligned to the left. All others, the columns with
            numbers, are aligned to the right.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: Sequence[int] = (0,)

    def _build(self, terminal: bool) -> Table:
        if terminal:
            table = Table(box=box.ROUNDED, border_style="dim", header_style="bold cyan")
        else:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if index in self.left else "right")
        for row in self.rows:
            if row or not terminal:
                table.add_row(*(Text(str(cell)) for cell in row))
            else:
                table.add_section()
        return table

    def __str__(self) -> str:
        """Return plain text: one line per row, no borders, no colours, no trailing spaces."""
        console = Console(file=io.StringIO(), width=_UNLIMITED, color_system=None)
        with console.capture() as capture:
            console.print(self._build(terminal=False))
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def show(*blocks: str | TextTable) -> None:
    """Print lines and tables to stdout, with borders on a terminal that is wide enough."""
    console = Console()
    for block in blocks:
        if console.is_terminal and isinstance(block, TextTable):
            table = block._build(terminal=True)
            # A narrow terminal would fold or truncate the cells.
            if console.measure(table).maximum < console.width:
                console.print(table)
                continue
        print(block, flush=True)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV with a header, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, to_bytes(text.getvalue()))
