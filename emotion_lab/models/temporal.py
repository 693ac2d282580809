"""Networks over time: a temporal model and a linear layer over windows of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.config import schema
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.models.base import Backbone, EmotionNet, build_model
from emotion_lab.temporal.base import TEMPORAL, TemporalModel, is_temporal

#: Keys of the card's input that a temporal model takes over from its frame network.
_INPUT = ("image_size", "channels", "mean", "std")


class StepClassifier(nn.Module):
    """Classifies the last step of windows.

    Args:
        kind: The temporal model.
        cfg: ``conf/model/<name>.yaml`` as a dict; ``hidden`` and ``dropout`` are used here.
    """

    def __init__(self, kind: type[TemporalModel], cfg: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.body = kind.network(cfg, num_classes + 1)
        self.dropout = nn.Dropout(cfg["dropout"])
        self.head = nn.Linear(cfg["hidden"], num_classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits (B, K) of windows (B, T, K + 1), see :func:`temporal.steps.windows`."""
        # The model is causal: rows after the end do not change the features before it.
        features = self.kind.run(self.body, windows)
        last = (windows[..., -1] >= 0).sum(1) - 1
        rows = torch.arange(len(windows), device=windows.device)
        return self.head(self.dropout(features[rows, last]))


class TemporalNet(EmotionNet):
    """A network over windows of steps instead of images; ``spec`` is that of the frame network."""

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify windows, float32 (B, T, K + 1), see :func:`emotion_lab.temporal.steps.windows`.

        Returns:
            Logits (B, K) of the last step.
        """
        return self.backbone(images)


def with_frame_input(model: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model`` group of a temporal model with the input of its frame network."""
    if model["frame_ckpt"] is None:
        raise UserError(
            f"model={model['name']} needs a network of single images: set "
            "model.frame_ckpt=<its checkpoint or run directory>."
        )
    path = find_checkpoint(model["frame_ckpt"])
    card = ckpt.read(path)[ckpt.CARD]
    if "frame" in card:
        raise UserError(
            f"model.frame_ckpt={model['frame_ckpt']} is a temporal model itself: set its frame "
            f"network, model.frame_ckpt={card['frame']['ckpt']}."
        )
    member = card.get("members", [card])[0]
    return {**model, **{key: member["input"][key] for key in _INPUT}, "frame_ckpt": str(path)}


def build_network(
    cfg: dict[str, Any], num_classes: int, classes: Sequence[str] | None = None
) -> tuple[EmotionNet, InputSpec]:
    """Build a temporal model or a network of images; see :func:`build_model`."""
    if not is_temporal(cfg):
        return build_model(cfg, num_classes, classes)
    schema.check_group("model", cfg)
    if cfg["weights"] or cfg["pretrained"]:
        raise UserError(
            f"model={cfg['name']} starts from random weights: remove model.weights and "
            "model.pretrained."
        )
    spec = InputSpec(cfg["image_size"], cfg["channels"], tuple(cfg["mean"]), tuple(cfg["std"]))
    kind = TEMPORAL.get(cfg["name"])
    return TemporalNet(Backbone.wrap(StepClassifier(kind, cfg, num_classes)), spec), spec
