"""Eager PyTorch in float32: the reference, and what is always there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from emotion_lab.inference.base import (
    RUNTIMES,
    BackendUnavailableError,
    InferenceBackend,
    ModelSource,
    choice,
)
from emotion_lab.inference.converted_model import reference
from emotion_lab.models.base import EmotionNet


@RUNTIMES.register("torch")
def build(cfg: dict[str, Any], source: ModelSource) -> InferenceBackend:
    """Build the network as evaluation runs it.

    ``backend.threads`` sets torch's threads for the whole process; torch knows no other way.

    Raises:
        Unusable: If ``backend.device=cuda`` and there is none.
    """
    choice(cfg, "precision", "fp32")
    device = choice(cfg, "device", "cpu", "cuda")
    if cfg["threads"]:
        torch.set_num_threads(cfg["threads"])
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "backend.device=cuda: torch sees no GPU here. Set backend.device=cpu."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"torch {torch.__version__} fp32 on {device}"
    run = reference(source.net()) if device == "cpu" else _on_gpu(source.net())
    return InferenceBackend(name, run)


def _on_gpu(net: EmotionNet) -> Callable[[np.ndarray], np.ndarray]:
    net = net.to("cuda")

    def run(images: np.ndarray) -> np.ndarray:
        # Without TensorFloat-32, whose 10 bits would not be float32.
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            return net(torch.from_numpy(images).to("cuda")).float().cpu().numpy()

    return run
