"""Head that predicts valence, arousal and intensity, and its use beside the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import QUANTITY_RANGES
from emotion_lab.models.auxiliary_head import AuxiliaryHead, last_linear
from emotion_lab.models.base import EmotionNet, QuantityWeights
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.network import Network

#: Prefix of the head in the state_dict of a checkpoint.
PREFIX = "quantities_head."


class QuantitiesHead(AuxiliaryHead):
    """Predicts one value for each quantity.

    Args:
        classifier: The last layer of the network.
        names: Names of the quantities, in the order of the outputs.
    """

    low: Tensor
    high: Tensor

    def __init__(self, classifier: nn.Linear, names: Sequence[str]) -> None:
        super().__init__(classifier, len(names))
        self.names = list(names)
        low, high = torch.tensor([QUANTITY_RANGES[name] for name in names]).T
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def values(self) -> dict[str, Tensor]:
        """Return name -> values, float32 (B,), for the batch that the network processed last.

        In eval mode they are limited to the range of the quantity.
        """
        values = self.outputs()
        if not self.training:
            values = values.clamp(self.low, self.high)
        return dict(zip(self.names, values.unbind(1), strict=True))


class _JointClassifier(nn.Module):
    """The classifier and the head as one layer, with outputs (B, K + Q)."""

    low: Tensor
    high: Tensor

    def __init__(self, classifier: nn.Linear, head: QuantityWeights) -> None:
        super().__init__()
        self.classifier = classifier
        # Without random weights, which would change those that are drawn afterwards.
        self.head = nn.utils.skip_init(nn.Linear, head.weight.shape[1], len(head.names))
        self.head.load_state_dict({"weight": head.weight, "bias": head.bias})
        low, high = torch.tensor([QUANTITY_RANGES[name] for name in head.names]).T
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, features: Tensor) -> Tensor:
        values = torch.minimum(torch.maximum(self.head(features), self.low), self.high)
        return torch.cat([self.classifier(features), values], 1)


def weights_of(state: dict[str, Tensor], card: dict[str, Any]) -> QuantityWeights | None:
    """Return the head in the ``state_dict`` of a checkpoint; None if it has none."""
    weight = state.get(f"{PREFIX}linear.weight")
    if weight is None or not card.get("quantities"):
        return None
    # Shipped checkpoints store float16.
    return QuantityWeights(
        list(card["quantities"]), weight.float(), state[f"{PREFIX}linear.bias"].float()
    )


def state_of(net: EmotionNet) -> dict[str, Tensor]:
    """Return the entries of the head for the ``state_dict`` of a checkpoint."""
    if net.quantities is None:
        return {}
    values = {"weight": net.quantities.weight, "bias": net.quantities.bias}
    return {f"{PREFIX}linear.{key}": value for key, value in values.items()}


def learned(net: Network) -> list[str]:
    """Return the quantities that a network has learned; of an ensemble, those of all members."""
    if isinstance(net, Ensemble):
        return net.quantities
    return [] if net.quantities is None else list(net.quantities.names)


def _join(net: EmotionNet, names: Sequence[str]) -> None:
    """Add the outputs ``names`` of the head to those of the classifier, in place."""
    head = net.quantities
    assert head is not None
    rows = [head.names.index(name) for name in names]
    head = QuantityWeights(list(names), head.weight[rows], head.bias[rows])
    module, name = net.backbone.net, net.backbone.head_names[0]
    parent, _, child = name.rpartition(".")
    classifier = last_linear(net, "quantities_head")
    setattr(module.get_submodule(parent), child, _JointClassifier(classifier, head))
    net.quantities = None


def join(net: Network) -> Network:
    """Return a copy of a network that returns the learned quantities after the logits, (B, K + Q).

    The quantities are in the order of :func:`learned`, limited to their ranges. A network that has
    learned none is returned as it is. The logits do not change.
    """
    names = learned(net)
    if not names:
        return net
    joint = copy.deepcopy(net).eval()
    members = joint.networks() if isinstance(joint, Ensemble) else [joint]
    for member in members:
        _join(member, names)
    if isinstance(joint, Ensemble):
        joint.num_quantities = len(names)
    try:
        spec = joint.spec
        with torch.inference_mode():
            joint(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    except RuntimeError as error:  # a network that combines the outputs of several classifiers
        raise UserError(
            f"the learned {', '.join(names)} cannot be read: the network does not end in its "
            f"classifier ({' '.join(str(error).split())[:150]})."
        ) from None
    return joint


def check_network(net: EmotionNet) -> None:
    """Refuse a network for a head that :func:`join` could not read after the training.

    Raises:
        UserError: If the network does not end in its classifier, such as one that averages two.
    """
    features = last_linear(net, "quantities_head.weight").in_features
    earlier = net.quantities
    net.quantities = QuantityWeights(["valence"], torch.zeros(1, features), torch.zeros(1))
    try:
        join(net)
    except UserError:
        raise UserError(
            "quantities_head.weight needs a network that ends in one classifier, and this one "
            "computes further with its outputs: set another model=."
        ) from None
    finally:
        net.quantities = earlier
