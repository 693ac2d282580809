"""OpenVINO: runs the cached OpenVINO file of a checkpoint."""

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
from emotion_lab.inference.openvino_core import computes_bf16, import_openvino


@BACKENDS.register("openvino")
def build_openvino(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Run with OpenVINO; ``backend.precision=auto`` is bf16 if the CPU supports it, else fp32."""
    precision = supported_option(cfg, "precision", "fp32", "bf16")
    supported_option(cfg, "device", "cpu")
    try:
        version = import_openvino().__version__.split("-")[0]
    except ImportError as error:
        raise not_installed("openvino", "openvino", error) from error

    def run_in(precision: str) -> InferenceBackend:
        name = f"openvino {version} {precision} on cpu"
        return open_converted(source, "openvino", name, RunOptions(cfg["threads"], precision))

    if precision == "bf16" and not computes_bf16():
        raise BackendUnavailableError(
            "backend.precision=bf16: this CPU has no bfloat16 instructions (AMX or AVX512-BF16). "
            "Set backend.precision=auto."
        )
    if precision != "auto" or not computes_bf16():
        return run_in("fp32" if precision == "auto" else precision)
    try:
        return run_in("bf16")
    except BackendUnavailableError as error:
        backend = run_in("fp32")
        backend.notes.insert(0, f"not bf16: {error}")
        return backend
