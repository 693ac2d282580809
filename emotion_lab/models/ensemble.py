"""Ensemble of networks that averages their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from emotion_lab.core.labels import QUANTITY_RANGES
from emotion_lab.models.base import Backbone, EmotionNet


class Ensemble(nn.Module):
    """Weighted average of the softmax outputs of networks with the same input.

    Logits are the logarithm of the averaged probabilities, so that their softmax is the average.
    An ensemble can therefore replace an :class:`EmotionNet` in eval mode.

    Args:
        members: Networks with the same input size and channels.
        class_orders: For each member, the output position of every class of the ensemble.
        weights: Weight of each member, summing to 1; None weights all equally.
    """

    weights: Tensor

    def __init__(
        self,
        members: Sequence[EmotionNet],
        class_orders: Sequence[Sequence[int]],
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.class_orders = [list(order) for order in class_orders]
        self.spec = members[0].spec
        values = [1 / len(members)] * len(members) if weights is None else list(weights)
        self.register_buffer("weights", torch.tensor(values))
        #: Number of learned quantities in the outputs of the members, after the logits.
        self.num_quantities = 0

    @property
    def quantities(self) -> list[str]:
        """Quantities that every member has learned."""
        heads = [net.quantities for net in self.networks()]
        names = [set(head.names) if head is not None else set() for head in heads]
        return [name for name in QUANTITY_RANGES if all(name in own for own in names)]

    def networks(self) -> list[EmotionNet]:
        """Return the members."""
        return [cast("EmotionNet", member) for member in self.members]

    @property
    def backbone(self) -> Backbone:
        """The backbone of the first member, for the memory format."""
        return self.networks()[0].backbone

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, see :meth:`EmotionNet.forward`.

        Returns:
            Logits (B, K); after :func:`emotion_lab.models.quantities_head.join`, (B, K + Q) with
            the weighted averages of the Q quantities.
        """
        total: Tensor | None = None
        quantities: Tensor | None = None
        for i, (net, order) in enumerate(zip(self.members, self.class_orders, strict=True)):
            logits = net(images).float()
            if self.num_quantities:
                logits, values = logits.tensor_split([len(order)], 1)
                values = self.weights[i] * values
                quantities = values if quantities is None else quantities + values
            if order != list(range(len(order))):
                logits = logits[:, order]
            weighted = self.weights[i] * logits.softmax(1)
            total = weighted if total is None else total + weighted
        assert total is not None
        logits = total.clamp_min(1e-12).log()
        return logits if quantities is None else torch.cat([logits, quantities], 1)
