"""Several networks as one: their probabilities are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.errors import UserError
from emotion_lab.models.base import Backbone, EmotionNet
from emotion_lab.models.restore import restore


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
        for net, order, weight in zip(self.members, self.orders, self.weights, strict=True):
            part = weight * net(images).float()[:, order].softmax(1)
            total = part if total is None else total + part
        assert total is not None
        return total.clamp_min(1e-12).log()


def restore_all(
    paths: Sequence[Path], weights: Sequence[float] | None = None
) -> tuple[EmotionNet | Ensemble, dict[str, Any]]:
    """Rebuild one network, or several as an ensemble, in eval mode.

    Args:
        paths: Checkpoints.
        weights: Shares of the members; None weighs all the same.

    Returns:
        The network and the first checkpoint's card; with several, ``members`` in it lists the
        cards of all, and the temperature is 1, for nothing was fitted to the average.

    Raises:
        UserError: For a bad checkpoint, or members of different classes or input.
    """
    loaded = [restore(path) for path in paths]
    net, card = loaded[0]
    if len(loaded) == 1:
        return net, card
    orders = []
    for path, (other, its) in zip(paths, loaded, strict=True):
        if set(its["classes"]) != set(card["classes"]):
            raise UserError(
                f"{path} knows {', '.join(its['classes'])}, {paths[0]} {', '.join(card['classes'])}"
                ": the members of an ensemble must have the same classes."
            )
        if (other.spec.image_size, other.spec.channels) != (
            net.spec.image_size,
            net.spec.channels,
        ):
            raise UserError(
                f"{path} takes {other.spec.image_size} px with {other.spec.channels} channels, "
                f"{paths[0]} {net.spec.image_size} px with {net.spec.channels}: the members of an "
                "ensemble must take the same images."
            )
        orders.append([its["classes"].index(name) for name in card["classes"]])
    together = Ensemble([net for net, _ in loaded], orders, weights).eval()
    cards = [its for _, its in loaded]
    own = {key: value for key, value in card.items() if key != "calibration"}
    return together, {**own, "temperature": 1.0, "members": cards}
