"""Networks, one module per family; fine-tuning, pretrained weights and checkpoints."""

from emotion_lab.models.base import MODELS, Backbone, EmotionNet, InputSpec, build_model, input_spec

__all__ = ["MODELS", "Backbone", "EmotionNet", "InputSpec", "build_model", "input_spec"]
