"""Focal loss."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.losses.base import LOSSES, WeightedLoss, soft_targets


class FocalLoss(WeightedLoss):
    """Multi-class focal loss, -w_k (1 - p_k)^gamma log p_k (Lin et al. 2017, arXiv:1708.02002).

    With ``gamma=0`` it equals cross-entropy with the same weights. Soft targets weight the terms
    of the classes.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__(weight)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) and targets (B,) or (B, K)."""
        log_p = F.log_softmax(logits.float(), 1)
        # expm1 keeps precision, and a finite gradient, for p close to 1.
        one_minus_p = (-log_p.expm1()).clamp_min(1e-12)
        return self.weighted_mean(
            -(one_minus_p**self.gamma) * log_p, soft_targets(target, logits.shape[1])
        )


@LOSSES.register("focal")
def focal(gamma: float = 2.0) -> nn.Module:
    """Focal loss without class weights."""
    return FocalLoss(gamma)


@LOSSES.register("weighted_focal")
def weighted_focal(class_weights: Tensor, gamma: float = 2.0) -> nn.Module:
    """Focal loss with the class weights of the training split."""
    return FocalLoss(gamma, class_weights)
