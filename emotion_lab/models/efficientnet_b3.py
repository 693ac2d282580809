"""EfficientNet-B3 (Tan and Le 2019)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, register_default_input
from emotion_lab.models.torchvision import imagenet_input, torchvision_backbone


@register_default_input("efficientnet_b3")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return 300 pixels, RGB, ImageNet mean and std."""
    return imagenet_input(300)


@MODELS.register("efficientnet_b3")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``efficientnet_b3`` of torchvision; stem, seven stages and last conv are the stages."""
    return torchvision_backbone("efficientnet_b3", cfg, num_classes)
