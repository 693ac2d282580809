"""Multi-target loss of FER+."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.losses.base import LOSSES, soft_targets


class MultiTarget(nn.Module):
    """-log of the largest probability among the target classes (Barsoum et al. 2016).

    A class is a target if its share of the soft target is ``threshold`` or more, and the class with
    the largest share always is. All targets count as equally right. With hard labels the loss is
    the cross-entropy.
    """

    def __init__(self, threshold: float = 0.3) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of logits (B, K) and targets (B,) or (B, K)."""
        soft = soft_targets(target, logits.shape[1])
        is_target = (soft >= self.threshold) | (soft == soft.amax(1, keepdim=True))
        log_p = F.log_softmax(logits.float(), 1)
        return -log_p.masked_fill(~is_target, -torch.inf).amax(1).mean()


@LOSSES.register("multi_target")
def multi_target(threshold: float = 0.3) -> nn.Module:
    """Loss with several right classes: those with many votes."""
    return MultiTarget(threshold)
