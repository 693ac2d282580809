"""Selects a font that covers the characters of a language."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont, features

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.translations import Translations, english

#: Parts of the file names of common fonts for scripts that DejaVu lacks; they are tried first.
_PREFERRED = (
    *("notosanscjk", "notosansdevanagari", "wqy", "msyh", "yugoth", "pingfang", "hiragino"),
    *("nirmala", "mangal", "lohit", "devanagari", "ipag", "takao", "fallback", "unifont"),
)
#: Fonts that list every character but contain no usable glyphs.
_EXCLUDED = ("lastresort", "adobeblank", "emoji")


def default_font() -> Path:
    """Return DejaVu Sans Bold, part of this package: Latin, Greek, Cyrillic, Arabic."""
    return Path(__file__).with_name("DejaVuSans-Bold.ttf")


def _characters(texts: Sequence[str]) -> frozenset[str]:
    return frozenset("".join(texts)) - {" "}


def covers(path: Path, texts: Sequence[str]) -> bool:
    """Return whether the font file has a glyph for every character of ``texts``.

    A character without one is rendered as the font's replacement glyph, like U+10FFFF, which no
    text contains.
    """
    try:
        font = ImageFont.truetype(str(path), 24, layout_engine=ImageFont.Layout.BASIC)
        missing = font.getmask("\U0010ffff")
        replacement = (missing.size, bytes(missing))
        masks = ((mask.size, bytes(mask)) for mask in map(font.getmask, _characters(texts)))
        return all(mask != replacement for mask in masks)
    except (OSError, ValueError):  # a bitmap font or a corrupt file
        return False


def _font_folders() -> list[Path]:
    """Return the folders in which Linux, macOS and Windows keep fonts."""
    home, local = Path.home(), os.environ.get("LOCALAPPDATA", "")
    folders = [home / ".fonts", home / ".local/share/fonts", home / "Library/Fonts"]
    folders += map(Path, ("/usr/share/fonts", "/usr/local/share/fonts"))
    folders += map(Path, ("/Library/Fonts", "/System/Library/Fonts"))
    folders += [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    return folders + ([Path(local) / "Microsoft/Windows/Fonts"] if local else [])


@lru_cache(maxsize=32)
def _find_system_font(characters: frozenset[str]) -> Path | None:
    """Search the installed fonts; cached, because reading many fonts is slow."""

    def preference(path: Path) -> tuple[int, str]:
        name = path.name.lower().replace("-", "").replace("_", "")
        rank = next((i for i, part in enumerate(_PREFERRED) if part in name), len(_PREFERRED))
        return rank, str(path)

    files = [path for folder in _font_folders() for path in folder.rglob("*.[oOtT]*")]
    for path in sorted(files, key=preference):
        excluded = any(part in path.name.lower() for part in _EXCLUDED)
        is_font = path.suffix.lower() in (".ttf", ".otf", ".ttc")
        if is_font and not excluded and covers(path, tuple(characters)):
            return path
    return None


def font_for(texts: Sequence[str]) -> Path | None:
    """Return the default font, or an installed one if only that covers ``texts``; else None."""
    if covers(default_font(), texts):
        return default_font()
    return _find_system_font(_characters(texts))


def needs_shaping(texts: Sequence[str]) -> bool:
    """Return whether characters join, reorder or run right to left (Arabic, Devanagari, ...)."""
    return any(
        unicodedata.bidirectional(character) in ("R", "AL")
        or unicodedata.category(character) == "Mc"
        for character in _characters(texts)
    )


def can_shape() -> bool:
    """Return whether this Pillow supports complex text layout (libraqm and FriBiDi)."""
    return bool(features.check("raqm") and features.check("fribidi"))


def choose_font(
    translations: Translations, classes: Sequence[str], font: str | None
) -> tuple[Translations, Path]:
    """Return the translations and a font for them; English with a note if there is no font.

    Args:
        classes: Class names, which are the English words.
        font: A font file, or None to search the installed fonts.
    """
    texts = translations.all_words()
    path: Path | None
    if font is not None:
        path = Path(font).expanduser()
        try:
            ImageFont.truetype(str(path), 12)
        except OSError as error:
            raise UserError(
                f"{path} is not a readable font. Set overlay.font=<file.ttf>, or null."
            ) from error
        problem = f"{path.name} lacks characters of language={translations.language}"
        path = path if covers(path, texts) else None
    else:
        path = font_for(texts)
        problem = f"no installed font covers language={translations.language}"
    if path is not None and needs_shaping(texts) and not can_shape():
        path = None
        problem = (
            f"this Pillow cannot lay out language={translations.language} (no Raqm and FriBiDi)"
        )
    if path is not None:
        return translations, path
    note = f"{problem}: labels are in English. Install a Noto font or set overlay.font=<file.ttf>."
    fallback = english(classes, (*translations.notes, note))
    # Class names in another script stay as they are; characters without a glyph show as boxes.
    return fallback, font_for(fallback.all_words()) or default_font()
