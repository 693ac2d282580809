"""OpenVINO itself, for all who use it: live, predict, export, exported files. No torch here."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Importing it sends an event to Google Analytics and leaves a client id in the home folder.
    There is no setting but that of a file in the home folder, and writing that by its own tool
    sends an event as well. Where the package ``openvino_telemetry`` cannot be imported, OpenVINO
    uses a stub that does nothing; that is what is asked for here.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def core() -> Any:
    """Return the one ``openvino.Core`` of this process; it is never closed.

    The CPU plugin of a core gives the thread a stack for signal handlers, and takes the one from
    before back when it goes. Where two cores go in the order in which they came (OpenVINO 2026.4),
    the thread is left with a stack that is no longer mapped, and the next signal (Ctrl-C, the end
    of a worker) is a segmentation fault.
    """
    made = import_openvino().Core()
    # A mapped file could not be replaced on Windows.
    made.set_property({"ENABLE_MMAP": False})
    return made


def computes_bf16() -> bool:
    """Tell whether this CPU has bfloat16 instructions (AMX or AVX512-BF16)."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


#: Precision in this package -> OpenVINO's name for it.
_HINTS = {"fp32": "f32", "fp16": "f16"}


def compiled(model: Any, precision: str, threads: int | None = None) -> Any:
    """Compile a graph for this CPU; return its ``openvino.InferRequest``.

    Args:
        model: Of ``core().read_model`` or ``openvino.convert_model``.
        precision: What it computes in: ``fp32`` or ``bf16``, or ``fp16`` where the CPU has it.
        threads: Threads of one inference, None for all cores.
    """
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        # Left alone it takes bfloat16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, precision),
        # Capture and detection share these cores; pinned threads could not give way to them.
        "ENABLE_CPU_PINNING": False,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return core().compile_model(model, "CPU", config).create_infer_request()


def start(model: Any, precision: str, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    """Compile a graph of one input and one output; return the function that runs it.

    The arguments are those of :func:`compiled`.
    """
    request = compiled(model, precision, threads)

    def run(images: np.ndarray) -> np.ndarray:
        # Without copies on the way in; the result is one's own, the next call writes over theirs.
        return request.infer([images], share_inputs=True, share_outputs=True)[0].copy()

    return run


def split(model: Any, name: str) -> tuple[Any, Any]:
    """Cut a graph in two at one of its tensors; ``model`` itself is used up.

    Args:
        model: With one input.
        name: Of the tensor, through which everything goes.

    Returns:
        From the input to the tensor, and from the tensor to the output.

    Raises:
        ValueError: If there is no such tensor.
    """
    import_openvino()
    from openvino import Model, opset13

    ends = [end for op in model.get_ops() for end in op.outputs() if name in end.get_names()]
    if not ends:
        raise ValueError(f"no tensor is called {name}")
    entry = opset13.parameter(ends[0].get_partial_shape(), ends[0].get_element_type(), name)
    for reader in list(ends[0].get_target_inputs()):
        reader.replace_source_output(entry.output(0))
    before = Model([ends[0]], model.get_parameters(), "before")
    return before, Model(model.get_results(), [entry], "after")
