"""Emotion names: their order, and synonyms in the folder names of other datasets."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Order of FER2013 (Goodfellow et al. 2013): label ``i`` of the CSV is ``EMOTIONS[i]``.
EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "angry": ("anger", "ang", "an", "mad"),
    "disgust": ("disgusted", "disgusting", "dis", "di"),
    "fear": ("fearful", "afraid", "scared", "fea", "fe", "af"),
    "happy": ("happiness", "joy", "joyful", "smile", "hap", "ha"),
    "sad": ("sadness", "unhappy", "sa"),
    "surprise": ("surprised", "surprising", "sur", "su"),
    "neutral": ("neutrality", "neu", "ne", "calm"),
}

_LOOKUP: dict[str, str] = {
    **{name: name for name in EMOTIONS},
    **{alias: name for name, aliases in _SYNONYMS.items() for alias in aliases},
    **{str(index): name for index, name in enumerate(EMOTIONS)},
}


def canonical(name: str) -> str | None:
    """Return the emotion of a class name, None if it is none of the seven.

    Case, surrounding blanks and a leading number (``3_happy``, ``0-anger``) are ignored.
    """
    text = name.strip().lower()
    if text in _LOOKUP:
        return _LOOKUP[text]
    return _LOOKUP.get(re.sub(r"^\d+[\s._-]*|[\s._-]*\d+$", "", text))


def class_order(names: Iterable[str]) -> list[str]:
    """Return class names in order: the emotions as in :data:`EMOTIONS`, then the rest sorted."""
    unique = set(names)
    emotions = [name for name in EMOTIONS if name in unique]
    return emotions + sorted(unique - set(EMOTIONS))
