"""Crops of detected faces, the input of a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

#: Largest side of a crop, in longer sides of the image: an invalid box must not allocate excessive
#: memory.
LARGEST = 4


def square(box: np.ndarray, margin: float, limit: float) -> tuple[int, int, int]:
    """Return left, top and side, in pixels, of the square around a box and its margin."""
    x, y, width, height = (float(value) for value in box)
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"a box holds no finite numbers: {box}")
    side = max(1, round(min(max(width, height, 1.0) * (1 + 2 * margin), limit)))
    # Positions far outside the image give the same crop; bounding them avoids int32 overflow.
    centre = [min(max(c, -limit), 2 * limit) for c in (x + width / 2, y + height / 2)]
    return round(centre[0] - side / 2), round(centre[1] - side / 2), side


def _tilt(landmarks: np.ndarray) -> float:
    """Return the angle of the line through the eyes in degrees, 0 if it is undefined."""
    dx, dy = (float(value) for value in landmarks[1] - landmarks[0])
    angle = math.degrees(math.atan2(dy, dx))
    return angle if math.isfinite(angle) else 0.0


def crop_faces(
    image: np.ndarray,
    boxes: np.ndarray,
    margin: float,
    landmarks: np.ndarray | Sequence[np.ndarray | None] | None = None,
    align: bool = False,
) -> list[np.ndarray]:
    """Crop a square around each box.

    The side of the square is the longer side of the box plus the margin. Pixels outside of the
    image repeat the nearest one inside.

    Args:
        image: uint8 (H, W, C).
        boxes: float (N, 4): x, y (top left), width, height in pixels; may exceed the image.
        margin: Fraction of the box added on every side.
        landmarks: (N, 5, 2), or for each face (5, 2) or None; first the eye on the left of the
            image, then the eye on the right.
        align: Rotate each face about the centre of its box so that the eyes are level.

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
        left, top, side = square(box, margin, LARGEST * max(height, width))
        face_landmarks = landmarks[index] if align and landmarks is not None else None
        inside = left >= 0 and top >= 0 and left + side <= width and top + side <= height
        if face_landmarks is None and inside:
            crops.append(image[top : top + side, left : left + side])
            continue
        angle = 0.0 if face_landmarks is None else _tilt(face_landmarks)
        transform = cv2.getRotationMatrix2D((left + side / 2, top + side / 2), angle, 1.0)
        transform[:, 2] -= (left, top)
        crop = cv2.warpAffine(image, transform, (side, side), borderMode=cv2.BORDER_REPLICATE)
        crops.append(crop.reshape(side, side, image.shape[2]))
    return crops
