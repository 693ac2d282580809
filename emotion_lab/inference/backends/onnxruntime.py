"""ONNX Runtime: runs the cached ONNX file of a checkpoint."""

from __future__ import annotations

from typing import Any

from emotion_lab.inference.base import (
    BACKENDS,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    not_installed,
    supported_option,
)
from emotion_lab.inference.converted_model import open_converted
from emotion_lab.inference.loader import RunOptions


@BACKENDS.register("onnx")
@BACKENDS.register("onnxruntime")
def build_onnxruntime(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with ONNX Runtime; ``onnx`` is a second name of it."""
    supported_option(cfg, "precision", "fp32")
    device = supported_option(cfg, "device", "cpu", "cuda")
    try:
        import onnx  # noqa: F401 (needed by the conversion, checked before it starts)
        import onnxruntime as ort
        import onnxscript  # noqa: F401 (likewise)
    except ImportError as error:
        raise not_installed(cfg["name"], "onnxruntime onnx onnxscript", error) from error
    has_gpu = "CUDAExecutionProvider" in ort.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise BackendUnavailableError(
            "backend.device=cuda: this onnxruntime has no GPU support. pip install "
            "onnxruntime-gpu in its place, or set backend.device=cpu."
        )
    device = "cuda" if has_gpu and device != "cpu" else "cpu"
    name = f"onnxruntime {ort.__version__} fp32 on {device}"
    return open_converted(source, "onnx", name, RunOptions(cfg["threads"], "fp32", device))
