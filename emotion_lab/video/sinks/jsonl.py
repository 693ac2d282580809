"""Writes one JSON line per frame, without pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.video.sinks.base import Sink, new_file, write_error
from emotion_lab.video.types import Face, Frame, FrameResult


def _by_class(values: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(classes, values, strict=True)}


def face_to_dict(face: Face, classes: Sequence[str], reduced: int = 1) -> dict[str, Any]:
    """Return one face as JSON types; ``label`` is None while uncertain, ``pose`` in degrees."""
    pose = None if face.pose is None else {k: round(v, 2) for k, v in asdict(face.pose).items()}
    return {
        "id": int(face.id),
        "box": [round(reduced * float(value), 2) for value in face.box],
        "score": round(float(face.score), 4),
        "label": None if face.label is None else classes[face.label],
        "classified": face.classified,
        "probabilities": _by_class(face.probabilities, classes),
        "smoothed": _by_class(face.smoothed, classes),
        "quantities": {k: None if v is None else round(v, 4) for k, v in face.quantities.items()},
        "quantity_source": dict(face.quantity_source),
        "pose": pose,
        "turned_away": bool(face.turned_away),
    }


def result_to_dict(result: FrameResult, classes: Sequence[str]) -> dict[str, Any]:
    """Return one frame as JSON types.

    ``time_s`` is seconds in the source, ``wall`` seconds since 1970, ``size`` width and height,
    ``box`` x, y, width, height in source pixels; ``faces`` is empty if there is none;
    ``latency_ms`` is None in a replay, whose lines depend on the recording and the model only.
    """
    return {
        "source": result.source,
        "frame": int(result.frame),
        "time_s": round(float(result.time_s), 6),
        "wall": round(float(result.wall), 6),
        "size": [result.reduced * int(side) for side in result.size],
        "faces": [face_to_dict(face, classes, result.reduced) for face in result.faces],
        "latency_ms": None if result.replayed else round(float(result.latency_ms), 3),
    }


def json_line(row: dict[str, Any]) -> bytes:
    """Return a row as one line of JSON."""
    # NaN is not valid JSON and would make the line unreadable.
    text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 becomes an escape, from which JSON restores the name.
    return text.encode(errors="backslashreplace")


class LineWriter:
    """Appends complete lines to a file.

    Each block of lines is one unbuffered system call, so a killed process leaves complete lines.

    Args:
        overwrite: Whether an existing file is replaced.
        append: Whether lines are added to an existing file.

    Attributes:
        rows: Number of lines written.
    """

    def __init__(self, path: Path, overwrite: bool = False, append: bool = False) -> None:
        self.path = path
        self.rows = 0
        mode = os.O_APPEND if append else os.O_TRUNC if overwrite else os.O_EXCL
        flags = os.O_WRONLY | os.O_CREAT | mode | getattr(os, "O_BINARY", 0)
        try:
            self._file: int | None = os.open(path, flags, 0o666)
        except OSError as error:
            raise write_error(path, error, "Nothing was written.") from error
        self._size = os.fstat(self._file).st_size  # bytes of complete lines

    def write(self, row: dict[str, Any]) -> None:
        """Append a row as JSON, see :meth:`append`."""
        self.append(json_line(row))

    def append(self, data: bytes, rows: int = 1) -> None:
        """Append lines; if the disk is full, remove the incomplete block and raise."""
        if self._file is None:
            raise ValueError("the file is closed")
        written = 0
        try:
            while written < len(data):  # a nearly full disk accepts only a part
                written += os.write(self._file, data[written:])
        except BaseException as error:
            if 0 < written < len(data):
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
            if isinstance(error, OSError):
                state = f"It contains {self.rows} complete lines."
                raise write_error(self.path, error, state) from error
            raise
        self._size += len(data)
        self.rows += rows

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


class JsonlSink(Sink):
    """Writes :func:`result_to_dict` of every frame as one line."""

    def __init__(self, path: str | Path, classes: Sequence[str], overwrite: bool = False) -> None:
        self.path = new_file(path, overwrite)
        self.classes = list(classes)
        self._lines = LineWriter(self.path, overwrite)

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Append a line."""
        self._lines.write(result_to_dict(result, self.classes))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
