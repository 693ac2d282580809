"""Facial-emotion recognition: train, evaluate and deploy models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_lab.inference.loader import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import ``load`` on first use: importing the package stays fast."""
    if name == "load":
        from emotion_lab.inference.loader import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
