"""Cross-entropy: plain, class-weighted, class-balanced and with label smoothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.losses.base import LOSSES, WeightedLoss, soft_targets


class CrossEntropy(WeightedLoss):
    """Cross-entropy with optional class weights (K,) and label smoothing in [0, 1).

    Label smoothing follows Szegedy et al. 2016 (arXiv:1512.00567): the target class keeps 1 - s
    and every class gets s / K.
    """

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(weight)
        self.label_smoothing = label_smoothing

    def _smooth(self, target: Tensor, num_classes: int) -> Tensor:
        """Return the smoothed targets (B, K)."""
        soft = soft_targets(target, num_classes)
        if self.label_smoothing:
            soft = soft * (1 - self.label_smoothing) + self.label_smoothing / num_classes
        return soft

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) and targets (B,) or (B, K)."""
        soft = self._smooth(target, logits.shape[1])
        return self.weighted_mean(-F.log_softmax(logits.float(), 1), soft)

    def total_weight(self, target: Tensor) -> Tensor | float:
        """Return the number by which the sum over targets (B,) or (B, K) is divided."""
        if self.weight is None:
            return float(len(target))
        return super().total_weight(self._smooth(target, len(self.weight)))


@LOSSES.register("ce")
def ce() -> nn.Module:
    """Cross-entropy."""
    return CrossEntropy()


@LOSSES.register("weighted_ce")
def weighted_ce(class_weights: Tensor) -> nn.Module:
    """Cross-entropy with the class weights of the training split."""
    return CrossEntropy(class_weights)


@LOSSES.register("label_smoothing")
def label_smoothing(label_smoothing: float = 0.1) -> nn.Module:
    """Cross-entropy with label smoothing."""
    return CrossEntropy(label_smoothing=label_smoothing)


@LOSSES.register("class_balanced")
def class_balanced(
    num_classes: int, class_counts: Sequence[int], beta: float = 0.9999
) -> nn.Module:
    """Class-balanced cross-entropy (Cui et al. 2019, arXiv:1901.05555, eq. 10).

    The weight of a class with n images is (1 - beta) / (1 - beta^n), scaled to a sum of K.
    """
    n = torch.tensor(list(class_counts), dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**n)
    return CrossEntropy((weights / weights.sum() * num_classes).float())
