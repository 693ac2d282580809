"""CSV files as spreadsheets save them: UTF-8 or UTF-16, with commas, semicolons or tabs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

_DELIMITERS = ",;\t"


def utf16_encoding(start: bytes) -> str | None:
    """Return the UTF-16 encoding of a file with these first two bytes, None for any other.

    Without a byte order mark, the first character must be ASCII.
    """
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(
        (start[:1] == b"\0", start[1:2] == b"\0")
    )


def delimiter_of(header: str) -> str:
    """Return the character that separates the columns of a header: comma, semicolon or tab."""
    return max(_DELIMITERS, key=header.count)


def read_rows(path: Path) -> list[list[str]]:
    """Return all rows of a CSV file; names that are not UTF-8 keep their bytes.

    Raises:
        OSError: If the file cannot be read.
        UnicodeError: If it is damaged UTF-16.
        csv.Error: If it is no CSV.
    """
    data = path.read_bytes()
    encoding = utf16_encoding(data[:2])
    text = data.decode(encoding) if encoding else data.decode("utf-8-sig", "surrogateescape")
    text = text.lstrip("\ufeff")
    delimiter = delimiter_of(text.partition("\n")[0])
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
