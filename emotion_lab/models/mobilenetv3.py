"""MobileNetV3-Large (Howard et al. 2019)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, input_defaults
from emotion_lab.models.torchvision import imagenet_input, torchvision_backbone


@input_defaults("mobilenetv3")
def defaults(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, ImageNet mean and std."""
    return imagenet_input(224)


@MODELS.register("mobilenetv3")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build torchvision's mobilenet_v3_large; the stages are its inverted residual blocks."""
    return torchvision_backbone("mobilenet_v3_large", cfg, num_classes)
