"""Hard cuts: the frame at which a film goes on somewhere else."""

from __future__ import annotations

import math

import cv2
import numpy as np

#: A frame is compared as this many grey points across and down, ...
_WIDTH, _HEIGHT = 32, 18
#: ... its inner part with the last frame at every shift of up to so many points.
_SHIFT = (4, 2)
#: Below this deviation, of 255 grey levels, there is nothing to compare: black, a flash, fog.
_PLAIN = 4.0
#: A cut differs this many times as much as frames usually do here, over so many seconds.
_TIMES, _USUAL_S = 3.0, 0.5


class SceneCutDetector:
    """Tells a cut from motion, light and noise; costs less than 0.1 ms a frame.

    How much two frames differ is 1 minus their correlation, at the best of a few shifts: exposure
    does not change a correlation, and a pan is a shift. Where everything moves all the time, a cut
    has to stand out from that. A plain frame is passed over: what follows a flash or a fade to
    black is compared with what was before it.

    Args:
        threshold: What a cut differs by at least, above 0 and up to 1; None finds no cuts.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = None if threshold is None else float(threshold)
        self._last: np.ndarray | None = None
        self._usual = 0.0
        self._time_s = 0.0

    def difference(self, inner: np.ndarray) -> float:
        """Return by how much the inner part of a thumbnail differs from the last one: 0 to 2."""
        if self._last is None:
            return 0.0
        return 1.0 - float(cv2.matchTemplate(self._last, inner, cv2.TM_CCOEFF_NORMED).max())

    def __call__(self, image: np.ndarray, time_s: float) -> bool:
        """Say whether the frame of ``time_s`` begins another scene.

        Args:
            image: uint8 (H, W, 3).
            time_s: Seconds.
        """
        if self.threshold is None:
            return False
        points = thumbnail(image)
        across, down = _SHIFT
        inner = points[down:-down, across:-across]
        if cv2.meanStdDev(inner)[1][0, 0] < _PLAIN:
            return False
        found = self.difference(inner)
        cut = found >= max(self.threshold, _TIMES * self._usual)
        share = -math.expm1(-max(0.0, time_s - self._time_s) / _USUAL_S)
        self._usual += share * (found - self._usual)
        self._last, self._time_s = points, time_s
        return cut


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return uint8 (18, 32), the green of an image: close to its grey, and already there.

    Of a large image every n-th pixel is looked at: its size makes no difference to the time.
    """
    rows, columns = (max(1, image.shape[i] // (4 * n)) for i, n in ((0, _HEIGHT), (1, _WIDTH)))
    few = np.ascontiguousarray(image[rows // 2 :: rows, columns // 2 :: columns, 1])
    return cv2.resize(few, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
