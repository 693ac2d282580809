"""Hide faces in what is shown and saved; the data about them stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from emotion_lab.core.errors import unknown
from emotion_lab.video.types import FrameResult

MODES = ("none", "blur")
#: Cells along the longer side of a hidden face: far too few to tell who it is.
CELLS = 6
#: On every side, as a share of the box: detectors cut off hair, ears and chin.
MARGIN = 0.3
#: How long a place stays hidden after its face was last found.
HOLD_S = 1.0


def blur_faces(
    image: np.ndarray, boxes: Iterable[Sequence[float]], margin: float = MARGIN
) -> np.ndarray:
    """Return a copy with every box averaged to a few cells and smoothed.

    Averaging to ``CELLS`` cells throws the detail away for good; the Gaussian over them takes away
    what their edges still tell.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: x, y, width, height of each face, in pixels; may reach over the border.
        margin: Widens a box on every side, as a share of its size.

    Returns:
        uint8 (H, W, 3); pixels outside the widened boxes are untouched.
    """
    out = image.copy()
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        left, top = max(0, int(x - margin * w)), max(0, int(y - margin * h))
        right = min(width, int(np.ceil(x + (1 + margin) * w)))
        bottom = min(height, int(np.ceil(y + (1 + margin) * h)))
        if right <= left or bottom <= top:
            continue
        part = out[top:bottom, left:right]
        cell = max(1.0, max(part.shape[:2]) / CELLS)
        grid = (max(1, round((right - left) / cell)), max(1, round((bottom - top) / cell)))
        cells = cv2.resize(part, grid, interpolation=cv2.INTER_AREA)
        # Smoothing the few cells, not the pixels, costs nothing at any size of the face.
        cells = cv2.GaussianBlur(cells, (3, 3), 0.7, borderType=cv2.BORDER_REPLICATE)
        cells = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        out[top:bottom, left:right] = cells
    return out


class Anonymizer:
    """Hides the faces of a stream, and for a second the places where a face just was.

    A detector misses a face now and then; one clear frame would be enough to tell who it is.

    Args:
        mode: ``none`` or ``blur``.
        hold_s: How long a place stays hidden, in seconds of the source.

    Raises:
        UserError: For another mode.
    """

    def __init__(self, mode: str = "none", hold_s: float = HOLD_S) -> None:
        if mode not in MODES:
            raise unknown("anonymize", mode, MODES, "Set it with anonymize=<name>.")
        self.mode = mode
        self.hold_s = hold_s
        self._source = ""
        self._seen: dict[int, tuple[float, tuple[float, float, float, float]]] = {}

    def __call__(self, image: np.ndarray, result: FrameResult) -> np.ndarray:
        """Return a copy of uint8 (H, W, 3) RGB with the faces of ``result`` hidden."""
        if self.mode == "none":
            return image.copy()
        if result.source != self._source:  # the next photo of a folder
            self._source, self._seen = result.source, {}
        now = result.time_s
        boxes = [face.box for face in result.faces]
        present = {face.id for face in result.faces}
        self._seen = {
            key: (seen, box)
            for key, (seen, box) in self._seen.items()
            if key not in present and 0 <= now - seen <= self.hold_s
        }
        boxes += [box for _, box in self._seen.values()]
        self._seen.update({face.id: (now, face.box) for face in result.faces})
        return blur_faces(image, boxes)
