"""int8 post-training quantization by NNCF with accuracy control."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from emotion_lab.inference.conversion.base import ExportJob, quiet

#: Most images from which NNCF estimates the ranges of activations.
SUBSET = 300


def quantize(
    model: Any,
    job: ExportJob,
    ignored: Sequence[str],
    start: Callable[[Any], Callable[[np.ndarray], np.ndarray]],
    feed: Callable[[np.ndarray], Any],
) -> Any:
    """Return a model with 8-bit weights and activations.

    Layers that lose too much accuracy on the calibration images are reverted to float32.

    Args:
        model: Graph in the runtime's own type.
        job: Its calibration images are required.
        ignored: Names of preprocessing and postprocessing nodes, which are not quantized.
        start: Returns the function that runs such a graph: uint8 (B, H, W, 3) to
            probabilities (B, K).
        feed: Converts uint8 (B, H, W, 3) to the graph's input.
    """
    # NNCF imports OpenVINO, its telemetry included, and creates cores of its own, which must be
    # destroyed before the one of this process.
    with contextlib.suppress(ImportError):
        from emotion_lab.inference.openvino_core import core

        core()
    import nncf

    data = job.calibration
    assert data is not None  # ExportJob requires it
    count = 1 if job.batch == "dynamic" else int(job.batch)

    def batch(position: int) -> np.ndarray:
        return np.ascontiguousarray(data.faces[position][None].repeat(count, axis=0))

    def accuracy(candidate: Any, positions: Iterable[int]) -> tuple[float, list[float]]:
        run = start(candidate)
        correct = [float(run(batch(i))[0].argmax() == data.labels[i]) for i in positions]
        return float(np.mean(correct)), correct

    positions = list(range(len(data.faces)))
    # NNCF's handler keeps the standard output of the moment it was imported.
    logging.getLogger("nncf").handlers.clear()
    with quiet():
        return nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(positions, lambda i: feed(batch(i))),
            nncf.Dataset(positions, lambda i: i),
            accuracy,
            max_drop=data.max_drop,
            subset_size=min(len(positions), SUBSET),
            model_type=None if job.model.net.backbone.conv else nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(ignored), validate=False),
        )
