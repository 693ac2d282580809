"""Resizing and padding of detector inputs, and mapping of points back to the source image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class LetterboxedImage:
    """A resized and padded image with its transform.

    Attributes:
        image: uint8 (h, w, 3) RGB, contiguous.
        scale: Letterboxed pixels per source pixel in x and y; they differ by rounding only.
        offset: x, y of the source's top left corner, in letterboxed pixels.
        source_size: (width, height) of the source image.
    """

    image: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]
    source_size: tuple[int, int]

    def to_source(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) from letterboxed to source pixels, as float32."""
        points = np.asarray(points, np.float64)
        return ((points - self.offset) / self.scale).astype(np.float32)


def _resized_size(image: np.ndarray, width: float, height: float, enlarge: bool) -> tuple[int, int]:
    """Return the largest (width, height) within the limits that keeps the aspect ratio."""
    h, w = image.shape[:2]
    ratio = min(width / w, height / h)
    if not enlarge:
        ratio = min(ratio, 1.0)
    return max(1, round(w * ratio)), max(1, round(h * ratio))


def resize_longest_side(
    image: np.ndarray, size: int | None, enlarge: bool = False, multiple: int = 1, min_side: int = 1
) -> LetterboxedImage:
    """Resize so that the longest side is ``size``, then pad with black on the right and bottom.

    Args:
        size: Longest side in pixels; None keeps the image size.
        multiple: Both sides of the result are multiples of this.
        min_side: Minimum of both sides of the result, in pixels.
    """
    limit = size or max(image.shape[:2])
    width, height = _resized_size(image, limit, limit, enlarge)
    canvas_width, canvas_height = (
        -(-max(side, min_side) // multiple) * multiple for side in (width, height)
    )
    return _letterbox(image, (width, height), (canvas_width, canvas_height), (0, 0), 0)


def letterbox(
    image: np.ndarray,
    width: int,
    height: int,
    pad: int = 114,
    centre: bool = True,
    enlarge: bool = False,
) -> LetterboxedImage:
    """Resize an image to fit a canvas of a fixed size, keeping its aspect ratio.

    Args:
        width, height: Size of the canvas in pixels.
        pad: Grey level 0..255 of the padding; YOLO networks are trained with 114.
        centre: Centre the image on the canvas, else align it to the top left corner.
    """
    inner = _resized_size(image, width, height, enlarge)
    offset = ((width - inner[0]) // 2, (height - inner[1]) // 2) if centre else (0, 0)
    return _letterbox(image, inner, (width, height), offset, pad)


def _letterbox(
    image: np.ndarray,
    inner: tuple[int, int],
    canvas: tuple[int, int],
    offset: tuple[int, int],
    pad: int,
) -> LetterboxedImage:
    """Resize to ``inner`` (width, height) and pad to ``canvas`` (width, height)."""
    h, w = image.shape[:2]
    result = np.ascontiguousarray(image)
    if (w, h) != inner:
        # Area averaging when shrinking, so that no row is skipped.
        shrinks = inner[0] * inner[1] < h * w
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        result = cv2.resize(result, inner, interpolation=method)
    if inner != canvas:
        right, bottom = canvas[0] - inner[0] - offset[0], canvas[1] - inner[1] - offset[1]
        result = cv2.copyMakeBorder(
            result, offset[1], bottom, offset[0], right, cv2.BORDER_CONSTANT, value=(pad,) * 3
        )
    return LetterboxedImage(result, (inner[0] / w, inner[1] / h), offset, (w, h))
