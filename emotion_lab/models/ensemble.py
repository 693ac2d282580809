"""Several networks as one: their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emotion_lab.models.base import Backbone, EmotionNet


class Ensemble(nn.Module):
    """Averages the softmax outputs of networks that take the same images.

    It stands wherever an :class:`EmotionNet` in eval mode does: its logits are the logarithm of
    the averaged probabilities, so that their softmax is that average.

    Args:
        members: Networks with the same input size and channels.
        orders: For each member, the position in its output of every class of the ensemble.
        weights: Share of each member, summing to 1; None weighs all the same.
    """

    weights: Tensor

    def __init__(
        self,
        members: Sequence[EmotionNet],
        orders: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.orders = [list(order) for order in orders]
        self.spec = members[0].spec
        shares = [1 / len(members)] * len(members) if weights is None else list(weights)
        self.register_buffer("weights", torch.tensor(shares))

    @property
    def backbone(self) -> Backbone:
        """The first member's: it says which memory format suits."""
        return self.members[0].backbone  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, see :class:`EmotionNet`; logits (B, K)."""
        total: Tensor | None = None
        for i, (net, order) in enumerate(zip(self.members, self.orders, strict=True)):
            given = net(images).float()
            if order != list(range(len(order))):
                given = given[:, order]
            part = self.weights[i] * given.softmax(1)
            total = part if total is None else total + part
        assert total is not None
        return total.clamp_min(1e-12).log()
