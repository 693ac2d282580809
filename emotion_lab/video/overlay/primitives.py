"""Drawing primitives of the overlay: colours, text, rectangles. All are clipped to the image."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rect = tuple[int, int, int, int]

#: Okabe and Ito's seven colours (https://jfly.uni-koeln.de/color/), which most colour-blind
#: readers can distinguish. An emotion keeps its colour in every output.
COLOURS: dict[str, Colour] = {
    "angry": (213, 94, 0),
    "disgust": (0, 158, 115),
    "fear": (204, 121, 167),
    "happy": (240, 228, 66),
    "sad": (0, 114, 178),
    "surprise": (230, 159, 0),
    "neutral": (86, 180, 233),
}
#: For other class names: Paul Tol's "muted" scheme (https://personal.sron.nl/~pault/).
EXTRA_COLOURS: tuple[Colour, ...] = (
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
#: Cached text bitmaps. Numbers that change with every frame would fill the memory without a limit.
_MAX_BITMAPS = 3000


def class_colours(classes: Sequence[str]) -> list[Colour]:
    """Return one distinct RGB colour per class, in class order."""
    extra = itertools.chain(EXTRA_COLOURS, map(_generated_colour, itertools.count()))
    return [COLOURS[name] if name in COLOURS else next(extra) for name in classes]


def _generated_colour(i: int) -> Colour:
    # The golden ratio spreads any number of hues evenly.
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55, 0.95 - 0.05 * (i % 8))
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour_on(background: Colour) -> Colour:
    """Return black or white, whichever has more contrast (WCAG 2 relative luminance)."""
    red, green, blue = (
        c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return BLACK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else WHITE


@dataclass(frozen=True)
class OverlayScale:
    """Text and line sizes for one frame size, in pixels."""

    text: int
    small: int
    pad: int
    line: int
    bar: int

    @staticmethod
    def of(width: int, height: int, scale: float, face_width: float = math.inf) -> OverlayScale:
        """Scale with the square root of the frame area; text is at least 8 px high.

        Args:
            face_width: Text is at most 0.4 times as high as this, if the frame is larger than
                640x360: labels of many small faces hide fewer of them.
        """
        unit = math.sqrt(width * height / (640 * 360))
        unit = min(unit, max(1.0, 0.4 * face_width / 13)) * scale
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
    """Rendered text, ready for alpha compositing.

    Attributes:
        premultiplied: uint8 (h, w, 3), text colour times coverage.
        inverse_alpha: uint8 (h, w, 3), 255 minus coverage.
        left: Pixels from the pen position to the left edge.
        top: Pixels from the baseline to the upper edge; negative: above the baseline.
    """

    premultiplied: np.ndarray
    inverse_alpha: np.ndarray
    left: int
    top: int

    @property
    def width(self) -> int:
        """Pixels from the pen position to the right edge."""
        return self.left + self.premultiplied.shape[1]


class TextRenderer:
    """Renders Unicode text with Pillow and caches the bitmaps.

    Args:
        words: Font file for words.
        numbers: Font file for numbers; some fonts of other scripts have no Latin digits.
    """

    def __init__(self, words: Path, numbers: Path) -> None:
        self._files = {"words": words, "numbers": numbers}
        self._fonts: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}
        self._bitmaps: dict[tuple[str, int, Colour, str], TextBitmap] = {}

    def font(self, kind: str, px: int) -> ImageFont.FreeTypeFont:
        """Return the font for ``words`` or ``numbers`` at ``px`` pixels."""
        if (kind, px) not in self._fonts:
            self._fonts[kind, px] = ImageFont.truetype(str(self._files[kind]), px)
        return self._fonts[kind, px]

    def text(self, text: str, px: int, colour: Colour = WHITE, kind: str = "words") -> TextBitmap:
        """Render ``text`` at ``px`` pixels in RGB ``colour``."""
        key = (text, px, colour, kind)
        bitmap = self._bitmaps.get(key)
        if bitmap is None:
            if len(self._bitmaps) >= _MAX_BITMAPS:
                self._bitmaps.clear()
            bitmap = self._bitmaps[key] = self._render(*key)
        return bitmap

    def clone(self) -> TextRenderer:
        """Return a renderer of the same fonts with an empty cache, for another thread."""
        return TextRenderer(self._files["words"], self._files["numbers"])

    def _render(self, text: str, px: int, colour: Colour, kind: str) -> TextBitmap:
        font = self.font(kind, px)
        left, top, right, bottom = (round(v) for v in font.getbbox(text, anchor="ls"))
        mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
        ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, anchor="ls")
        coverage = np.repeat(np.asarray(mask)[:, :, None], 3, axis=2)
        premultiplied = (coverage.astype(np.float32) * (np.array(colour, np.float32) / 255)).round()
        return TextBitmap(premultiplied.astype(np.uint8), 255 - coverage, left, top)


def draw_text(image: np.ndarray, bitmap: TextBitmap, x: int, baseline: int) -> None:
    """Composite ``bitmap`` onto ``image`` in place, with its pen position at (x, baseline)."""
    height, width = bitmap.premultiplied.shape[:2]
    left, top = x + bitmap.left, baseline + bitmap.top
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(image.shape[1], left + width), min(image.shape[0], top + height)
    if x1 <= x0 or y1 <= y0:
        return
    inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    region = image[y0:y1, x0:x1]
    background = cv2.multiply(region, bitmap.inverse_alpha[inside], scale=1 / 255)
    region[:] = cv2.add(background, bitmap.premultiplied[inside])


def _region(image: np.ndarray, rect: Rect) -> np.ndarray:
    """Return a view of (x, y, width, height) clipped to the image; may be empty."""
    x, y, w, h = rect
    return image[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)]


def fill(image: np.ndarray, rect: Rect, colour: Colour) -> None:
    """Fill a rectangle (x, y, width, height) in place."""
    _region(image, rect)[:] = colour


def shade(image: np.ndarray, rect: Rect) -> None:
    """Darken a rectangle (x, y, width, height) in place, as a background for light text."""
    region = _region(image, rect)
    if region.size:
        region[:] = cv2.convertScaleAbs(region, alpha=0.27)


def overlap(a: Rect, b: Rect) -> int:
    """Return the intersection area of two rectangles (x, y, width, height), in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0


def place_label(
    candidates: Sequence[tuple[int, int]],
    size: tuple[int, int],
    area: tuple[int, int],
    occupied: Sequence[tuple[Rect, float]],
    previous: int | None = None,
) -> tuple[int, Rect, float]:
    """Choose the position where a label hides least.

    Args:
        candidates: Upper left corners in order of preference; each is moved inside the area.
        area: Width and height of the area available for labels.
        previous: Index chosen in the previous frame. It is kept while it is nearly as good, so
            that labels do not jump.

    Returns:
        Index of the candidate, its rectangle, and its weighted overlap as a share of its size.
    """
    best: tuple[float, int, Rect, float] | None = None
    for index, (x, y) in enumerate(candidates):
        x = max(0, min(x, area[0] - size[0]))
        y = max(0, min(y, area[1] - size[1]))
        rect = (x, y, size[0], size[1])
        hidden = sum(weight * overlap(rect, other) for other, weight in occupied)
        share = hidden / max(1, size[0] * size[1])
        cost = share + 0.04 * index - (0.15 if index == previous else 0.0)
        if best is None or cost < best[0]:
            best = (cost, index, rect, share)
    assert best is not None, "at least one candidate"
    return best[1:]
