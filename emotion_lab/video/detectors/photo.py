"""Detection in photos, whose faces are of any size: a second search at a larger size."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.video.boxes import intersections
from emotion_lab.video.types import DETECTORS, Detections, Detector

#: Two detections that share more than this part of the smaller one are the same face.
_SAME_FACE = 0.6


def _share(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersections (N, M) of boxes (N, 4) and (M, 4), relative to the smaller box."""
    areas = np.minimum(boxes[:, None, 2:].prod(-1), others[None, :, 2:].prod(-1))
    return intersections(boxes, others) / areas.clip(1e-9)


def merge(first: Detections, second: Detections, max_faces: int) -> Detections:
    """Join two searches of one image; of a face that both found, keep the higher score."""
    same = _share(first.boxes, second.boxes) > _SAME_FACE
    better = first.scores[:, None] >= second.scores[None]
    keep = [~(same & ~better).any(1), ~(same & better).any(0)]
    parts = [first, second]

    def join(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([array[kept] for array, kept in zip(arrays, keep, strict=True)])

    scores = join([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")[:max_faces]
    landmarks = [part.landmarks for part in parts if part.landmarks is not None]
    return Detections(
        join([part.boxes for part in parts])[order],
        scores[order],
        join(landmarks)[order] if len(landmarks) == 2 else None,
    )


class PhotoDetector:
    """Searches at the size of a detector, and photos larger than that also at ``photo_size``.

    The first search finds large faces, the second one small faces: 80 pixels in a photo of 3840
    are 7 pixels at ``size=320``.

    Args:
        detector: Its ``cfg`` holds ``size`` and ``photo_size``; without ``photo_size`` there is no
            second search.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector, self.name = detector, detector.name
        self.cfg: dict[str, Any] = getattr(detector, "cfg", {})
        self._large: Detector | None = None  # built when the first large photo comes

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        found = self.detector(image)
        size, photo_size = self.cfg.get("size"), self.cfg.get("photo_size")
        if not size or not photo_size or photo_size <= size or max(image.shape[:2]) <= size:
            return found
        if self._large is None:
            cfg = {**self.cfg, "size": photo_size, "enlarge": False}
            self._large = DETECTORS.build(cfg["name"], cfg)
        return merge(found, self._large(image), self.cfg["max_faces"])
