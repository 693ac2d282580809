"""OpenVINO as the whole package uses it: one core, no telemetry. Imports no torch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from emotion_lab.core.threads import thread_limit

#: Name of the tensor between preprocessing and network in exported .xml files.
PIXELS = "pixels"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Its import sends an event to Google Analytics and writes a client id to the home folder. The
    only setting is a file in the home folder, and the tool that writes it sends an event as well.
    If the package ``openvino_telemetry`` cannot be imported, OpenVINO uses a stub that does
    nothing.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None blocks it
    import openvino

    return openvino


@functools.cache
def core() -> Any:
    """Return the single ``openvino.Core`` of this process; it is never destroyed.

    The CPU plugin of a core installs a signal stack for the thread and restores the previous one
    when it is destroyed. If two cores are destroyed in the order of their creation (OpenVINO
    2026.4), the thread keeps an unmapped signal stack, and the next signal (Ctrl-C, the end of a
    worker) is a segmentation fault.
    """
    instance = import_openvino().Core()
    # On Windows a memory-mapped file cannot be replaced.
    instance.set_property({"ENABLE_MMAP": False})
    return instance


def computes_bf16() -> bool:
    """Return whether this CPU has bfloat16 instructions (AMX or AVX512-BF16)."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled(model: Any, precision: str, threads: int | None = None) -> Any:
    """Compile a graph for this CPU and return its ``openvino.InferRequest``.

    Args:
        model: From ``core().read_model`` or ``openvino.convert_model``.
        precision: Precision of the computation: ``fp32``, ``bf16``, or ``fp16`` if the CPU
            supports it.
        threads: Threads of one inference, None for all cores or :func:`thread_limit`.
    """
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        # By default it uses bfloat16 on every CPU that supports it.
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16"}.get(precision, precision),
        # Capture and detection share these cores; pinned threads could not move away.
        "ENABLE_CPU_PINNING": False,
    }
    threads = threads or thread_limit()
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return core().compile_model(model, "CPU", config).create_infer_request()


def start(model: Any, precision: str, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a graph with one input; return the function that runs it.

    Several outputs (B, ...) are returned side by side.

    The batch size stays dynamic. The first call with a new batch size takes about 20 ms, later
    ones nothing extra. Graphs with a fixed batch size were not faster, so batches are not padded.
    The arguments are those of :func:`compiled`.
    """
    request = compiled(model, precision, threads)

    def run(images: np.ndarray) -> np.ndarray:
        outputs = infer(request, images)
        # Copied, because the next call overwrites them.
        return outputs[0].copy() if len(outputs) == 1 else np.concatenate(outputs, 1)

    return run


def infer(request: Any, image: np.ndarray) -> list[np.ndarray]:
    """Run a request of a graph with one input.

    About 0.05 ms faster than ``request.infer([image])``, which looks at every input and output.

    Args:
        image: Has the shape and dtype of the input; it is not copied.

    Returns:
        Views of all outputs, valid until the next call.
    """
    ov = import_openvino()
    # Read-only arrays are copied: OpenVINO shares no memory with them.
    image = np.require(image, requirements=("C", "W"))
    request.set_input_tensor(ov.Tensor(image, shared_memory=True))
    request.infer({}, share_outputs=True)
    count = len(request.model_outputs)
    return [request.get_output_tensor(i).data for i in range(count)]


def split(model: Any, name: str) -> tuple[Any, Any]:
    """Split a graph in two at a tensor; ``model`` is modified and unusable afterwards.

    Args:
        model: A graph with one input.
        name: Name of the tensor; every path from input to output passes through it.

    Returns:
        The graph from the input to the tensor, and the one from the tensor to the output.
    """
    import_openvino()
    from openvino import Model, opset13

    outputs = [out for op in model.get_ops() for out in op.outputs() if name in out.get_names()]
    if not outputs:
        raise ValueError(f"no tensor is called {name}")
    output = outputs[0]
    entry = opset13.parameter(output.get_partial_shape(), output.get_element_type(), name)
    for reader in list(output.get_target_inputs()):
        reader.replace_source_output(entry.output(0))
    first = Model([output], model.get_parameters(), "preprocess")
    return first, Model(model.get_results(), [entry], "network")


def network_of(model: Any) -> Any | None:
    """Return the part of an exported graph behind the resizing, with uint8 (B, C, S, S) as input.

    Returns:
        None for a graph without the tensor :data:`PIXELS`, which is unchanged.
    """
    names = {name for op in model.get_ops() for out in op.outputs() for name in out.get_names()}
    if PIXELS not in names:
        return None
    ov = import_openvino()
    from openvino.preprocess import PrePostProcessor

    network = split(model, PIXELS)[1]
    wanted = network.inputs[0].get_element_type()
    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(ov.Type.u8)
    steps.input().preprocess().convert_element_type(wanted)
    return steps.build()
