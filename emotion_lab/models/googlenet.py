"""GoogLeNet with its two auxiliary heads (Szegedy et al. 2015)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, register_default_input
from emotion_lab.models.torchvision import torchvision_backbone

HEADS = ("fc", "aux1", "aux2")


@register_default_input("googlenet")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, mean and std 0.5, the input of the published weights.

    torchvision converts ImageNet-normalised images inside the network (``transform_input``);
    here :class:`EmotionNet` normalises once.
    """
    return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)


@MODELS.register("googlenet")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build GoogLeNet; in training mode it returns (logits, [aux2, aux1]), deeper head first."""
    backbone = torchvision_backbone("googlenet", cfg, num_classes)
    # All layers of an auxiliary head belong to it, because the head is unused after training.
    backbone.head_names = HEADS
    backbone.stages = [
        [name for name in stage if not name.startswith("aux")]
        for stage in backbone.stages
        if not all(name.startswith("aux") for name in stage)
    ]
    return backbone
