"""EfficientNet-B3 (Tan and Le 2019)."""

from __future__ import annotations

from typing import Any

from emotion_lab.models.base import MODELS, Backbone, InputSpec, input_defaults
from emotion_lab.models.torchvision import imagenet_input, torchvision_backbone


@input_defaults("efficientnet_b3")
def defaults(cfg: dict[str, Any]) -> InputSpec:
    """Return 300 pixels, RGB, ImageNet mean and std."""
    return imagenet_input(300)


@MODELS.register("efficientnet_b3")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build torchvision's efficientnet_b3; the stages are its stem, seven stages and last conv."""
    return torchvision_backbone("efficientnet_b3", cfg, num_classes)
