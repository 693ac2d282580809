"""An exported file in a checkpoint's place: what it says of itself, and what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.inference.auto_select import version
from emotion_lab.inference.base import InferenceBackend
from emotion_lab.inference.loader import load
from emotion_lab.models.base import InputSpec

#: By suffix: what ``backend=`` may say of such a file, the package first.
PROGRAMS = {
    ".onnx": ("onnxruntime", "onnx"),
    ".xml": ("openvino",),
    ".torchscript": ("torch",),
    ".pt2": ("torch",),
}
#: Below it a probability counts as this much, so that its logarithm is finite.
SMALLEST = np.finfo(np.float32).tiny


def faces(images: np.ndarray) -> np.ndarray:
    """Return uint8 (B, C, S, S) as exported files take it: RGB, uint8 (B, S, S, 3).

    Grey made RGB becomes the same grey again inside the graph.
    """
    last = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(last if last.shape[3] == 3 else last.repeat(3, axis=3))


def _check(path: Path, cfg: dict[str, Any], precision: str | None = None) -> None:
    """Refuse options that a file, once written, does not leave open."""
    able = {"name": PROGRAMS[path.suffix], "device": ("cpu",)}
    if precision is not None:
        able = {"precision": (precision,)}
    for key, words in able.items():
        if cfg[key] not in ("auto", *words):
            typed = "backend" if key == "name" else f"backend.{key}"
            raise UserError(
                f"{typed}={cfg[key]} is not for {path}, which runs with {words[0]}: leave "
                f"{typed}=auto, or give the checkpoint it was made of."
            )


def open_exported(
    path: Path, cfg: dict[str, Any]
) -> tuple[dict[str, Any], InputSpec, InferenceBackend]:
    """Open an exported file as if it were a checkpoint.

    Faces are brought to size before the graph, as a checkpoint's are: OpenVINO would build its
    kernels anew for every size of face that a film shows.

    Args:
        path: What ``python -m emotion_lab.export`` wrote.
        cfg: The runtime's config, complete; only its threads are free.

    Returns:
        A card (``classes``, ``temperature``, ``input``), the network's input, and the runtime. Its
        logits are logarithms of the probabilities, so that the temperature left to apply is 1.

    Raises:
        UserError: If it is damaged, changed or not ours, its runtime is not installed, or ``cfg``
            asks for another one.
    """
    _check(path, cfg)
    model = load(path, cfg["threads"])
    meta, given = model.meta, model.meta["input"]
    # Files written by earlier versions hold the names of OpenVINO.
    precision = str(meta["run_precision"])
    precision = {"f32": "fp32", "f16": "fp16"}.get(precision, precision)
    _check(path, cfg, precision)
    mean, std = (tuple(float(value) for value in given[key]) for key in ("mean", "std"))
    spec = InputSpec(int(given["image_size"]), int(given["channels"]), mean, std)

    def run(images: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(model.run(faces(images)), SMALLEST))

    program = PROGRAMS[path.suffix][0]
    card = {
        "classes": model.classes,
        "temperature": 1.0,
        "input": {**given, "crop_margin": model.crop_margin},
    }
    name = f"{program} {version(program)} {precision} on cpu"
    return (
        card,
        spec,
        InferenceBackend(name, run, [f"the exported file {path.name}, {meta['precision']}"]),
    )
