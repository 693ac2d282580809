"""ONNX Runtime in float32, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import logging
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
from emotion_lab.models.base import EmotionNet

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


class OnnxConverter(Converter[bytes]):
    """Exports with torch's own exporter; the model in memory is the file's content.

    Args:
        ort: The module ``onnxruntime``.
        provider: :data:`CPU` or :data:`CUDA`.
        threads: Threads of one inference, None for all cores.
    """

    suffix = ".onnx"
    precision = "fp32"

    def __init__(self, ort: Any, provider: str, threads: int | None) -> None:
        self.ort, self.provider, self.threads = ort, provider, threads
        self.version = f"onnxruntime {ort.__version__}, torch {torch.__version__}"
        where = "cuda" if provider == CUDA else "cpu"
        self.name = f"onnxruntime {ort.__version__} fp32 on {where}"

    def convert(self, net: EmotionNet) -> bytes:
        """See :meth:`Converter.convert`."""
        size, channels = net.spec.image_size, net.spec.channels
        example = torch.zeros((2, channels, size, size), dtype=torch.uint8)
        # The exporter tells of its own progress and of versions; nothing of that is the user's.
        loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    net,
                    (example,),
                    dynamo=True,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                    verbose=False,
                )
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
        return program.model_proto.SerializeToString()

    def label(self, model: bytes, text: str) -> bytes:
        """See :meth:`Converter.label`."""
        import onnx

        proto = onnx.load_from_string(model)
        onnx.helper.set_model_props(proto, {ENTRY: text})
        return proto.SerializeToString()

    def save(self, model: bytes, path: Path) -> None:
        """See :meth:`Converter.save`."""
        path.write_bytes(model)

    def load(self, path: Path) -> tuple[bytes, str]:
        """See :meth:`Converter.load`."""
        model = path.read_bytes()
        return model, self._session(model).get_modelmeta().custom_metadata_map[ENTRY]

    def _session(self, model: bytes) -> Any:
        options = self.ort.SessionOptions()
        options.log_severity_level = 3
        # Waiting threads would spin, and take the cores from the detector.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.threads:
            options.intra_op_num_threads = self.threads
        provider = (CUDA, {"use_tf32": "0"}) if self.provider == CUDA else CPU
        session = self.ort.InferenceSession(model, options, providers=[provider])
        if session.get_providers()[0] != self.provider:
            raise RuntimeError(f"onnxruntime could not start its {self.provider}")
        return session

    def compile(self, model: bytes) -> Callable[[np.ndarray], np.ndarray]:
        """See :meth:`Converter.compile`."""
        session = self._session(model)
        return lambda images: session.run(None, {"images": images})[0]


@RUNTIMES.register("onnx")
@RUNTIMES.register("onnxruntime")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with ONNX Runtime; ``onnx`` is its shorter name.

    Raises:
        Unusable: If it is not installed, cannot run this network, or ``backend.device=cuda`` and
            this build of it knows no GPU.
    """
    choice(cfg, "precision", "fp32")
    device = choice(cfg, "device", "cpu", "cuda")
    try:
        import onnx  # noqa: F401
        import onnxruntime as ort
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing(cfg["name"], "onnxruntime onnx onnxscript", error) from error
    # Its Windows builds report usage to Microsoft.
    ort.disable_telemetry_events()
    has_gpu = CUDA in ort.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise BackendUnavailableError(
            "backend.device=cuda: this onnxruntime has no GPU support. pip install "
            "onnxruntime-gpu in its place, or set backend.device=cpu."
        )
    provider = CUDA if has_gpu and device != "cpu" else CPU
    return open_converted(OnnxConverter(ort, provider, cfg["threads"]), source)
