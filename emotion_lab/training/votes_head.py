"""Auxiliary head that learns the distribution of the FER+ votes next to the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.ferplus import vote_distribution
from emotion_lab.models.auxiliary_head import AuxiliaryHead, last_linear
from emotion_lab.models.base import EmotionNet
from emotion_lab.training.mixup import check_unmixed


class VotesHead(AuxiliaryHead):
    """Predicts the FER+ votes from the input of the classifier, as an auxiliary task.

    The head is trained only: exported networks and ``best.ckpt`` do not use it.

    Args:
        classifier: The last layer of the network; its input of the current batch is read by a hook.
        targets: Vote distribution of each image of train, float32 (N, K); zeros for an image
            without votes.
        weight: Weight of the head's cross-entropy, above 0; the loss on labels has weight 1.
    """

    targets: Tensor

    def __init__(self, classifier: nn.Linear, targets: Tensor, weight: float) -> None:
        super().__init__(classifier, targets.shape[1])
        self.weight = weight
        # Not persistent: the targets belong to the data, not to the checkpoint.
        self.register_buffer("targets", targets, persistent=False)

    def forward(self, loss: Tensor, positions: Tensor) -> Tensor:
        """Return ``loss + weight * cross-entropy`` for the images at ``positions`` (B,) of train.

        The network must have processed the batch before. Images without votes do not count.
        """
        cross_entropy = -(self.targets[positions] * F.log_softmax(self.outputs(), 1)).sum(1).mean()
        return loss + self.weight * cross_entropy


def build(cfg: dict[str, Any], data: EmotionData, net: EmotionNet) -> VotesHead | None:
    """Build the head for ``votes_head.weight`` (whole config ``cfg``); None for weight 0."""
    weight = cfg["votes_head"]["weight"]
    if not weight:
        return None
    split = data.split("train")
    if split.votes is None:
        raise UserError(
            "votes_head.weight needs the FER+ votes: set data.ferplus_csv=<fer2013new.csv>."
        )
    check_unmixed(cfg, "votes_head.weight")
    classifier = last_linear(net, "votes_head.weight")
    shares = vote_distribution(split.votes, split.labels)
    shares[split.votes.sum(1) == 0] = 0.0
    return VotesHead(classifier, torch.from_numpy(shares), weight)
