"""Write an exported file: graph, metadata and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotion_lab.core.environment import versions
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import move_into_place, scratch_folder
from emotion_lab.core.labels import QUANTITY_RANGES
from emotion_lab.inference.conversion.base import (
    DYNAMIC,
    FORMATS,
    CalibrationData,
    ExportFormat,
    ExportJob,
    check_precision,
    package_versions,
)
from emotion_lab.inference.conversion.graph import ExportModel
from emotion_lab.inference.metadata import FORMAT, graph_hash, metadata_digest
from emotion_lab.models.network import Network


def file_name(card: dict[str, Any], format: str, precision: str) -> str:
    """Return the name of an exported file, for instance ``senet.fp32.onnx``."""
    model = "ensemble" if "members" in card else card["config"]["model"]["name"]
    return f"{model}.{precision}{FORMATS.get(format).suffix}"


def file_names(card: dict[str, Any], format: str, precision: str) -> list[str]:
    """Return the names of all files that :func:`export` writes."""
    path = Path(file_name(card, format, precision))
    return [file.name for file in FORMATS.get(format)().files(path)]


def size_mb(format: str, path: Path) -> float:
    """Return the size of an export, all its files together, in 10**6 bytes."""
    return sum(file.stat().st_size for file in FORMATS.get(format)().files(path)) / 1e6


def _interface(card: dict[str, Any], resize: bool) -> dict[str, dict[str, Any]]:
    """Return the metadata of the graph's input and outputs."""
    spec, quantities = card["input"], {}
    if resize and (learned := card.get("quantities")):
        quantities["quantities"] = {
            "name": "quantities",
            "dtype": "float32",
            "layout": "NQ",
            "columns": list(learned),
            "ranges": [list(QUANTITY_RANGES[name]) for name in learned],
        }
    if resize:
        graph_input: dict[str, Any] = {"name": "faces", "layout": "NHWC", "colour": "RGB"}
        graph_input["size"] = "any; inside the graph it becomes image_size, in channels channels"
    else:
        graph_input = {"name": "images", "layout": "NCHW", "colour": "RGB", "size": "image_size"}
    return {
        "input": {
            **graph_input,
            "dtype": "uint8",
            "image_size": int(spec["image_size"]),
            "channels": int(spec["channels"]),
            "mean": list(spec["mean"]),
            "std": list(spec["std"]),
        },
        "output": {
            "name": "probabilities" if resize else "logits",
            "dtype": "float32",
            "layout": "NK",
        },
        **quantities,
    }


def _describe(
    card: dict[str, Any],
    format: str,
    precision: str,
    batch: int | str,
    checkpoint: str | None,
    licence: str | None,
    resize: bool,
) -> dict[str, Any]:
    """Return the metadata of a file without the hashes; builtins only."""
    # The members of an ensemble are trained on the same images: those of the first one.
    cards = card.get("members", [card])
    data = cards[0]["config"]["data"]
    return {
        "version": FORMAT,
        "format": format,
        "precision": precision,
        "run_precision": FORMATS.get(format)().run_precision(precision),
        "batch": batch,
        "classes": list(card["classes"]),
        **_interface(card, resize),
        "crop_margin": float(card["input"]["crop_margin"]),
        "temperature": float(card["temperature"]),
        "vote_shares": card.get("vote_shares"),
        "neutral": card.get("neutral"),
        "model": [member["config"]["model"]["name"] for member in cards],
        "licence": licence or "not stated",
        "data": {"name": data["name"], "fingerprints": cards[0].get("fingerprints", {})},
        "checkpoint_sha256": checkpoint,
        "versions": {**versions(), **package_versions(format, precision)},
    }


def _write_graph(kind: ExportFormat, job: ExportJob, path: Path, meta: dict[str, Any]) -> None:
    """Write the graph; turn the errors of the exporters into a UserError."""
    try:
        kind.write(job, path)
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # exporters raise arbitrary exceptions for unsupported networks
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        models = meta["model"]
        name = models[0] if len(models) == 1 else f"ensemble of {len(models)}"
        raise UserError(
            f"{name} cannot be exported with format={meta['format']} "
            f"precision={meta['precision']} ({type(error).__name__}: {reason}). "
            "Try another format."
        ) from error


def export(
    net: Network,
    card: dict[str, Any],
    format: str,
    precision: str,
    path: Path,
    calibration: CalibrationData | None = None,
    *,
    batch: int | str = DYNAMIC,
    checkpoint: str | None = None,
    licence: str | None = None,
    resize: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write one file atomically and return its path.

    Args:
        net: In eval mode, float32, on the CPU; it is not modified. It returns the learned
            ``quantities`` of the card after the logits, see
            :func:`emotion_lab.models.quantities_head.join`.
        card: The checkpoint's card.
        path: Target file; its suffix is the format's.
        calibration: Required for int8.
        batch: See :class:`ExportJob`.
        checkpoint: sha256 of the checkpoint, for the metadata.
        licence: Licence of the file, for the metadata.
        resize: See :class:`ExportModel`.
        extra: Further metadata entries.
    """
    check_precision(format, precision)
    kind = FORMATS.get(format)()
    meta = _describe(card, format, precision, batch, checkpoint, licence, resize) | dict(
        extra or {}
    )
    model = ExportModel(net, meta["temperature"], resize, len(card.get("quantities", []))).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, ".export-") as folder:
        part = folder / path.name
        _write_graph(kind, ExportJob(model, precision, batch, calibration), part, meta)
        if path.suffix == ".onnx":
            meta["graph_bytes"] = part.stat().st_size
        meta["graph_sha256"] = graph_hash(part)
        meta["seal"] = metadata_digest(meta)
        kind.label(part, json.dumps(meta))
        move_into_place(kind.files(part), path.parent)
    return path
