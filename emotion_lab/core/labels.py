"""Emotion names: their order, synonyms in the folder names of other datasets, and numberings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

#: Order of FER2013 (Goodfellow et al. 2013): label ``i`` of the CSV is ``EMOTIONS[i]``.
EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

#: Emotion -> (valence, arousal), -1 to 1: mean ratings of the words angry, disgusted, fearful,
#: happy, sad and surprised as pleasure and arousal (Russell and Mehrabian 1977, "Evidence for a
#: three-factor theory of emotions", Journal of Research in Personality 11, 273-294). The table has
#: no word for a neutral face, which is the centre of both scales.
COORDINATES: dict[str, tuple[float, float]] = {
    "angry": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "happy": (0.81, 0.51),
    "sad": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
    "neutral": (0.0, 0.0),
}

#: Quantity -> its lowest and highest value; the order is that of all outputs.
QUANTITY_RANGES: dict[str, tuple[float, float]] = {
    "valence": (-1.0, 1.0),
    "arousal": (-1.0, 1.0),
    "intensity": (0.0, 1.0),
}

#: Name of a numbering (``data.label_scheme``) -> number of a class -> its name. RAF-DB (Li et al.
#: 2017), AffectNet (Mollahosseini et al. 2017), FER+ (Barsoum et al. 2016).
LABEL_SCHEMES: dict[str, dict[int, str]] = {
    "fer2013": dict(enumerate(EMOTIONS)),
    "rafdb": dict(
        enumerate(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), start=1)
    ),
    "affectnet": dict(
        enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"))
    ),
    "ferplus": dict(
        enumerate(("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt"))
    ),
}

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
}


def normalize(name: str) -> str:
    """Return a class name in lower case and Unicode form NFC, without surrounding blanks.

    Bytes of a file name that are not UTF-8 are read as Latin-1.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    return unicodedata.normalize("NFC", name).strip().lower()


def class_number(name: str) -> int | None:
    """Return the number of a class name that is a number, else None."""
    text = name.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def canonical(name: str, scheme: str | None = None) -> str | None:
    """Return the emotion of a class name, None if it is none of the seven.

    Case, surrounding blanks and a leading or trailing number (``3_happy``, ``0-anger``) are
    ignored. A number alone is the label of ``scheme``, a key of :data:`LABEL_SCHEMES`, FER2013 by
    default.
    """
    number = class_number(name)
    if number is not None:
        emotion = LABEL_SCHEMES[scheme or "fer2013"].get(number)
        return emotion if emotion in EMOTIONS else None
    text = normalize(name)
    if text in _LOOKUP:
        return _LOOKUP[text]
    return _LOOKUP.get(re.sub(r"^\d+[\s._-]*|[\s._-]*\d+$", "", text))


def class_key(name: str, scheme: str | None = None) -> str:
    """Return the name that classes are matched by: the emotion, or the normalized name.

    A number alone is the label of ``scheme``, as for :func:`canonical`.
    """
    number = class_number(name)
    if number is not None and number in LABEL_SCHEMES[scheme or "fer2013"]:
        return LABEL_SCHEMES[scheme or "fer2013"][number]
    return canonical(name) or normalize(name)


def class_order(names: Iterable[str]) -> list[str]:
    """Return class names in order: the emotions as in :data:`EMOTIONS`, then the rest sorted."""
    unique = set(names)
    emotions = [name for name in EMOTIONS if name in unique]
    return emotions + sorted(unique - set(EMOTIONS))
