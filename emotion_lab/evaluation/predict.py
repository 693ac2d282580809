"""Predictions of a network on a split; training's last numbers and evaluate's come from here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from emotion_lab.models.base import EmotionNet


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
def predict(net: EmotionNet, loader: DataLoader, device: str, title: str = "") -> Predictions:
    """Run ``net`` over ``loader`` in float32, whatever precision it was trained in.

    Args:
        net: In eval mode.
        loader: Yields :class:`emotion_lab.data.dataset.Batch`.
        device: ``cpu``, ``cuda`` or ``mps``.
        title: Shown before the progress bar on a terminal.
    """
    from rich.console import Console
    from rich.progress import track

    net = net.to(device).eval()
    if net.backbone.conv:
        net = net.to(memory_format=torch.channels_last)
    console = Console(stderr=True)
    steps = track(
        loader, description=title, console=console, transient=True, disable=not console.is_terminal
    )
    logits, labels, positions = [], [], []
    for batch in steps:
        images = batch.images.to(device)
        if net.backbone.conv:
            images = images.contiguous(memory_format=torch.channels_last)
        logits.append(net(images).float().cpu())
        labels.append(batch.labels)
        positions.append(batch.positions)
    return Predictions(torch.cat(logits), torch.cat(labels), torch.cat(positions))
