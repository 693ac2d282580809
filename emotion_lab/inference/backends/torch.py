"""Eager PyTorch in float32: the reference of all other backends, always available."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from emotion_lab.core.threads import thread_limit
from emotion_lab.inference.base import (
    BACKENDS,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    supported_option,
)
from emotion_lab.models.network import Network


def reference(net: Network) -> Callable[[np.ndarray], np.ndarray]:
    """Return eager PyTorch on the CPU, in the memory format of evaluation."""
    net = net.eval()
    layout = torch.channels_last if net.backbone.conv else torch.contiguous_format
    net = net.to(memory_format=layout)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(images).contiguous(memory_format=layout)).float().numpy()

    return run


@BACKENDS.register("torch")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Build the network as evaluation runs it.

    ``backend.threads`` sets torch's threads for the process: torch has no threads per network.
    """
    supported_option(cfg, "precision", "fp32")
    device = supported_option(cfg, "device", "cpu", "cuda")
    threads = cfg["threads"] or thread_limit()
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "backend.device=cuda: torch finds no GPU. Set backend.device=cpu."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"torch {torch.__version__} fp32 on {device}"
    net, _ = source.restore()
    run = reference(net) if device == "cpu" else _run_on_gpu(net)
    return InferenceBackend(name, run)


def _run_on_gpu(net: Network) -> Callable[[np.ndarray], np.ndarray]:
    net = net.to("cuda")

    def run(images: np.ndarray) -> np.ndarray:
        # TensorFloat-32 has 10 significant bits, float32 has 23.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return net(torch.from_numpy(images).to("cuda")).float().cpu().numpy()

    return run
