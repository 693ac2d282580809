"""Vision Transformer, ViT-Base/16 by default (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import (
    MODELS,
    Backbone,
    InputSpec,
    check_patches,
    register_default_input,
)
from emotion_lab.models.timm import timm_backbone

NAME = "vit_base_patch16_224"
BASE = {"patch_size": 16, "depth": 12, "embed_dim": 768, "heads": 12}


@register_default_input("vit")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, mean and std 0.5, the input of the published weights."""
    return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)


@MODELS.register("vit")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build the vision transformer of timm; each transformer block is a stage."""
    check_patches(cfg["image_size"], cfg["patch_size"])
    if cfg["embed_dim"] % cfg["heads"]:
        raise UserError(
            f"model.embed_dim={cfg['embed_dim']} is not a multiple of model.heads={cfg['heads']}."
        )
    if cfg.get("pretrained") and not cfg.get("weights"):
        changed = [f"model.{key}={value}" for key, value in BASE.items() if cfg[key] != value]
        if changed:
            raise UserError(
                f"There are ImageNet weights for {', '.join(changed)} only. "
                "Set model.pretrained=false for another network."
            )
    return timm_backbone(
        NAME,
        cfg,
        num_classes,
        conv=False,
        patch_size=cfg["patch_size"],
        depth=cfg["depth"],
        embed_dim=cfg["embed_dim"],
        num_heads=cfg["heads"],
    )
