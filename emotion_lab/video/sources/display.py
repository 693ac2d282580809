"""Display metadata of videos: pixel aspect ratio, rotation and mirroring."""

from __future__ import annotations

from dataclasses import dataclass

import av
import cv2
import numpy as np


@dataclass(frozen=True)
class DisplayTransform:
    """Converts stored pictures to those that a player shows.

    Attributes:
        transposed: Whether rows and columns are exchanged, before the picture is mirrored.
        mirror_x: Whether left and right are exchanged.
        mirror_y: Whether top and bottom are exchanged.
        aspect: Width of a stored pixel divided by its height.
    """

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False
    aspect: float = 1.0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return uint8 (H, W, C) upright, with square pixels; the shorter side is enlarged."""
        height, width = image.shape[:2]
        if self.aspect > 1:
            width = round(width * self.aspect)
        elif self.aspect < 1:
            height = round(height / self.aspect)
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        if self.transposed:
            image = cv2.transpose(image)
        if self.mirror_x or self.mirror_y:
            image = cv2.flip(image, -1 if self.mirror_x and self.mirror_y else int(self.mirror_x))
        return image


def _matrix(path: str) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d of the display matrix: x' = a x + c y, y' = b x + d y; None if absent."""
    try:
        with av.open(path) as container:
            side_data = next(container.decode(video=0)).side_data
            data = side_data.get("DISPLAYMATRIX")
    except (av.error.FFmpegError, OSError, ValueError, IndexError, StopIteration):
        return None  # OpenCV reports damaged files
    if data is None:
        return None
    values = np.frombuffer(bytes(data), np.int32)
    return int(values[0]), int(values[1]), int(values[3]), int(values[4])


def display_transform(capture: cv2.VideoCapture, path: str | None) -> DisplayTransform:
    """Return the transform of an open video, and switch off OpenCV's rotation if it includes it.

    Args:
        path: The video file; None for a network stream, which OpenCV rotates but does not mirror.
    """
    numerator, denominator = (
        capture.get(key) for key in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN)
    )
    aspect = numerator / denominator if numerator > 0 and denominator > 0 else 1.0
    if not 0.1 < aspect < 10:  # damaged metadata
        aspect = 1.0
    matrix = None if path is None else _matrix(path)
    if matrix is None:
        turned = capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180 == 90
        return DisplayTransform(aspect=1 / aspect if turned else aspect)
    # OpenCV takes a mirrored picture for one that is rotated by 180 degrees.
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    a, b, c, d = matrix
    transposed = abs(b) > abs(a)
    return DisplayTransform(
        transposed, (c if transposed else a) < 0, (b if transposed else d) < 0, aspect
    )
