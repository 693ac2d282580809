"""Draws the labels of all faces over time."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from emotion_lab.video.overlay.fonts import default_font, font_for
from emotion_lab.video.overlay.primitives import BLACK, UNCERTAIN, WHITE, Colour, class_colours

_WIDTH, _MARGIN, _ROW, _BAR = 1200, 16, 44, 34  # pixels
_TEXT, _SMALL = 15, 13  # heights of text in pixels
_GRID = (225, 225, 225)


def _ticks(first: float, last: float) -> list[tuple[float, str]]:
    """Return at most 11 positions, multiples of 1, 2 or 5 times a power of ten, with their text."""
    power = 10.0 ** math.floor(math.log10((last - first) / 10))
    step = next(power * k for k in (1, 2, 5, 10) if (last - first) / (power * k) <= 10 + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    count = range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    return [(i * step, f"{i * step:.{digits}f}") for i in count]


def draw_timeline(
    runs: Mapping[int, Sequence[Sequence]] | Mapping[str, Sequence[Sequence]],
    classes: Sequence[str],
    title: str,
    first_s: float,
    last_s: float,
) -> bytes:
    """Return a PNG with a row per face and a bar per run.

    Args:
        runs: Face id, or name of the row -> (start_s, end_s, label) of its runs; label None:
            uncertain.
        classes: Class names, in the order of the labels.
        title: First line of the figure.
        first_s: Time at the left edge.
        last_s: Time at the right edge, > ``first_s``.
    """
    texts = [*classes, "uncertain"]
    colours: dict[int | None, Colour] = {**dict(enumerate(class_colours(classes))), None: UNCERTAIN}
    path = str(font_for([*texts, title]) or default_font())
    text, small = ImageFont.truetype(path, _TEXT), ImageFont.truetype(path, _SMALL)
    names = [key if isinstance(key, str) else f"face {key}" for key in runs]
    left = _MARGIN + 8 + int(max((text.getlength(name) for name in names), default=12))
    right, top, bottom = _WIDTH - 2 * _MARGIN, 40, 40 + max(1, len(names)) * _ROW + 8
    widths = [small.getlength(entry) + 64 for entry in texts]
    columns = max(1, int((_WIDTH - _MARGIN) / max(widths)))
    legend = [texts[i : i + columns] for i in range(0, len(texts), columns)]
    image = Image.new("RGB", (_WIDTH, bottom + 66 + 24 * len(legend)), WHITE)
    draw = ImageDraw.Draw(image)

    def x(time_s: float) -> int:
        return round(left + (right - left) * (time_s - first_s) / (last_s - first_s))

    draw.text((_WIDTH / 2, 20), title, BLACK, text, "mm")
    for time_s, label in _ticks(first_s, last_s):
        draw.line((x(time_s), top, x(time_s), bottom), _GRID)
        draw.line((x(time_s), bottom, x(time_s), bottom + 5), BLACK)
        draw.text((x(time_s), bottom + 9), label, BLACK, text, "ma")
    for row, (name, bars) in enumerate(zip(names, runs.values(), strict=True)):
        middle = top + 4 + row * _ROW + _ROW // 2
        draw.text((left - 8, middle), name, BLACK, text, "rm")
        for start_s, end_s, key in bars:
            if end_s > start_s:
                end = max(x(start_s), x(end_s) - 1)  # at least one pixel
                top_left = (x(start_s), middle - _BAR // 2)
                draw.rectangle((*top_left, end, middle + _BAR // 2 - 1), colours[key])
    draw.rectangle((left, top, right, bottom), outline=BLACK)
    draw.text(((left + right) / 2, bottom + 40), "seconds", BLACK, text, "mm")
    colour = iter(colours.values())
    for row, entries in enumerate(legend):
        middle = bottom + 70 + 24 * row
        start = (_WIDTH - sum(small.getlength(entry) + 64 for entry in entries) + 24) / 2
        for entry in entries:
            draw.rectangle((start, middle - 6, start + 30, middle + 6), next(colour))
            draw.text((start + 40, middle), entry, BLACK, small, "lm")
            start += small.getlength(entry) + 64
    data = io.BytesIO()
    image.save(data, "png")
    return data.getvalue()
