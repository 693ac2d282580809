"""Networks: one file a family, fine-tuning policy and weight loading beside them."""

from emotion_lab.models.base import MODELS, Backbone, EmotionNet, InputSpec, build_model, input_spec

__all__ = ["MODELS", "Backbone", "EmotionNet", "InputSpec", "build_model", "input_spec"]
