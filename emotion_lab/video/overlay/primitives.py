"""Colours, text and plates: what the overlay is drawn with. Everything is clipped to the image."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]

#: Okabe and Ito's seven colours (https://jfly.uni-koeln.de/color/), told apart by most
#: colour-blind readers; an emotion has the same one everywhere.
COLOURS: dict[str, Colour] = {
    "angry": (213, 94, 0),
    "disgust": (0, 158, 115),
    "fear": (204, 121, 167),
    "happy": (240, 228, 66),
    "sad": (0, 114, 178),
    "surprise": (230, 159, 0),
    "neutral": (86, 180, 233),
}
#: For other class names, from Paul Tol's "muted" scheme (https://personal.sron.nl/~pault/).
FURTHER: tuple[Colour, ...] = (
    (136, 34, 85),
    (221, 204, 119),
    (17, 119, 51),
    (204, 102, 119),
    (51, 34, 136),
    (68, 170, 153),
)
UNCERTAIN: Colour = (150, 150, 150)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
DIM: Colour = (205, 205, 205)
_CACHE = 3000  # patches; numbers that change with every frame would fill the memory otherwise


def class_colours(classes: Sequence[str]) -> list[Colour]:
    """Return one RGB colour for each class, in class order; no two are the same."""
    colours: list[Colour] = []
    other = 0
    for name in classes:
        if name in COLOURS:
            colours.append(COLOURS[name])
            continue
        if other < len(FURTHER):
            colours.append(FURTHER[other])
        else:
            # The golden ratio spreads hues evenly however many there are.
            hue = ((other - len(FURTHER)) * 0.618034) % 1
            value = 0.95 - 0.05 * ((other - len(FURTHER)) % 8)
            red, green, blue = colorsys.hsv_to_rgb(hue, 0.55, value)
            colours.append((round(red * 255), round(green * 255), round(blue * 255)))
        other += 1
    return colours


def ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever reads better on ``colour`` (WCAG relative luminance)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else WHITE


@dataclass(frozen=True)
class OverlayScale:
    """Pixel sizes that fit one picture."""

    text: int
    small: int
    pad: int
    line: int
    bar: int

    @staticmethod
    def of(width: int, height: int, scale: float) -> OverlayScale:
        """Scale with the square root of the picture's area; text never gets below 8 px."""
        unit = math.sqrt(width * height / (640 * 360)) * scale
        return OverlayScale(
            text=max(9, round(13 * unit)),
            small=max(8, round(11 * unit)),
            pad=max(2, round(3.5 * unit)),
            line=max(1, round(2 * unit)),
            bar=max(16, round(42 * unit)),
        )

    @property
    def row(self) -> int:
        """Height of a line of small text."""
        return round(self.small * 1.4)


@dataclass(frozen=True)
class TextBitmap:
    """A rendered text.

    Attributes:
        ink: uint8 (h, w, 3), the colour times its coverage.
        keep: uint8 (h, w, 3), how much of what is below shows through, of 255.
        left: Pixels from the pen position to the left edge.
        top: Pixels from the baseline to the upper edge; negative is above.
    """

    ink: np.ndarray
    keep: np.ndarray
    left: int
    top: int

    @property
    def width(self) -> int:
        """Pixels from the pen position to the right edge."""
        return self.left + self.ink.shape[1]


class TextRenderer:
    """Writes Unicode text on images; a text is rendered once and copied from then on.

    Args:
        words: Font file for words.
        numbers: Font file for numbers and ids, which a font for words may lack.
    """

    def __init__(self, words: Path, numbers: Path) -> None:
        self._files = {"words": str(words), "numbers": str(numbers)}
        self._fonts: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}
        self._patches: dict[tuple[str, int, Colour, str], TextBitmap] = {}

    def font(self, kind: str, px: int) -> ImageFont.FreeTypeFont:
        """Return the font for ``words`` or ``numbers`` at ``px`` pixels."""
        if (kind, px) not in self._fonts:
            self._fonts[kind, px] = ImageFont.truetype(self._files[kind], px)
        return self._fonts[kind, px]

    def text(self, text: str, px: int, colour: Colour = WHITE, kind: str = "words") -> TextBitmap:
        """Render ``text`` at ``px`` pixels in RGB ``colour``."""
        key = (text, px, colour, kind)
        patch = self._patches.get(key)
        if patch is None:
            if len(self._patches) >= _CACHE:
                self._patches.clear()
            patch = self._patches[key] = self._render(*key)
        return patch

    def _render(self, text: str, px: int, colour: Colour, kind: str) -> TextBitmap:
        font = self.font(kind, px)
        left, top, right, bottom = (round(v) for v in font.getbbox(text, anchor="ls"))
        mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, anchor="ls")
        cover = np.repeat(np.asarray(mask)[:, :, None], 3, axis=2)
        ink = (cover.astype(np.float32) * (np.array(colour, np.float32) / 255)).round()
        return TextBitmap(ink.astype(np.uint8), 255 - cover, left, top)


def write(image: np.ndarray, patch: TextBitmap, x: int, baseline: int) -> None:
    """Put ``patch`` on ``image`` in place, its pen position at (x, baseline)."""
    height, width = patch.ink.shape[:2]
    left, top = x + patch.left, baseline + patch.top
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(image.shape[1], left + width), min(image.shape[0], top + height)
    if x1 <= x0 or y1 <= y0:
        return
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    place = image[y0:y1, x0:x1]
    below = cv2.multiply(place, patch.keep[inside], scale=1 / 255)
    place[:] = cv2.add(below, patch.ink[inside])


def _part(image: np.ndarray, rect: Rect) -> np.ndarray:
    """Return the view of ``image`` that lies inside (x, y, width, height); it may be empty."""
    x, y, w, h = rect
    return image[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]


def fill(image: np.ndarray, rect: Rect, colour: Colour) -> None:
    """Paint a rectangle (x, y, width, height) of ``image`` in place."""
    _part(image, rect)[:] = colour


def shade(image: np.ndarray, rect: Rect) -> None:
    """Darken a rectangle (x, y, width, height) in place, so that light text reads on anything."""
    part = _part(image, rect)
    if part.size:
        part[:] = cv2.convertScaleAbs(part, alpha=0.27)


def overlap(a: Rect, b: Rect) -> int:
    """Return the area, in pixels, that two rectangles (x, y, width, height) share."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0


def place(
    spots: Sequence[tuple[int, int]],
    size: tuple[int, int],
    frame: tuple[int, int],
    taken: Sequence[tuple[Rect, float]],
    last: int | None = None,
) -> tuple[int, Rect, float]:
    """Choose where a plate covers least.

    Args:
        spots: Upper left corners to choose from, the best liked first; each is moved into the
            frame.
        size: Width and height of the plate.
        frame: Width and height of the image.
        taken: Rectangles better not covered, with the weight of each.
        last: The spot of the frame before: it is kept while it is nearly as good, so that plates
            do not hop about.

    Returns:
        Index of the spot, its rectangle, and the weighted share of it that covers something.
    """
    best: tuple[float, int, Rect, float] | None = None
    for index, (x, y) in enumerate(spots):
        x = max(0, min(x, frame[0] - size[0]))
        y = max(0, min(y, frame[1] - size[1]))
        rect = (x, y, size[0], size[1])
        covered = sum(weight * overlap(rect, other) for other, weight in taken)
        share = covered / max(1, size[0] * size[1])
        cost = share + 0.04 * index - (0.15 if index == last else 0.0)
        if best is None or cost < best[0]:
            best = (cost, index, rect, share)
    assert best is not None, "at least one spot"
    return best[1], best[2], best[3]
