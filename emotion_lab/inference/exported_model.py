"""Run an exported file in the place of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.inference.base import InferenceBackend, input_spec
from emotion_lab.inference.conversion.base import package_version
from emotion_lab.inference.loader import RunOptions, open_model

#: Suffix -> accepted values of ``backend=``, the package first.
BACKEND_NAMES = {
    ".onnx": ("onnxruntime", "onnx", "openvino"),
    ".xml": ("openvino",),
    ".torchscript": ("torch",),
    ".pt2": ("torch",),
}
#: Lower bound of a probability before its logarithm is taken.
SMALLEST = np.finfo(np.float32).tiny


def to_rgb_batch(images: np.ndarray) -> np.ndarray:
    """Convert uint8 (B, C, S, S) to the input of exported files, RGB uint8 (B, S, S, 3).

    Grey converted to RGB becomes the same grey again inside the graph.
    """
    channels_last = images.transpose(0, 2, 3, 1)
    if channels_last.shape[3] == 1:
        channels_last = channels_last.repeat(3, axis=3)
    return np.ascontiguousarray(channels_last)


def _check(path: Path, cfg: dict[str, Any], supported: dict[str, tuple[str, ...]]) -> None:
    """Reject options that are fixed by the file."""
    for key, values in supported.items():
        if cfg[key] not in ("auto", *values):
            option = "backend" if key == "name" else f"backend.{key}"
            raise UserError(
                f"{option}={cfg[key]} is not for {path}, which runs with {values[0]}: leave "
                f"{option}=auto, or use the checkpoint it was exported from."
            )


def open_exported(
    path: Path, cfg: dict[str, Any]
) -> tuple[dict[str, Any], InputSpec, InferenceBackend]:
    """Open an exported file as if it were a checkpoint.

    Faces are resized before the graph, as for a checkpoint: OpenVINO would recompile its kernels
    for every face size of a video.

    Only the threads of ``cfg``, the complete config of the backend, can be chosen; for an .onnx
    file also ``name=openvino``, and with it a precision.

    Returns:
        A card (``classes``, ``temperature``, ``input``, ``checkpoint_sha256`` or None), the
        network's input, and the backend. Its logits are the logarithms of the probabilities, so
        the temperature of the card is 1.
    """
    _check(path, cfg, {"name": BACKEND_NAMES[path.suffix], "device": ("cpu",)})
    package = cfg["name"] if cfg["name"] == "openvino" else BACKEND_NAMES[path.suffix][0]
    in_openvino = path.suffix == ".onnx" and package == "openvino"
    asked = None if cfg["precision"] == "auto" or not in_openvino else cfg["precision"]
    is_resized = in_openvino or path.suffix == ".xml"
    model = open_model(path, RunOptions(cfg["threads"], asked, openvino=is_resized))
    values = model.meta["input"]
    # Files of earlier versions contain OpenVINO's names.
    precision = asked or str(model.meta["run_precision"])
    precision = {"f32": "fp32", "f16": "fp16"}.get(precision, precision)
    is_int8 = model.meta["precision"] == "int8"
    shown = "int8" if is_int8 else precision
    _check(path, cfg, {"precision": (shown,)})

    def run(images: np.ndarray) -> np.ndarray:
        probabilities, quantities = model.predict(to_rgb_batch(images))
        return np.concatenate([np.log(np.maximum(probabilities, SMALLEST)), quantities], 1)

    card = {
        "classes": model.classes,
        "temperature": 1.0,
        "vote_shares": model.meta.get("vote_shares"),
        "neutral": model.meta.get("neutral"),
        "quantities": model.quantities,
        "config": {"data": {"name": model.meta.get("data", {}).get("name")}},
        "input": {**values, "crop_margin": model.crop_margin},
        "checkpoint_sha256": model.meta.get("checkpoint_sha256"),
    }
    name = f"{package} {package_version(package)} {shown} on cpu"
    note = f"the exported file {path.name}, {model.meta['precision']}"
    return card, input_spec(values), InferenceBackend(name, run, [note])
