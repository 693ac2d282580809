"""Facial-emotion recognition: train, evaluate and deploy models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_lab.video.recognizer import EmotionRecognizer as EmotionRecognizer
    from emotion_lab.video.recognizer import load as load

__version__ = "0.1.0"
__all__ = ["EmotionRecognizer", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the API on first use: importing the package stays fast."""
    if name in ("EmotionRecognizer", "load"):
        from emotion_lab.video import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
