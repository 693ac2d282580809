"""GoogLeNet with its two auxiliary heads (Szegedy et al. 2015)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, input_defaults
from emotion_lab.models.torchvision import torchvision_backbone

HEADS = ("fc", "aux1", "aux2")


@input_defaults("googlenet")
def defaults(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, mean and std 0.5: what the published weights were trained on.

    torchvision feeds the same network ImageNet-normalised images and converts them inside
    (``transform_input``); here the normalisation is ours, once.
    """
    return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)


@MODELS.register("googlenet")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build it; in training mode it returns (logits, [aux2, aux1]), the deeper one first."""
    backbone = torchvision_backbone("googlenet", cfg, num_classes)
    # An auxiliary head is more than its last layer: all of it is thrown away after training.
    backbone.head_names = HEADS
    backbone.stages = [
        [name for name in stage if not name.startswith("aux")]
        for stage in backbone.stages
        if not all(name.startswith("aux") for name in stage)
    ]
    return backbone
