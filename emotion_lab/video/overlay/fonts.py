"""A font that has the letters of the words to draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont, features

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.translations import Translations, english

#: Parts of the file names of widely installed fonts for what DejaVu lacks; they are tried first.
_LIKELY = (
    "notosanscjk",
    "notosansdevanagari",
    "wqy",
    "msyh",
    "yugoth",
    "pingfang",
    "hiragino",
    "nirmala",
    "mangal",
    "lohit",
    "devanagari",
    "ipag",
    "takao",
    "fallback",
    "unifont",
)
#: Fonts that claim every character and draw none.
_EMPTY = ("lastresort", "adobeblank", "emoji")


def plain_font() -> Path:
    """Return DejaVu Sans Bold, which matplotlib carries: Latin, Greek, Cyrillic, Arabic."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"


def _letters(texts: Sequence[str]) -> frozenset[str]:
    return frozenset("".join(texts)) - {" "}


def covers(path: Path, texts: Sequence[str]) -> bool:
    """Say whether the font file has a glyph for every character of ``texts``."""
    from matplotlib.ft2font import FT2Font

    try:
        glyphs = FT2Font(str(path)).get_charmap()
        ImageFont.truetype(str(path), 12)
    except (OSError, RuntimeError, ValueError):  # a bitmap font, or a damaged one
        return False
    return all(ord(letter) in glyphs for letter in _letters(texts))


@lru_cache(maxsize=32)
def _search(letters: frozenset[str]) -> Path | None:
    """Look through the fonts of the system; slow where there are many, hence once."""
    from matplotlib import font_manager

    def key(path: str) -> tuple[int, str]:
        name = Path(path).name.lower().replace("-", "").replace("_", "")
        rank = next((i for i, part in enumerate(_LIKELY) if part in name), len(_LIKELY))
        return rank, path

    for path in sorted(font_manager.findSystemFonts(), key=key):
        if not any(part in Path(path).name.lower() for part in _EMPTY):
            if covers(Path(path), tuple(letters)):
                return Path(path)
    return None


def needs_shaping(texts: Sequence[str]) -> bool:
    """Say whether letters join, reorder or run from right to left (Arabic, Devanagari, ...)."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL") or unicodedata.category(letter) == "Mc"
        for letter in _letters(texts)
    )


def can_shape() -> bool:
    """Say whether this Pillow lays such scripts out (libraqm and FriBiDi)."""
    return bool(features.check("raqm") and features.check("fribidi"))


def choose_font(
    words: Translations, classes: Sequence[str], font: str | None
) -> tuple[Translations, Path]:
    """Find a font for ``words``, else fall back to English and say so in the notes.

    Args:
        words: What will be drawn.
        classes: Class names, the English words.
        font: A font file of the user's, or None to look for one.

    Raises:
        UserError: If ``font`` is no font file.
    """
    texts = words.every()
    if font is not None:
        path = Path(font).expanduser()
        try:
            ImageFont.truetype(str(path), 12)
        except OSError as error:
            raise UserError(
                f"{path} is no font that can be read. Set overlay.font=<file.ttf>, or null."
            ) from error
        found = path if covers(path, texts) else None
        lacking = f"{path.name} lacks the letters of language={words.language}"
    else:
        found = plain_font() if covers(plain_font(), texts) else _search(_letters(texts))
        lacking = f"no font on this machine has the letters of language={words.language}"
    if found is not None and needs_shaping(texts) and not can_shape():
        found = None
        lacking = f"this Pillow cannot lay out language={words.language} (no Raqm and FriBiDi)"
    if found is not None:
        return words, found
    note = f"{lacking}: written in English. Install a Noto font or set overlay.font=<file.ttf>."
    own = english(classes, (*words.notes, note))
    if covers(plain_font(), own.every()):
        return own, plain_font()
    # A class called, say, 怒り keeps its name; the letters there is no glyph for show as boxes.
    return own, _search(_letters(own.every())) or plain_font()
