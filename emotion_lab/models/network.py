"""The type of a network for inference: a single network or an ensemble."""

from __future__ import annotations

from typing import TypeAlias

from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble

#: Both take images (B, C, S, S), values 0..255, and return logits (B, K).
Network: TypeAlias = EmotionNet | Ensemble
