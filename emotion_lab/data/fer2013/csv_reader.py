"""Reader of the FER2013 CSV: plain, gzipped or zipped, with validation of every value.

The format is that of the 2013 challenge (Goodfellow et al. 2013, arXiv:1307.0414): one row per
face with the columns ``emotion`` (0..6), ``pixels`` (2,304 grey levels) and ``Usage``.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emotion_lab.core.csv_input import delimiter_of, utf16_encoding
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS

#: Height and width of every FER2013 image, in pixels.
SIZE = 48
PIXELS = SIZE * SIZE

#: Split name of the challenge -> split name.
USAGE: dict[str, str] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}

COLUMNS: tuple[str, ...] = ("emotion", "pixels", "usage")

_EMOTION_OF: dict[bytes, int] = {str(i).encode(): i for i in range(len(EMOTIONS))}
_SPLIT_OF: dict[bytes, str] = {usage.lower().encode(): name for usage, name in USAGE.items()}
_BUFFER_SIZE = 1 << 20
_CORRUPT_ARCHIVE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@dataclass
class Arrays:
    """One split in memory.

    Attributes:
        images: uint8 (N, 48, 48, 1).
        labels: int64 (N,), positions in ``EMOTIONS``.
        rows: int64 (N,), row of the image in the file, counted from 0 below the header.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


class _Header(NamedTuple):
    """Positions of the three columns in a row of ``num_fields`` fields, and what separates them."""

    emotion: int
    pixels: int
    usage: int
    num_fields: int
    delimiter: bytes


def _zip_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """Return the CSV in ``archive``, in any folder."""
    members = [
        info
        for info in archive.infolist()
        if info.filename.lower().endswith(".csv")
        and not info.filename.startswith("__MACOSX/")
        and not info.filename.rsplit("/", 1)[-1].startswith(".")
    ]
    by_name = {info.filename.rsplit("/", 1)[-1].lower(): info for info in reversed(members)}
    for name in ("fer2013.csv", "icml_face_data.csv"):
        if name in by_name:
            return by_name[name]
    if len(members) == 1:
        return members[0]
    if members:
        listed = ", ".join(info.filename for info in members[:5])
        raise UserError(
            f"{path} holds {len(members)} CSV files ({listed}) and none is called fer2013.csv; "
            f"unpack it and set data.path=<the csv>."
        )
    raise UserError(
        f"{path} holds no CSV file; if it holds folders of images, unpack it and use "
        f"data=image_folder data.path=<folder>."
    )


@contextmanager
def _open(path: Path) -> Iterator[tuple[io.BufferedReader, Callable[[], int]]]:
    """Yield the decompressed CSV and a function that returns the bytes of ``path`` read so far."""
    name = path.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar")):
        raise UserError(f"{path} is a tar archive; unpack it and set data.path=<the csv>.")
    with path.open("rb") as raw:
        if name.endswith(".zip"):
            with zipfile.ZipFile(raw) as archive:
                member = _zip_member(archive, path)
                if member.flag_bits & 1:
                    raise UserError(f"{path} is encrypted; unpack it and set data.path=<the csv>.")
                with archive.open(member) as stream:
                    yield _buffered(stream), raw.tell
        elif name.endswith(".gz"):
            with gzip.open(raw, "rb") as stream:
                yield _buffered(stream), raw.tell
        else:
            yield raw, raw.tell


def _buffered(stream: Any) -> io.BufferedReader:
    return io.BufferedReader(stream, _BUFFER_SIZE)


def _lines(stream: io.BufferedReader) -> Iterable[bytes]:
    """Return the lines in UTF-8; the file may be UTF-16."""
    encoding = utf16_encoding(stream.peek(2)[:2])
    if encoding is None:
        return stream
    return (line.encode() for line in io.TextIOWrapper(stream, encoding))


def _read_header(line: bytes, path: Path) -> _Header:
    """Return the positions of the three columns; they may be in any order and case."""
    text = line.decode("utf-8", errors="replace").lstrip("\ufeff").strip()
    delimiter = delimiter_of(text)
    names = [name.strip().strip('"').strip() for name in text.split(delimiter)]
    lower = [name.lower() for name in names]
    if not set(COLUMNS) <= set(lower):
        shown = ", ".join(repr(name[:20] + "…" if len(name) > 20 else name) for name in names[:6])
        raise UserError(
            f"Wrong header in row 1 of {path}: found the columns {shown}; expected emotion, "
            f"pixels and Usage (any order). Set data.path to the original fer2013.csv."
        )
    emotion, pixels, usage = (lower.index(name) for name in COLUMNS)
    return _Header(emotion, pixels, usage, len(names), delimiter.encode())


def _parse_fields(fields: list[bytes], header: _Header, where: str) -> tuple[int, str, np.ndarray]:
    """Parse one row value by value, with an exact error message; returns as ``_parse_row``."""

    def text(value: bytes) -> str:
        return value.strip(b' \t"').decode("utf-8", errors="replace")

    if len(fields) != header.num_fields:
        raise UserError(
            f"{where}: {len(fields)} columns, expected {header.num_fields} as in row 1."
        )
    emotion = text(fields[header.emotion])
    if emotion.encode() not in _EMOTION_OF:
        raise UserError(f"{where}: emotion is '{emotion[:20]}', expected 0 to {len(EMOTIONS) - 1}.")
    usage = text(fields[header.usage])
    if usage.lower().encode() not in _SPLIT_OF:
        raise UserError(f"{where}: Usage is '{usage[:20]}', expected one of {', '.join(USAGE)}.")
    tokens = text(fields[header.pixels]).split()
    for number, token in enumerate(tokens, start=1):
        # isdigit alone accepts digits of other scripts.
        if not (token.isascii() and token.isdigit()):
            raise UserError(f"{where}: pixel {number} is '{token[:20]}', expected 0 to 255.")
        if len(token) > 9 or int(token) > 255:
            raise UserError(f"{where}: pixel {number} is {token[:20]}, expected 0 to 255.")
    if len(tokens) != PIXELS:
        raise UserError(
            f"{where}: {len(tokens):,} pixels, expected {PIXELS:,} ({SIZE} x {SIZE}); "
            f"only the size of FER2013 is supported."
        )
    pixels = np.array([int(token) for token in tokens], dtype=np.int64)
    return _EMOTION_OF[emotion.encode()], _SPLIT_OF[usage.lower().encode()], pixels


def _parse_row(
    line: bytes, header: _Header, path: Path, number: int
) -> tuple[int, str, np.ndarray]:
    """Return emotion, split and int64 (2304,) pixels of one row.

    The fast path validates in C; rows that fail are parsed again value by value.
    """
    fields = line.rstrip(b"\r\n").split(header.delimiter)
    if len(fields) == header.num_fields:
        emotion = _EMOTION_OF.get(fields[header.emotion].strip(b' "'))
        split = _SPLIT_OF.get(fields[header.usage].strip(b' "').lower())
        text = fields[header.pixels].strip(b' "')
        # Digits and blanks only, so that fromstring cannot stop early or accept signs.
        if emotion is not None and split is not None and not text.translate(None, b"0123456789 "):
            pixels = np.fromstring(text, dtype=np.int64, sep=" ")
            if pixels.size == PIXELS and pixels.min() >= 0 and pixels.max() <= 255:
                return emotion, split, pixels
    return _parse_fields(fields, header, f"row {number} of {path}")


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that displays the number of bytes read (terminals only)."""
    if not sys.stderr.isatty():
        yield lambda bytes_read: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Reading {path.name}", total=path.stat().st_size)
        yield lambda bytes_read: bar.update(task, completed=bytes_read)


def parse(path: Path) -> dict[str, Arrays]:
    """Parse and validate every row of ``path``.

    Error messages count rows like an editor: the header is row 1.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.zip`` with the CSV inside: UTF-8 or UTF-16, separated by
            commas, semicolons or tabs.

    Returns:
        The splits in the file, in the order ``train``, ``val``, ``test``.
    """
    images: dict[str, bytearray] = {name: bytearray() for name in USAGE.values()}
    labels: dict[str, list[int]] = {name: [] for name in USAGE.values()}
    rows: dict[str, list[int]] = {name: [] for name in USAGE.values()}
    header: _Header | None = None
    count = 0
    try:
        with _open(path) as (stream, bytes_read), _progress(path) as show:
            for number, line in enumerate(_lines(stream), start=1):
                if header is None:
                    header = _read_header(line, path)
                    continue
                if not line.strip():
                    continue
                emotion, split, pixels = _parse_row(line, header, path, number)
                images[split] += pixels.astype(np.uint8).tobytes()
                labels[split].append(emotion)
                rows[split].append(count)
                count += 1
                if count % 500 == 0:
                    show(bytes_read())
    except (*_CORRUPT_ARCHIVE, UnicodeError) as error:
        raise UserError(f"{path} is truncated or damaged ({error}); download it again.") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"Cannot read {path}: {error}. Set data.path=<file or folder>.") from error
    if header is None:
        raise UserError(f"{path} is empty; download it again or set data.path=<file or folder>.")
    if not count:
        raise UserError(f"{path} has a header and no rows; download it again or set data.path.")
    return {
        name: Arrays(
            np.frombuffer(images[name], dtype=np.uint8).reshape(-1, SIZE, SIZE, 1),
            np.array(labels[name], dtype=np.int64),
            np.array(rows[name], dtype=np.int64),
        )
        for name in USAGE.values()
        if labels[name]
    }
