"""ONNX through torch's own exporter, for ONNX Runtime, in a browser too."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_lab.exporters.base import FORMATS, ExportFormat, ExportJob
from emotion_lab.inference.loader import onnx_entry

if TYPE_CHECKING:
    from emotion_lab.exporters.graph import ExportModel


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep back what the exporter tells of its own progress and of versions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _graph(model: ExportModel, batch: int | str) -> Any:
    """Return the ONNX model, with the places in our code that each node came from."""
    import torch

    from emotion_lab.exporters.graph import example, open_sizes

    with silence():
        program = torch.onnx.export(
            model,
            (example(model, batch),),
            dynamo=True,
            input_names=["faces"],
            output_names=["probabilities"],
            dynamic_shapes=(open_sizes(batch),),
            verbose=False,
        )
    return program.model_proto


def _outside(model: Any) -> list[str]:
    """Return the names of the nodes that are not the network's."""
    scopes = "pkg.torch.onnx.name_scopes"
    return [
        node.name
        for node in model.graph.node
        if not any(p.key == scopes and "'net'" in p.value for p in node.metadata_props)
    ]


def _quantized(model: Any, job: ExportJob) -> Any:
    """Return the model with 8-bit weights and activations."""
    import onnxruntime as ort

    from emotion_lab.exporters.quantize import quantize

    def start(candidate: Any) -> Any:
        session = ort.InferenceSession(
            candidate.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return lambda faces: session.run(None, {"faces": faces})[0]

    return quantize(model, job, _outside(model), start, lambda face: {"faces": face})


@FORMATS.register("onnx")
class Onnx(ExportFormat):
    """float16 halves the file; ONNX Runtime's CPU code computes most of it in float32."""

    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8")
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`ExportFormat.write`."""
        net = job.model
        if job.precision == "fp16":
            net = copy.deepcopy(net)
            net.net.half()
        model = _graph(net, job.batch)
        if job.precision == "int8":
            model = _quantized(model, job)
        # They name files of this machine.
        del model.metadata_props[:]
        for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
            del part.metadata_props[:]
        for function in model.functions:
            for node in function.node:
                del node.metadata_props[:]
        path.write_bytes(model.SerializeToString())

    def label(self, path: Path, text: str) -> None:
        """Append the entry."""
        with path.open("ab") as file:
            file.write(onnx_entry(text))
