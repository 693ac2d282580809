"""Hides faces in shown and saved images; the logged data is unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from emotion_lab.video.types import FrameResult

#: Cells along the longer side of a hidden face: too few to recognize a person.
CELLS = 6
#: Added on every side, as a fraction of the box: detectors cut off hair, ears and chin.
MARGIN = 0.3
#: How long a face stays hidden after its last detection, seconds.
HOLD_S = 1.0


def blur_faces(
    image: np.ndarray, boxes: Iterable[Sequence[float]], margin: float = MARGIN
) -> np.ndarray:
    """Return a copy in which every box is averaged to a few cells and smoothed.

    Averaging to ``CELLS`` cells removes the detail irreversibly; the Gaussian filter removes the
    edges between cells.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: x, y, width, height of each face, in pixels; may extend beyond the image.
        margin: Enlarges a box on every side, as a fraction of its size.
    """
    out = image.copy()
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        left, top = max(0, int(x - margin * w)), max(0, int(y - margin * h))
        right = min(width, int(np.ceil(x + (1 + margin) * w)))
        bottom = min(height, int(np.ceil(y + (1 + margin) * h)))
        if right <= left or bottom <= top:
            continue
        region = out[top:bottom, left:right]
        cell = max(1.0, max(region.shape[:2]) / CELLS)
        grid = (max(1, round((right - left) / cell)), max(1, round((bottom - top) / cell)))
        cells = cv2.resize(region, grid, interpolation=cv2.INTER_AREA)
        # The cost of filtering the cells instead of the pixels does not depend on the face size.
        cells = cv2.GaussianBlur(cells, (3, 3), 0.7, borderType=cv2.BORDER_REPLICATE)
        cells = cv2.resize(cells, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        out[top:bottom, left:right] = cells
    return out


class Anonymizer:
    """Hides the faces of a stream.

    The last box of a face stays hidden for ``hold_s`` seconds of the source after its last
    detection: detectors miss faces now and then, and one clear frame is enough to recognize a
    person.
    """

    def __init__(self, mode: str = "none", hold_s: float = HOLD_S) -> None:
        self.mode = mode
        self.hold_s = hold_s
        self._source = ""
        # Track id -> time and box of the last detection.
        self._last_boxes: dict[int, tuple[float, tuple[float, float, float, float]]] = {}

    def __call__(self, image: np.ndarray, result: FrameResult) -> np.ndarray:
        """Return a copy of uint8 (H, W, 3) RGB with the faces of ``result`` hidden."""
        if self.mode == "none":
            return image.copy()
        if result.source != self._source:  # the next photo of a folder
            self._source, self._last_boxes = result.source, {}
        now = result.time_s
        self._last_boxes.update({face.id: (now, face.box) for face in result.faces})
        self._last_boxes = {
            track_id: (last_s, box)
            for track_id, (last_s, box) in self._last_boxes.items()
            if 0 <= now - last_s <= self.hold_s
        }
        return blur_faces(image, [box for _, box in self._last_boxes.values()])
