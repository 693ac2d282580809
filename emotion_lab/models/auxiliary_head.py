"""A linear head beside the classifier, on the same features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import EmotionNet


def last_linear(net: EmotionNet, key: str) -> nn.Linear:
    """Return the classifier of a network; ``key`` is the config key that needs it."""
    classifier = net.backbone.net.get_submodule(net.backbone.head_names[0])
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            f"{key} needs a network that ends in a linear layer, not {type(classifier).__name__}."
        )
    return classifier


class AuxiliaryHead(nn.Module):
    """Linear layer on the input of the classifier, which a hook reads from the current batch.

    Args:
        classifier: The last layer of the network.
        num_outputs: Number of outputs Q.
    """

    def __init__(self, classifier: nn.Linear, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(classifier.in_features, num_outputs)
        self._features: Tensor | None = None
        classifier.register_forward_pre_hook(self._keep_features)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Not those of an explanation map, whose graph could not be copied with the network.
        is_used = module.training or not torch.is_grad_enabled()
        self._features = inputs[0] if is_used else None

    def outputs(self) -> Tensor:
        """Return the outputs, float32 (B, Q), for the batch that the network processed last."""
        assert self._features is not None
        features, self._features = self._features, None
        return self.linear(features).float()
