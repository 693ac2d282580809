"""ONNX by torch's exporter, for ONNX Runtime on servers and in browsers."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from emotion_lab.inference.conversion.base import FORMATS, ExportFormat, ExportJob, quiet
from emotion_lab.inference.metadata import onnx_entry
from emotion_lab.inference.openvino_core import PIXELS

#: Smallest number of elements of a weight that fp16 files store as float16.
MIN_HALF_SIZE = 1024


def _outside_network(proto: Any) -> list[str]:
    """Return the names of the nodes of preprocessing and postprocessing.

    The metadata of each node names its torch module.
    """
    scopes = "pkg.torch.onnx.name_scopes"
    return [
        node.name
        for node in proto.graph.node
        if not any(p.key == scopes and "'net'" in p.value for p in node.metadata_props)
    ]


def _quantized(proto: Any, job: ExportJob) -> Any:
    """Return the model with 8-bit weights and activations."""
    import onnxruntime as ort

    from emotion_lab.inference.conversion.quantize import quantize

    name = job.model.input_name

    def start(candidate: Any) -> Any:
        session = ort.InferenceSession(
            candidate.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return lambda faces: session.run(None, {name: faces})[0]

    return quantize(proto, job, _outside_network(proto), start, lambda faces: {name: faces})


def _network_graph(job: ExportJob) -> Any:
    """Return the graph from resized images to the output."""
    import torch

    model = job.model
    network = torch.nn.Sequential(OrderedDict(net=model.net, postprocess=model.postprocess))
    batch = {i: size for i, size in model.dynamic_shapes(job.batch).items() if i == 0}
    program = torch.onnx.export(
        network.eval(),
        (model.preprocess(model.example(job.batch)),),
        dynamo=True,
        input_names=[PIXELS if model.resize else model.input_name],
        output_names=model.output_names,
        dynamic_shapes=(batch,),
        verbose=False,
    )
    assert program is not None  # with dynamo=True it always returns a program
    return program.model_proto


def _resizing_graph(job: ExportJob, network: Any) -> Any:
    """Return the graph from faces of any size to the input of ``network``.

    torch's TorchScript exporter takes 0.1 s; torch.export would take 3 s for the symbolic sizes.
    """
    import onnx
    import torch
    from onnx import compose

    model = job.model
    dynamic = {i: size.__name__ for i, size in model.dynamic_shapes(job.batch).items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resizing.onnx"
        torch.onnx.export(
            model.preprocess,
            (model.example(job.batch),),
            file,
            dynamo=False,
            input_names=[model.input_name],
            output_names=[PIXELS],
            dynamic_axes={model.input_name: dynamic},
            opset_version=network.opset_import[0].version,
        )
        graph = onnx.load(file)
    graph.ir_version = network.ir_version
    return compose.add_prefix(graph, "preprocess/", rename_inputs=False, rename_outputs=False)


def _store_half(proto: Any) -> None:
    """Store large float32 weights as float16, in place; a Cast node restores float32 at load time.

    ONNX Runtime has float16 kernels for few operators on a CPU. A graph in float16 would round
    all activations and convert between them; with stored weights only, speed and results are
    those of float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in proto.graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < MIN_HALF_SIZE:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


@FORMATS.register("onnx")
class Onnx(ExportFormat):
    """fp16 files store float16 weights and compute in float32."""

    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8")
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, job: ExportJob, path: Path) -> None:
        """See :meth:`ExportFormat.write`."""
        from onnx import compose

        with quiet():
            proto = _network_graph(job)
            if job.model.resize:
                proto = compose.merge_models(_resizing_graph(job, proto), proto, [(PIXELS, PIXELS)])
        if job.precision == "int8":
            proto = _quantized(proto, job)
        elif job.precision == "fp16":
            _store_half(proto)
        # The shapes of intermediate results, which readers infer.
        del proto.graph.value_info[:]
        # These contain source file paths of this machine.
        del proto.metadata_props[:]
        for part in (*proto.graph.node, *proto.graph.initializer):
            del part.metadata_props[:]
        for function in proto.functions:
            for node in function.node:
                del node.metadata_props[:]
        path.write_bytes(proto.SerializeToString())

    def run_precision(self, precision: str) -> str:
        """Return float32 for every precision."""
        return "fp32"

    def label(self, path: Path, text: str) -> None:
        """Append the entry."""
        with path.open("ab") as file:
            file.write(onnx_entry(text))
