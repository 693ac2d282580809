"""Predictions of a network on a split, used in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from emotion_lab.core.progress import track
from emotion_lab.evaluation.tta import views
from emotion_lab.models.network import Network


@dataclass
class Predictions:
    """Predictions of a network on a split.

    Attributes:
        logits: float32 (N, K), on the CPU.
        labels: int64 (N,).
        positions: int64 (N,), positions in the split.
        quantities: Learned quantity -> values, float32 (N,), on the CPU; empty without a head.
    """

    logits: Tensor
    labels: Tensor
    positions: Tensor
    quantities: dict[str, Tensor] = field(default_factory=dict)

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, float32 (N, K)."""
        return self.logits.softmax(1)


@torch.inference_mode()
def predict(
    net: Network,
    loader: DataLoader,
    device: str,
    title: str = "",
    tta: str = "none",
    run: Callable[[np.ndarray], np.ndarray] | None = None,
    quantities: Sequence[str] = (),
) -> Predictions:
    """Run ``net`` over ``loader`` in float32, whatever precision it was trained in.

    Args:
        net: Switched to eval mode.
        loader: Yields :class:`emotion_lab.data.torch_dataset.Batch`.
        device: ``cpu``, ``cuda`` or ``mps``.
        title: Title of the progress bar.
        tta: Test-time augmentation: ``none``, ``flip`` or ``tencrop``. With augmentation the
            logits are the logarithm of the averaged probabilities.
        run: Inference backend that replaces ``net``: maps uint8 (B, C, S, S) to float32 logits
            (B, K). It does not support ``tencrop``, whose views are not integers.
        quantities: Learned quantities that ``net`` (see :func:`join`) and ``run`` return after the
            logits; with augmentation their values are averaged.
    """
    make_views = views(tta)
    net = net.to(device).eval()
    if net.backbone.conv:
        net = net.to(memory_format=torch.channels_last)
    logits, labels, positions, values = [], [], [], []
    for batch in track(loader, title):
        outputs = []
        for images in make_views(batch.images if run is not None else batch.images.to(device)):
            if run is not None:
                outputs.append(torch.from_numpy(run(np.ascontiguousarray(images.numpy()))))
                continue
            if net.backbone.conv:
                images = images.contiguous(memory_format=torch.channels_last)
            outputs.append(net(images).float())
        if quantities:
            parts = [output.tensor_split([-len(quantities)], 1) for output in outputs]
            outputs = [part[0] for part in parts]
            values.append(torch.stack([part[1] for part in parts]).mean(0).cpu())
        if len(outputs) > 1:
            mean = torch.stack([output.softmax(1) for output in outputs]).mean(0)
            outputs = [mean.clamp_min(1e-12).log()]
        logits.append(outputs[0].cpu())
        labels.append(batch.labels)
        positions.append(batch.positions)
    learned = dict(zip(quantities, torch.cat(values).unbind(1), strict=True)) if values else {}
    return Predictions(torch.cat(logits), torch.cat(labels), torch.cat(positions), learned)
