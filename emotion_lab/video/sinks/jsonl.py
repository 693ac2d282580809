"""A line of JSON for every frame; no pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.video.sinks.base import Sink, failed, new_file
from emotion_lab.video.types import Face, Frame, FrameResult


def _shares(values: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(classes, values, strict=True)}


def face_row(face: Face, classes: Sequence[str]) -> dict[str, Any]:
    """Return one face as plain values; ``label`` is None while uncertain."""
    return {
        "id": int(face.id),
        "box": [round(float(value), 2) for value in face.box],
        "score": round(float(face.score), 4),
        "label": None if face.label is None else classes[face.label],
        "probabilities": _shares(face.probabilities, classes),
        "smoothed": _shares(face.smoothed, classes),
    }


def row(result: FrameResult, classes: Sequence[str]) -> dict[str, Any]:
    """Return one frame as plain values for JSON.

    ``time_s`` is seconds in the source, ``wall`` seconds since 1970, ``size`` width and height,
    ``box`` x, y, width, height in source pixels; ``faces`` is empty where there is none.
    """
    return {
        "source": result.source,
        "frame": int(result.frame),
        "time_s": round(float(result.time_s), 6),
        "wall": round(float(result.wall), 6),
        "size": [int(side) for side in result.size],
        "faces": [face_row(face, classes) for face in result.faces],
        "latency_ms": round(float(result.latency_ms), 3),
    }


class JsonlSink(Sink):
    """Writes :func:`row` of every frame as a line.

    Each line is one write to the system, with no buffer of ours: a program that is killed leaves
    whole lines.

    Args:
        path: File to make.
        classes: Class names in the checkpoint's order.
        overwrite: Whether a file that is there may go.

    Attributes:
        path: The file.
        rows: Lines written.

    Raises:
        UserError: If the file cannot be made.
    """

    def __init__(self, path: str | Path, classes: Sequence[str], overwrite: bool = False) -> None:
        self.path = new_file(path, overwrite)
        self.classes = list(classes)
        self.rows = 0
        self._end = 0
        exclusive = os.O_TRUNC if overwrite else os.O_EXCL
        flags = os.O_WRONLY | os.O_CREAT | exclusive | getattr(os, "O_BINARY", 0)
        try:
            self._file: int | None = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise failed(self.path, error, "Nothing was written.") from error

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None = None) -> None:
        """Append a line.

        Raises:
            UserError: On a full disk; a line begun is taken back.
        """
        if self._file is None:
            raise ValueError("the log is closed")
        # NaN is no JSON: a reader would choke on the whole line.
        text = json.dumps(row(result, self.classes), ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode()
        try:
            done = 0
            while done < len(data):  # a disk about to be full takes a part
                done += os.write(self._file, data[done:])
        except BaseException as error:
            if 0 < done < len(data):
                os.ftruncate(self._file, self._end)
                os.lseek(self._file, self._end, os.SEEK_SET)
            if isinstance(error, OSError):
                raise failed(self.path, error, f"It holds {self.rows} whole lines.") from error
            raise
        self._end += len(data)
        self.rows += 1

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)
