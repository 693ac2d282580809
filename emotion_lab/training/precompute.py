"""Outputs of a fixed network for all images of a split, computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from emotion_lab.core.progress import track


@torch.no_grad()
def precompute(
    function: Callable[[Tensor], Tensor], batches: DataLoader, device: torch.device, title: str
) -> Tensor:
    """Apply a function to every image once.

    Args:
        function: Maps images, uint8 (B, C, S, S) on ``device``, to outputs (B, ...).
        batches: Yields a :class:`emotion_lab.data.torch_dataset.Batch` for all images of a split.
        device: Device to compute on.
        title: Title of the progress bar.

    Returns:
        float32 (N, ...) on the CPU, in the order of the split.
    """
    outputs, positions = [], []
    for batch in track(batches, title):
        outputs.append(function(batch.images.to(device)).float().cpu())
        positions.append(batch.positions)
    order = torch.cat(positions)
    result = torch.empty(len(order), *outputs[0].shape[1:])
    result[order] = torch.cat(outputs)
    return result
