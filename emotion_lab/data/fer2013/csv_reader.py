"""Reading the FER2013 CSV: plain, gzipped or zipped, every value checked.

The format is that of the 2013 challenge (Goodfellow et al. 2013, arXiv:1307.0414): one row per
face with the columns ``emotion`` (0..6), ``pixels`` (2,304 grey values) and ``Usage``.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS

#: Height and width of every FER2013 image, in pixels.
SIZE = 48
PIXELS = SIZE * SIZE

#: The challenge's names for the splits, and ours.
USAGE: dict[str, str] = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}

COLUMNS: tuple[str, ...] = ("emotion", "pixels", "usage")

_EMOTION_OF: dict[bytes, int] = {str(i).encode(): i for i in range(len(EMOTIONS))}
_SPLIT_OF: dict[bytes, str] = {usage.lower().encode(): name for usage, name in USAGE.items()}
_BUFFER = 1 << 20
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


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


@dataclass
class _Header:
    """Positions of the three columns in a row of ``width`` fields."""

    emotion: int
    pixels: int
    usage: int
    width: int


def _zip_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """Return the CSV inside ``archive``, whatever folder it stands in."""
    members = [
        info
        for info in archive.infolist()
        if info.filename.lower().endswith(".csv")
        and not info.filename.startswith("__MACOSX/")
        and not info.filename.rsplit("/", 1)[-1].startswith(".")
    ]
    for wanted in ("fer2013.csv", "icml_face_data.csv"):
        for info in members:
            if info.filename.rsplit("/", 1)[-1].lower() == wanted:
                return info
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
def _open(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Yield a stream of the CSV's bytes and a function that tells the bytes of ``path`` read."""
    name = path.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar")):
        raise UserError(f"{path} is a tar archive; unpack it and set data.path=<the csv>.")
    with path.open("rb") as raw:
        if name.endswith(".zip"):
            with zipfile.ZipFile(raw) as archive:
                member = _zip_member(archive, path)
                if member.flag_bits & 1:
                    raise UserError(f"{path} is encrypted; unpack it and set data.path=<the csv>.")
                with archive.open(member) as inner:
                    yield io.BufferedReader(inner, _BUFFER), raw.tell
        elif name.endswith(".gz"):
            with gzip.open(raw, "rb") as inner:
                yield io.BufferedReader(inner, _BUFFER), raw.tell
        else:
            yield io.BufferedReader(raw, _BUFFER), raw.tell


def _read_header(line: bytes, path: Path) -> _Header:
    """Find the three columns, in any order and case."""
    text = line.decode("utf-8", errors="replace").lstrip("\ufeff").strip()
    found = [name.strip().strip('"').strip() for name in text.split(",")]
    lower = [name.lower() for name in found]
    missing = [name for name in COLUMNS if name not in lower]
    if missing:
        shown = ", ".join(repr(name[:20] + "…" if len(name) > 20 else name) for name in found[:6])
        raise UserError(
            f"Wrong header in row 1 of {path}: found the columns {shown}; expected emotion, "
            f"pixels and Usage (any order). Set data.path to the original fer2013.csv."
        )
    return _Header(*(lower.index(name) for name in COLUMNS), width=len(found))


def _careful(fields: list[bytes], header: _Header, where: str) -> tuple[int, str, np.ndarray]:
    """Read one row slowly and name what is wrong with it; see ``_row`` for the result."""

    def text(value: bytes) -> str:
        return value.strip(b' \t"').decode("utf-8", errors="replace")

    if len(fields) != header.width:
        raise UserError(f"{where}: {len(fields)} columns, expected {header.width} as in row 1.")
    emotion = text(fields[header.emotion])
    if emotion.encode() not in _EMOTION_OF:
        raise UserError(f"{where}: emotion is '{emotion[:20]}', expected 0 to {len(EMOTIONS) - 1}.")
    usage = text(fields[header.usage])
    if usage.lower().encode() not in _SPLIT_OF:
        raise UserError(f"{where}: Usage is '{usage[:20]}', expected one of {', '.join(USAGE)}.")
    tokens = text(fields[header.pixels]).split()
    for number, token in enumerate(tokens, start=1):
        # isdigit alone would let other scripts' digits through.
        if not (token.isascii() and token.isdigit()):
            raise UserError(f"{where}: pixel {number} is '{token[:20]}', expected 0 to 255.")
        if len(token) > 9 or int(token) > 255:
            raise UserError(f"{where}: pixel {number} is {token[:20]}, expected 0 to 255.")
    if len(tokens) != PIXELS:
        raise UserError(
            f"{where}: {len(tokens):,} pixels, expected {PIXELS:,} ({SIZE} x {SIZE}); "
            f"only FER2013's own size can be read."
        )
    pixels = np.array([int(token) for token in tokens], dtype=np.int64)
    return _EMOTION_OF[emotion.encode()], _SPLIT_OF[usage.lower().encode()], pixels


def _row(line: bytes, header: _Header, path: Path, number: int) -> tuple[int, str, np.ndarray]:
    """Return emotion, split and int64 (2304,) pixels of one row.

    The fast path checks everything in C; a row it does not like is read again, slowly.
    """
    fields = line.rstrip(b"\r\n").split(b",")
    if len(fields) == header.width:
        emotion = _EMOTION_OF.get(fields[header.emotion].strip(b' "'))
        split = _SPLIT_OF.get(fields[header.usage].strip(b' "').lower())
        text = fields[header.pixels].strip(b' "')
        # Digits and blanks only, so that fromstring cannot stop early or read signs.
        if emotion is not None and split is not None and not text.translate(None, b"0123456789 "):
            pixels = np.fromstring(text, dtype=np.int64, sep=" ")
            if pixels.size == PIXELS and 0 <= pixels.min() and pixels.max() <= 255:
                return emotion, split, pixels
    return _careful(fields, header, f"row {number} of {path}")


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many bytes of ``path`` were read (terminals only)."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Reading {path.name}", total=path.stat().st_size)
        yield lambda done: bar.update(task, completed=done)


def parse(path: Path) -> dict[str, Arrays]:
    """Read and check every row of ``path``.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.zip`` with the CSV inside.

    Returns:
        The splits the file holds (``train``, ``val``, ``test``), in that order.

    Raises:
        UserError: If the file is damaged or a row is wrong. "Row" is the line number an editor
            shows, the header being row 1.
    """
    images: dict[str, bytearray] = {name: bytearray() for name in USAGE.values()}
    labels: dict[str, list[int]] = {name: [] for name in USAGE.values()}
    rows: dict[str, list[int]] = {name: [] for name in USAGE.values()}
    header: _Header | None = None
    count = 0
    try:
        with _open(path) as (stream, position), _progress(path) as show:
            for number, line in enumerate(stream, start=1):
                if header is None:
                    header = _read_header(line, path)
                    continue
                if not line.strip():
                    continue
                emotion, split, pixels = _row(line, header, path, number)
                images[split] += pixels.astype(np.uint8).tobytes()
                labels[split].append(emotion)
                rows[split].append(count)
                count += 1
                if count % 500 == 0:
                    show(position())
    except _DAMAGE as error:
        raise UserError(f"{path} is truncated or damaged ({error}); fetch it again.") from error
    except (OSError, NotImplementedError) as error:
        raise UserError(f"Cannot read {path}: {error}. Set data.path=<file or folder>.") from error
    if header is None:
        raise UserError(f"{path} is empty; fetch it again or set data.path=<file or folder>.")
    if not count:
        raise UserError(f"{path} has a header and no rows; fetch it again or set data.path.")
    return {
        name: Arrays(
            np.frombuffer(images[name], dtype=np.uint8).reshape(-1, SIZE, SIZE, 1),
            np.array(labels[name], dtype=np.int64),
            np.array(rows[name], dtype=np.int64),
        )
        for name in USAGE.values()
        if labels[name]
    }
