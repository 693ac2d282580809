"""Cross-entropy and its kin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.losses.base import LOSSES, soft_targets, weighted_mean


class CrossEntropy(nn.Module):
    """Cross-entropy with optional class weights (K,) and label smoothing in [0, 1).

    Smoothing follows Szegedy et al. 2016 (arXiv:1512.00567): the target keeps 1 - s and every
    class receives s / K.
    """

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) and targets (B,) or (B, K)."""
        classes = logits.shape[1]
        soft = soft_targets(target, classes)
        if self.smoothing:
            soft = soft * (1 - self.smoothing) + self.smoothing / classes
        return weighted_mean(-F.log_softmax(logits.float(), 1), soft, self.weight)


@LOSSES.register("ce")
def ce(num_classes: int, weights: Tensor, counts: Sequence[int]) -> nn.Module:
    """Plain cross-entropy."""
    return CrossEntropy()


@LOSSES.register("weighted_ce")
def weighted_ce(num_classes: int, weights: Tensor, counts: Sequence[int]) -> nn.Module:
    """Cross-entropy with the training split's class weights."""
    return CrossEntropy(weights)


@LOSSES.register("label_smoothing")
def label_smoothing(
    num_classes: int, weights: Tensor, counts: Sequence[int], label_smoothing: float = 0.1
) -> nn.Module:
    """Cross-entropy with smoothed labels."""
    return CrossEntropy(smoothing=label_smoothing)


@LOSSES.register("class_balanced")
def class_balanced(
    num_classes: int, weights: Tensor, counts: Sequence[int], beta: float = 0.9999
) -> nn.Module:
    """Class-balanced cross-entropy (Cui et al. 2019, arXiv:1901.05555, eq. 10).

    Each class weighs (1 - beta) / (1 - beta^n); the weights are scaled to sum to K.
    """
    n = torch.tensor(list(counts), dtype=torch.float64)
    effective = (1 - beta) / (1 - beta**n)
    return CrossEntropy((effective / effective.sum() * num_classes).float())
