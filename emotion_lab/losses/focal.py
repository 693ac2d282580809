"""Focal loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.losses.base import LOSSES, soft_targets, weighted_mean


class FocalLoss(nn.Module):
    """Multi-class focal loss, -w_k (1 - p_k)^gamma log p_k (Lin et al. 2017, arXiv:1708.02002).

    With ``gamma`` 0 it equals cross-entropy with the same weights. Soft targets weigh the term of
    each class.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) and targets (B,) or (B, K)."""
        log_p = F.log_softmax(logits.float(), 1)
        # 1 - p through expm1 keeps precision, and a finite gradient, where p is nearly 1.
        rest = (-log_p.expm1()).clamp_min(1e-12)
        return weighted_mean(
            -(rest**self.gamma) * log_p, soft_targets(target, logits.shape[1]), self.weight
        )


@LOSSES.register("focal")
def focal(
    num_classes: int, weights: Tensor, counts: Sequence[int], gamma: float = 2.0
) -> nn.Module:
    """Focal loss without class weights."""
    return FocalLoss(gamma)


@LOSSES.register("weighted_focal")
def weighted_focal(
    num_classes: int, weights: Tensor, counts: Sequence[int], gamma: float = 2.0
) -> nn.Module:
    """Focal loss with the training split's class weights."""
    return FocalLoss(gamma, weights)
