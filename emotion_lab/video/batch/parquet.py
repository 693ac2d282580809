"""``predictions.parquet``: one row for each face, from ``predictions.jsonl``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import replaced_file
from emotion_lab.core.labels import QUANTITY_RANGES

NAME = "predictions.parquet"
#: Column -> type of pyarrow. The columns of a frame repeat for each of its faces; those of a face
#: are null if the frame has none.
FRAME_COLUMNS = {
    "source": "string",
    "frame": "int32",
    "time_s": "float64",
    "image_width": "int32",
    "image_height": "int32",
    "error": "string",
}
FACE_COLUMNS = {
    "id": "int32",
    "x": "float64",
    "y": "float64",
    "width": "float64",
    "height": "float64",
    "score": "float64",
    "label": "string",
    "classified": "bool",
}
#: Further columns of a face; null where they cannot be computed.
QUANTITY_COLUMNS = {
    "valence": "float64",
    "valence_std": "float64",
    "arousal": "float64",
    "arousal_std": "float64",
    "intensity": "float64",
    **{f"{name}_source": "string" for name in QUANTITY_RANGES},
    "pose_yaw": "float64",
    "pose_pitch": "float64",
    "pose_roll": "float64",
    "turned_away": "bool",
}
#: Keys of a face with one value for each class: column ``<key>_<class>``.
CLASS_KEYS = ("probabilities", "smoothed")
#: Rows that are held in memory.
_GROUP = 20_000


def columns(classes: Sequence[str]) -> dict[str, str]:
    """Return column -> type of pyarrow, in order."""
    scores = {f"{key}_{name}": "float64" for key in CLASS_KEYS for name in classes}
    return {**FRAME_COLUMNS, **FACE_COLUMNS, **scores, **QUANTITY_COLUMNS}


def flatten_face(face: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of one face of ``predictions.jsonl``."""
    flat: dict[str, Any] = {}
    for key, value in face.items():
        if key == "box":
            flat.update(zip(("x", "y", "width", "height"), value, strict=True))
        elif key == "quantities":
            flat.update(value)
        elif key == "quantity_source":
            flat.update({f"{name}_source": source for name, source in value.items()})
        elif isinstance(value, dict):
            flat.update({f"{key}_{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


def _rows(log: Path) -> Iterator[dict[str, Any]]:
    with log.open("rb") as file:
        for line in file:
            row = json.loads(line)
            width, height = row.get("size") or (None, None)
            # A name that is not UTF-8 holds bytes that Parquet cannot store.
            source = row["source"].encode(errors="backslashreplace").decode()
            frame = {
                "source": source,
                "frame": row.get("frame"),
                "time_s": row.get("time_s"),
                "image_width": width,
                "image_height": height,
                "error": row.get("error"),
            }
            for face in row["faces"] or [{}]:
                yield {**frame, **flatten_face(face)}


def write_parquet(log: Path, target: Path, classes: Sequence[str]) -> None:
    """Write the rows of ``predictions.jsonl`` as a Parquet file; an earlier one is replaced.

    Raises:
        UserError: If it cannot be written; ``log`` is kept.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(name, pa.type_for_alias(kind)) for name, kind in columns(classes).items()]
    schema = pa.schema(fields)
    rows = _rows(log)
    try:
        with (
            replaced_file(target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            while group := list(itertools.islice(rows, _GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema))
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"Cannot write {target}: {reason}. All results are in {log}; free disk space or check "
            "the permissions, then run the command again."
        ) from None
