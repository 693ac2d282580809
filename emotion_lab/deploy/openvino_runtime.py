"""OpenVINO on the CPU, in float32 or bfloat16."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.deploy.base import RUNTIMES, Runtime, Source, Unusable, choice, missing
from emotion_lab.deploy.convert import ENTRY, Converter, open_converted
from emotion_lab.models.base import EmotionNet


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


class OpenVinoConverter(Converter[Any]):
    """Converts straight from PyTorch; weights are kept in float32 for either precision.

    One file serves both precisions: bfloat16 is chosen when it is compiled.

    Args:
        ov: The module ``openvino``.
        precision: ``f32`` or ``bf16``.
        threads: Threads of one inference, None for all cores.
    """

    suffix = ".openvino.xml"

    def __init__(self, ov: Any, precision: str, threads: int | None) -> None:
        self.ov, self.precision, self.threads = ov, precision, threads
        self.core = core()
        self.version = f"openvino {ov.__version__}, torch {torch.__version__}"
        self.name = f"openvino {ov.__version__.split('-')[0]} {precision} on cpu"

    def convert(self, net: EmotionNet) -> Any:
        """See :meth:`Converter.convert`."""
        size, channels = net.spec.image_size, net.spec.channels
        example = torch.zeros((2, channels, size, size), dtype=torch.uint8)
        shape = self.ov.PartialShape([-1, channels, size, size])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.ov.convert_model(
                net, example_input=example, input=[(shape, self.ov.Type.u8)]
            )

    def label(self, model: Any, text: str) -> Any:
        """See :meth:`Converter.label`."""
        model.set_rt_info(text, ENTRY)
        return model

    def save(self, model: Any, path: Path) -> None:
        """Write the .xml and beside it the .bin with the weights."""
        self.ov.save_model(model, path, compress_to_fp16=False)

    def load(self, path: Path) -> tuple[Any, str]:
        """See :meth:`Converter.load`."""
        model = self.core.read_model(path)
        return model, model.get_rt_info(ENTRY).astype(str)

    def compile(self, model: Any) -> Callable[[np.ndarray], np.ndarray]:
        """See :meth:`Converter.compile`.

        The graph keeps its batch open. A batch size that comes for the first time costs some
        20 ms once (its kernels are then kept), and nothing afterwards: graphs nailed to one size
        were no faster, so batches are not padded to few sizes.
        """
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,
            # Capture and detection share these cores; pinned threads could not give way to them.
            "ENABLE_CPU_PINNING": False,
        }
        if self.threads:
            config["INFERENCE_NUM_THREADS"] = self.threads
        request = self.core.compile_model(model, "CPU", config).create_infer_request()
        return lambda images: request.infer([images])[0]


@RUNTIMES.register("openvino")
def build(cfg: dict[str, Any], source: Source) -> Runtime:
    """Run with OpenVINO; ``runtime.precision=auto`` is bf16 where the CPU computes in it.

    Raises:
        Unusable: If it is not installed, cannot run this network, or bf16 is asked for and the CPU
            would only emulate it, slowly.
    """
    wanted = choice(cfg, "precision", "f32", "bf16")
    choice(cfg, "device", "cpu")
    try:
        ov = import_openvino()
    except ImportError as error:
        raise missing("openvino", "openvino", error) from error
    fast_bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted == "bf16" and not fast_bf16:
        raise Unusable(
            "runtime.precision=bf16: this CPU has no bfloat16 instructions (AMX or AVX512-BF16). "
            "Set runtime.precision=auto."
        )
    threads = cfg["threads"]
    if wanted != "auto" or not fast_bf16:
        precision = "f32" if wanted == "auto" else wanted
        return open_converted(OpenVinoConverter(ov, precision, threads), source)
    try:
        return open_converted(OpenVinoConverter(ov, "bf16", threads), source)
    except Unusable as error:
        runtime = open_converted(OpenVinoConverter(ov, "f32", threads), source)
        return Runtime(runtime.name, runtime.run, [f"not bf16: {error}", *runtime.notes])
