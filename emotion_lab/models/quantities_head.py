"""Head that predicts valence, arousal and intensity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.models.auxiliary_head import AuxiliaryHead, last_linear
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.network import Network

#: Prefix of the head in the state_dict of a checkpoint.
PREFIX = "quantities_head."


class QuantitiesHead(AuxiliaryHead):
    """Predicts one value for each quantity.

    Args:
        classifier: The last layer of the network.
        names: Names of the quantities, in the order of the outputs.
    """

    def __init__(self, classifier: nn.Linear, names: Sequence[str]) -> None:
        super().__init__(classifier, len(names))
        self.names = list(names)

    def values(self) -> dict[str, Tensor]:
        """Return name -> values, float32 (B,), for the batch that the network processed last."""
        return dict(zip(self.names, self.outputs().unbind(1), strict=True))


def load_head(path: Path, net: Network, card: dict[str, Any]) -> QuantitiesHead | None:
    """Attach the head of a checkpoint to its network (eval mode); None if it has none.

    The values of the members of an ensemble are not averaged: it has no head.
    """
    names = card.get("quantities")
    if not names or not isinstance(net, EmotionNet):
        return None
    state = ckpt.read(path)["state_dict"]
    head = QuantitiesHead(last_linear(net, "quantities_head"), names)
    head.load_state_dict(
        {key[len(PREFIX) :]: value for key, value in state.items() if key.startswith(PREFIX)}
    )
    return head.eval()
