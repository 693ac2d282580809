"""OpenVINO on the CPU, in float32 or bfloat16."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.inference.base import (
    RUNTIMES,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    choice,
    missing,
)
from emotion_lab.inference.converted_model import ENTRY, Converter, open_converted
from emotion_lab.inference.openvino_core import computes_bf16, core, import_openvino, start
from emotion_lab.models.base import EmotionNet


class OpenVinoConverter(Converter[Any]):
    """Converts straight from PyTorch; weights are kept in float32 for either precision.

    One file serves both precisions: bfloat16 is chosen when it is compiled.

    Args:
        ov: The module ``openvino``.
        precision: ``fp32`` or ``bf16``.
        threads: Threads of one inference, None for all cores.
    """

    suffix = ".openvino.xml"

    def __init__(self, ov: Any, precision: str, threads: int | None) -> None:
        self.ov, self.precision, self.threads = ov, precision, threads
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
        model = core().read_model(path)
        return model, model.get_rt_info(ENTRY).astype(str)

    def compile(self, model: Any) -> Callable[[np.ndarray], np.ndarray]:
        """See :meth:`Converter.compile`.

        The graph keeps its batch open. A batch size that comes for the first time costs some
        20 ms once (its kernels are then kept), and nothing afterwards: graphs nailed to one size
        were no faster, so batches are not padded to few sizes.
        """
        return start(model, self.precision, self.threads)


@RUNTIMES.register("openvino")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with OpenVINO; ``backend.precision=auto`` is bf16 where the CPU computes in it.

    Raises:
        Unusable: If it is not installed, cannot run this network, or bf16 is asked for and the CPU
            would only emulate it, slowly.
    """
    wanted = choice(cfg, "precision", "fp32", "bf16")
    choice(cfg, "device", "cpu")
    try:
        ov = import_openvino()
    except ImportError as error:
        raise missing("openvino", "openvino", error) from error
    fast_bf16 = computes_bf16()
    if wanted == "bf16" and not fast_bf16:
        raise BackendUnavailableError(
            "backend.precision=bf16: this CPU has no bfloat16 instructions (AMX or AVX512-BF16). "
            "Set backend.precision=auto."
        )
    threads = cfg["threads"]
    if wanted != "auto" or not fast_bf16:
        precision = "fp32" if wanted == "auto" else wanted
        return open_converted(OpenVinoConverter(ov, precision, threads), source)
    try:
        return open_converted(OpenVinoConverter(ov, "bf16", threads), source)
    except BackendUnavailableError as error:
        runtime = open_converted(OpenVinoConverter(ov, "fp32", threads), source)
        return InferenceBackend(runtime.name, runtime.run, [f"not bf16: {error}", *runtime.notes])
