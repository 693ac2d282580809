"""int8 by NNCF: after training, by images of val, and with an eye on the accuracy."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from emotion_lab.exporters.base import ExportJob


def quantize(
    model: Any,
    job: ExportJob,
    outside: Sequence[str],
    start: Callable[[Any], Callable[[np.ndarray], np.ndarray]],
    feed: Callable[[np.ndarray], Any],
) -> Any:
    """Return a model with 8-bit weights and activations where the accuracy allows it.

    Layers that cost too much accuracy on the calibration images are put back to float32.

    Args:
        model: In the format's own form.
        job: What is written; its calibration is needed.
        outside: Nodes that are not the network's and keep their numbers.
        start: Makes a model of that form run: uint8 (1, H, W, 3) to probabilities (1, K).
        feed: Makes of uint8 (B, H, W, 3) what the form is fed with.

    Raises:
        ValueError: Without calibration images.
    """
    # Before nncf, which imports OpenVINO and would bring its telemetry, and makes cores of its own:
    # those have to go before ours.
    with contextlib.suppress(ImportError):
        from emotion_lab.inference.openvino_core import core

        core()
    import nncf

    known = job.calibration
    if known is None or not len(known.faces):
        raise ValueError("int8 needs calibration images")
    count = 1 if job.batch == "dynamic" else int(job.batch)

    def batch(position: int) -> np.ndarray:
        return np.ascontiguousarray(known.faces[position][None].repeat(count, axis=0))

    def accuracy(candidate: Any, items: Iterable[int]) -> tuple[float, list[float]]:
        run = start(candidate)
        right = [float(run(batch(i))[0].argmax() == known.labels[i]) for i in items]
        return float(np.mean(right)), right

    everything = list(range(len(known.faces)))
    # It writes to the standard output of the moment it was imported, whatever becomes of that.
    logging.getLogger("nncf").handlers.clear()
    # It tells of every layer, and torch of a CUDA that it has nothing to compile for.
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(everything, lambda i: feed(batch(i))),
                nncf.Dataset(everything, lambda i: i),
                accuracy,
                max_drop=known.max_drop,
                subset_size=min(len(everything), 300),
                model_type=None if job.model.net.backbone.conv else nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=list(outside), validate=False),
            )
    finally:
        logging.disable(logging.NOTSET)
