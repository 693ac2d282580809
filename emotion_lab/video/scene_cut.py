"""Detection of hard cuts between scenes."""

from __future__ import annotations

import math

import cv2
import numpy as np

#: Size of the thumbnails that are compared, in pixels.
_WIDTH, _HEIGHT = 32, 18
#: The inner part of a thumbnail is compared with the last one at shifts of up to so many pixels.
_SHIFT = (4, 2)
#: Frames with a smaller standard deviation of the grey levels are ignored: black, a flash, fog.
_MIN_STD = 4.0
#: A cut differs at least this many times as much as the running average, with a time constant in s.
_MIN_RATIO, _TIME_CONSTANT_S = 3.0, 0.5


class SceneCutDetector:
    """Distinguishes cuts from motion, exposure changes and noise, in less than 0.1 ms per frame.

    The difference of two frames is 1 minus their correlation at the best of a few shifts, which
    is invariant to exposure and small pans. A cut must also exceed the running average of the
    differences. Uniform frames are ignored: the frame after a flash or a fade to black is compared
    with the frame before it.

    Args:
        threshold: Minimum difference of a cut, above 0 and up to 1; None disables the detector.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = None if threshold is None else float(threshold)
        self._last: np.ndarray | None = None
        self._average = 0.0
        self._time_s = 0.0

    def difference(self, inner: np.ndarray) -> float:
        """Return the difference, 0 to 2, between the inner part of a thumbnail and the last one."""
        if self._last is None:
            return 0.0
        return 1.0 - float(cv2.matchTemplate(self._last, inner, cv2.TM_CCOEFF_NORMED).max())

    def __call__(self, image: np.ndarray, time_s: float) -> bool:
        """Return whether uint8 (H, W, 3) at ``time_s`` seconds is the first of a new scene."""
        if self.threshold is None:
            return False
        pixels = thumbnail(image)
        dx, dy = _SHIFT
        inner = pixels[dy:-dy, dx:-dx]
        if cv2.meanStdDev(inner)[1][0, 0] < _MIN_STD:
            return False
        difference = self.difference(inner)
        is_cut = difference >= max(self.threshold, _MIN_RATIO * self._average)
        weight = -math.expm1(-max(0.0, time_s - self._time_s) / _TIME_CONSTANT_S)
        self._average += weight * (difference - self._average)
        self._last, self._time_s = pixels, time_s
        return is_cut


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return uint8 (18, 32) of the green channel, which is close to the grey level.

    Every n-th pixel is used, so that the time does not depend on the image size.
    """
    rows, columns = (max(1, image.shape[i] // (4 * n)) for i, n in ((0, _HEIGHT), (1, _WIDTH)))
    sampled = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns, 1])
    return cv2.resize(sampled, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
