"""Files of a recording: the frames of a source, and every decision with its time.

    recording.json    header, see :func:`read_header`
    recording.jsonl   one line per frame, see :func:`read_rows`
    pictures/         the frames, or the faces alone, one file each

A line is written after its pictures, so a killed process leaves only whole frames behind. The run
directory of a replay has the first two files, without pictures.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import check_inside

HEADER, ROWS, PICTURES = "recording.json", "recording.jsonl", "pictures"
#: Version of the files; readers refuse other versions.
FORMAT = 1
#: Margin of a recorded face around its box, as a fraction: enough for the crop of other models.
FACE_MARGIN = 0.5
_HEADER_KEYS = ("what", "source", "fps", "truth", "classes", "settings", "replay_of", "frames")
_REGION_KEYS = ("left", "top", "width", "height")


def is_recording(path: Path) -> bool:
    """Return whether a path is the folder of a recording, or the run directory of a replay."""
    return (path / HEADER).is_file()


def read_header(folder: Path) -> dict[str, Any]:
    """Return the header of a recording.

    ``what`` (frames, faces, or none for a replay), ``source``, ``fps``, ``truth`` (of a synthetic
    clip), ``classes``, ``settings`` (config of the run), ``replay_of`` (the recording, or None),
    and ``frames``, their number, which is None if the run was killed.
    """
    path = folder / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version = header["format"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: it is not the header of a recording.") from None
    if version != FORMAT:
        raise UserError(f"{path} has format {version}, this program reads {FORMAT}: upgrade.")
    missing = [key for key in _HEADER_KEYS if key not in header]
    if missing:
        raise UserError(f"{path} is damaged: {', '.join(missing)} is missing.")
    return header


def _check_row(row: Any, previous: dict[str, Any] | None, where: str) -> None:
    """Check frame number, times and pictures of a row, which must follow ``previous``."""
    try:
        times = [float(row["time_s"]), float(row["wall"])]
        is_valid = all(map(math.isfinite, times)) and isinstance(row["frame"], int)
        for picture in row.get("pictures", ()):
            values = [picture["bytes"], *(picture[key] for key in _REGION_KEYS)]
            is_valid = is_valid and all(isinstance(value, int) for value in values)
            check_inside(picture["file"], where)
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise UserError(f"{where} is damaged: it has no frame number, times and pictures.")
    for key in ("frame", "time_s"):
        if previous is not None and row[key] < previous[key]:
            raise UserError(
                f"{where}: {key} goes back from {previous[key]:g} to {row[key]:g}. The lines of a "
                "recording are in order of time; copy the file again."
            )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a recording, in order of time.

    A row has the keys of :func:`~emotion_lab.video.sinks.jsonl.result_to_dict`. That of a recording
    also has ``pictures`` (``file``, ``bytes``, and the region ``left``, ``top``, ``width``,
    ``height`` in the frame) and, if faces are recorded, ``tracks``. An incomplete last line, which
    a killed process can leave, is left out.
    """
    path = folder / ROWS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: it is not UTF-8 text.") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            raise UserError(f"{where} is damaged: it is not JSON. Copy the file again.") from None
        _check_row(row, rows[-1] if rows else None, where)
        rows.append(row)
    return rows
