"""emotion_lab: train, measure and use facial-emotion-recognition models."""

__version__ = "0.1.0"
