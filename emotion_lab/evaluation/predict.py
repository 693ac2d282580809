"""Predictions of a network on a split; training's last numbers and evaluate's come from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from emotion_lab.core.progress import track
from emotion_lab.evaluation.tta import views
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble


@dataclass
class Predictions:
    """What a network said of a split.

    Attributes:
        logits: float32 (N, K), on the CPU.
        labels: int64 (N,).
        positions: int64 (N,), positions in the split.
    """

    logits: Tensor
    labels: Tensor
    positions: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, float32 (N, K)."""
        return self.logits.softmax(1)


@torch.inference_mode()
def predict(
    net: EmotionNet | Ensemble,
    loader: DataLoader,
    device: str,
    title: str = "",
    tta: str = "none",
    run: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Predictions:
    """Run ``net`` over ``loader`` in float32, whatever precision it was trained in.

    Args:
        net: In eval mode.
        loader: Yields :class:`emotion_lab.data.torch_dataset.Batch`.
        device: ``cpu``, ``cuda`` or ``mps``.
        title: Shown before the progress bar on a terminal.
        tta: Test-time augmentation: ``none``, ``flip`` or ``tencrop``. The logits are then the
            logarithm of the averaged probabilities.
        run: What answers in place of ``net``: maps uint8 (B, C, S, S) to float32 logits (B, K);
            not with ``tencrop``, whose views are no whole numbers.

    Raises:
        UserError: For an unknown ``tta``.
    """
    make = views(tta)
    net = net.to(device).eval()
    if net.backbone.conv:
        net = net.to(memory_format=torch.channels_last)
    logits, labels, positions = [], [], []
    for batch in track(loader, title):
        outputs = []
        for images in make(batch.images if run is not None else batch.images.to(device)):
            if run is not None:
                outputs.append(torch.from_numpy(run(np.ascontiguousarray(images.numpy()))))
                continue
            if net.backbone.conv:
                images = images.contiguous(memory_format=torch.channels_last)
            outputs.append(net(images).float())
        if len(outputs) > 1:
            mean = torch.stack([output.softmax(1) for output in outputs]).mean(0)
            outputs = [mean.clamp_min(1e-12).log()]
        logits.append(outputs[0].cpu())
        labels.append(batch.labels)
        positions.append(batch.positions)
    return Predictions(torch.cat(logits), torch.cat(labels), torch.cat(positions))
