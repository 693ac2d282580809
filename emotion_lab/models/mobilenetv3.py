"""MobileNetV3-Large (Howard et al. 2019)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, register_default_input
from emotion_lab.models.torchvision import imagenet_input, torchvision_backbone


@register_default_input("mobilenetv3")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, ImageNet mean and std."""
    return imagenet_input(224)


@MODELS.register("mobilenetv3")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``mobilenet_v3_large`` of torchvision; its inverted residual blocks are the stages."""
    return torchvision_backbone("mobilenet_v3_large", cfg, num_classes)
