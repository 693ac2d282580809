"""Write an exported file: the graph, what it says of itself, and the hashes that hold both."""

from __future__ import annotations

import json
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from emotion_lab.core.environment import versions
from emotion_lab.core.errors import UserError
from emotion_lab.exporters.base import DYNAMIC, FORMATS, CalibrationData, ExportFormat, ExportJob
from emotion_lab.exporters.graph import ExportModel
from emotion_lab.inference.loader import FORMAT, graph_hash, metadata_digest
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble


def file_name(card: dict[str, Any], format: str, precision: str) -> str:
    """Return what an exported file is called, for instance ``senet.fp32.onnx``."""
    model = "ensemble" if "members" in card else card["config"]["model"]["name"]
    return f"{model}.{precision}{FORMATS.get(format).suffix}"


def file_names(card: dict[str, Any], format: str, precision: str) -> list[str]:
    """Return the names of all that :func:`export` writes."""
    path = Path(file_name(card, format, precision))
    return [file.name for file in FORMATS.get(format)().files(path)]


def _versions(kind: ExportFormat, precision: str) -> dict[str, str]:
    found = versions()
    for name in (*kind.packages, *(["nncf"] if precision == "int8" else [])):
        found[name] = metadata.version(name)
    return found


def describe(
    card: dict[str, Any],
    format: str,
    precision: str,
    batch: int | str = DYNAMIC,
    checkpoint: str | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Return what a file says of itself, without the hashes; builtins only.

    Args:
        card: The checkpoint's.
        format: A name of :data:`FORMATS`.
        precision: One of the format's.
        batch: See :class:`ExportJob`.
        checkpoint: sha256 of the checkpoint.
        licence: What may be done with the file.
    """
    kind, given = FORMATS.get(format)(), card["input"]
    # Of an ensemble: the images of its first member, all of which have been trained on the same.
    cards = card.get("members", [card])
    data = cards[0]["config"]["data"]
    return {
        "version": FORMAT,
        "format": format,
        "precision": precision,
        "run_precision": kind.run_precision(precision),
        "batch": batch,
        "classes": list(card["classes"]),
        "input": {
            "name": "faces",
            "dtype": "uint8",
            "layout": "NHWC",
            "colour": "RGB",
            "size": "any; inside the graph it becomes image_size, in channels channels",
            "image_size": int(given["image_size"]),
            "channels": int(given["channels"]),
            "mean": list(given["mean"]),
            "std": list(given["std"]),
        },
        "output": {"name": "probabilities", "dtype": "float32", "layout": "NK"},
        "crop_margin": float(given["crop_margin"]),
        "temperature": float(card["temperature"]),
        "model": [one["config"]["model"]["name"] for one in cards],
        "licence": licence or "not stated",
        "data": {"name": data["name"], "fingerprints": cards[0].get("fingerprints", {})},
        "checkpoint_sha256": checkpoint,
        "versions": _versions(kind, precision),
    }


def export(
    net: EmotionNet | Ensemble,
    card: dict[str, Any],
    format: str,
    precision: str,
    path: Path,
    calibration: CalibrationData | None = None,
    *,
    batch: int | str = DYNAMIC,
    checkpoint: str | None = None,
    licence: str | None = None,
) -> Path:
    """Write one file, completely or not at all.

    Args:
        net: In eval mode, float32, on the CPU; it stays as it is.
        card: The checkpoint's card.
        format: A name of :data:`FORMATS`.
        precision: One of the format's.
        path: The file; its suffix is the format's.
        calibration: For int8.
        batch: See :class:`ExportJob`.
        checkpoint: sha256 of the checkpoint, for the file's metadata.
        licence: What may be done with the file, for its metadata.

    Returns:
        ``path``.

    Raises:
        UserError: If the network cannot be exported so, or the file not be written.
    """
    kind = FORMATS.get(format)()
    if precision not in kind.precisions:
        able = " or ".join(kind.precisions)
        raise UserError(
            f"format={format} cannot be written in precision={precision}: set precision={able}."
        )
    meta = describe(card, format, precision, batch, checkpoint, licence)
    model = ExportModel(net, meta["temperature"]).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        try:
            kind.write(ExportJob(model, precision, batch, calibration), part)
        except Exception as error:  # each exporter has errors of its own for what it cannot do
            if isinstance(error, UserError | OSError | MemoryError):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{card_name(meta)} cannot be exported with format={format} "
                f"precision={precision} ({type(error).__name__}: {reason}). Try another format."
            ) from error
        if path.suffix == ".onnx":
            meta["graph_bytes"] = part.stat().st_size
        meta["graph_sha256"] = graph_hash(part)
        meta["seal"] = metadata_digest(meta)
        kind.label(part, json.dumps(meta))
        for file in kind.files(part):
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(file, path.with_name(file.name))
    return path


def card_name(meta: dict[str, Any]) -> str:
    """Return the network's name for people."""
    return meta["model"][0] if len(meta["model"]) == 1 else f"ensemble of {len(meta['model'])}"


def size_mb(format: str, path: Path) -> float:
    """Return the size of a file, and of what belongs to it, in 10**6 bytes."""
    return sum(file.stat().st_size for file in FORMATS.get(format)().files(path)) / 1e6
