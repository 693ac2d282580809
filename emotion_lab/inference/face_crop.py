"""From boxes around faces to the crops that a classifier is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

#: A crop is at most this many times the longer side of its image: a mad box costs no memory.
LARGEST = 4


def _square(box: np.ndarray, margin: float, limit: float) -> tuple[int, int, int]:
    """Return left, top and side, in whole pixels, of the square around a box and its margin."""
    x, y, width, height = (float(value) for value in box)
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"a box holds no finite numbers: {box}")
    side = max(1, round(min(max(width, height, 1.0) * (1 + 2 * margin), limit)))
    # A face far outside is all edge wherever it is, and its numbers must fit an int32.
    centre = [min(max(c, -limit), 2 * limit) for c in (x + width / 2, y + height / 2)]
    return round(centre[0] - side / 2), round(centre[1] - side / 2), side


def _tilt(landmarks: np.ndarray) -> float:
    """Return by how many degrees the eyes are off the level, 0 if they cannot tell."""
    dx, dy = (float(value) for value in landmarks[1] - landmarks[0])
    angle = math.degrees(math.atan2(dy, dx))
    return angle if math.isfinite(angle) else 0.0


def _over_border(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """Return the square, each pixel outside of the image the nearest one within."""
    height, width = image.shape[:2]
    x0, x1 = max(left, 0), min(left + side, width)
    y0, y1 = max(top, 0), min(top + side, height)
    if x0 < x1 and y0 < y1:
        edges = (y0 - top, top + side - y1, x0 - left, left + side - x1)
        part = image[y0:y1, x0:x1]
        crop = cv2.copyMakeBorder(part, *edges, cv2.BORDER_REPLICATE)
        return crop.reshape(side, side, image.shape[2])
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    return image[rows[:, None], columns]


def crop_faces(
    image: np.ndarray,
    boxes: np.ndarray,
    margin: float,
    landmarks: np.ndarray | Sequence[np.ndarray | None] | None = None,
    align: bool = False,
) -> list[np.ndarray]:
    """Cut a square out of an image around each box.

    The square's side is the box's longer one plus the margin. What lies over the border repeats
    the nearest pixel of the image.

    Args:
        image: uint8 (H, W, C).
        boxes: float (N, 4): x, y (top left), width, height in pixels; may reach over the border.
        margin: Share of the box added on every side.
        landmarks: (N, 5, 2), or for each face (5, 2) or None; the eye on the left of the image
            first, then the eye on the right.
        align: Turn each face about the middle of its box so that the eyes are level.

    Returns:
        N crops, uint8 (side, side, C), never empty; they may be views into ``image``.

    Raises:
        ValueError: If the image is empty or a box holds no finite numbers.
    """
    if image.ndim != 3 or not image.size:
        raise ValueError(f"expected an image (H, W, C), got {image.shape}")
    height, width = image.shape[:2]
    crops = []
    for index, box in enumerate(boxes):
        left, top, side = _square(box, margin, LARGEST * max(height, width))
        marks = landmarks[index] if align and landmarks is not None else None
        if marks is not None:
            middle = (left + side / 2, top + side / 2)
            turn = cv2.getRotationMatrix2D(middle, _tilt(marks), 1.0)
            turn[:, 2] -= (left, top)
            crop = cv2.warpAffine(
                image, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            crops.append(crop.reshape(side, side, image.shape[2]))
        elif left >= 0 and top >= 0 and left + side <= width and top + side <= height:
            crops.append(image[top : top + side, left : left + side])
        else:
            crops.append(_over_border(image, left, top, side))
    return crops
