"""Crops of faces: squares with a margin, level eyes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emotion_lab.inference.face_crop import crop_faces


def padded(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """Crop from a copy with a border added by OpenCV."""
    border = 200
    wide = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
    return wide.reshape(*wide.shape[:2], -1)[top + border :, left + border :][:side, :side]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("box", "margin", "square"),
    [
        ((10, 12, 20, 20), 0.0, (10, 12, 20)),
        ((10, 12, 20, 20), 0.1, (8, 10, 24)),
        ((10, 20, 20, 10), 0.5, (0, 5, 40)),  # the longer side, same centre
        ((-10, -6, 20, 20), 0.25, (-15, -11, 30)),  # across the corner
        ((50, 30, 20, 20), 0.0, (50, 30, 20)),  # across the opposite corner
        ((-90, 10, 20, 20), 0.0, (-90, 10, 20)),  # outside
        ((5, 5, 1, 1), 0.0, (5, 5, 1)),
        ((5, 5, 0, 0), 0.0, (4, 4, 1)),
        ((0, 0, 60, 40), 0.5, (-30, -40, 120)),
    ],
)
def test_crops_are_squares_with_their_margin(
    channels: int, box: tuple[float, ...], margin: float, square: tuple[int, int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, channels), dtype=np.uint8)
    boxes = np.array([box, (3, 3, 5, 5)], np.float32)
    crop, other = crop_faces(image, boxes, margin)
    np.testing.assert_array_equal(crop, padded(image, *square))
    assert crop.shape == (square[2], square[2], channels) and other.size
    # Level eyes or missing landmarks: no rotation.
    level = np.zeros((5, 2), np.float32)
    level[1, 0] = 6
    (aligned,) = crop_faces(image, boxes[:1], margin, [level], align=True)
    np.testing.assert_array_equal(aligned, crop)
    np.testing.assert_array_equal(crop_faces(image, boxes, margin, [None, None], True)[0], crop)


@pytest.mark.parametrize("angle", [-60, -20, 7, 45])
def test_aligned_eyes_are_level(angle: float) -> None:
    """Two dots at a known angle end in one row, at the same distance, red on the left."""
    image = np.zeros((120, 160, 3), np.uint8)
    centre = np.array([90, 60])
    offset = 20 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    landmarks = np.zeros((1, 5, 2), np.float32)
    landmarks[0, :2] = centre - offset, centre + offset
    for eye, channel in zip(landmarks[0, :2], (0, 2), strict=True):
        rows, columns = np.mgrid[:120, :160]
        image[..., channel] = 255 * np.exp(-((columns - eye[0]) ** 2 + (rows - eye[1]) ** 2) / 8)
    box = np.array([[60, 30, 60, 60]], np.float32)

    def eyes(crop: np.ndarray) -> np.ndarray:
        moments = [cv2.moments(crop[..., channel]) for channel in (0, 2)]
        return np.array([(m["m10"] / m["m00"], m["m01"] / m["m00"]) for m in moments])

    (crop,) = crop_faces(image, box, 0.1, landmarks, align=True)
    assert crop.shape == (72, 72, 3)
    np.testing.assert_allclose(eyes(crop), [(16, 36), (56, 36)], atol=0.3)
    (unaligned,) = crop_faces(image, box, 0.1, landmarks)
    np.testing.assert_allclose(eyes(unaligned), landmarks[0, :2] - (54, 24), atol=0.3)
