"""Losses. All take logits (B, K) and hard (B,) or soft (B, K) targets."""

from emotion_lab.losses.base import LOSSES, build_loss, total_weight, weighs_classes

__all__ = ["LOSSES", "build_loss", "total_weight", "weighs_classes"]
