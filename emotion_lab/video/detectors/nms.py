"""Non-maximum suppression and conversion of network outputs to detections."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from emotion_lab.video.detectors.resize import LetterboxedImage
from emotion_lab.video.types import Detections

#: Candidates kept before suppression, which takes quadratic time.
MAX_CANDIDATES = 5000


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return the indices kept by non-maximum suppression, highest score first.

    Args:
        boxes: (N, 4) x, y, width, height.
        scores: (N,).
        iou_threshold: A box whose IoU with a better one is above this is suppressed.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    # OpenCV drops scores of 0, which are valid here; adding 1 to all keeps their order.
    shifted = np.asarray(scores, np.float32) + 1
    boxes = np.asarray(boxes, np.float64)
    keep = cv2.dnn.NMSBoxes(boxes.tolist(), shifted.tolist(), 0.0, iou_threshold)
    return np.asarray(keep, np.int64).reshape(-1)


def postprocess(
    letterboxed: LetterboxedImage,
    corners: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray | None,
    cfg: dict[str, Any],
    apply_nms: bool = True,
) -> Detections:
    """Filter the candidates of a network and map them to source pixels.

    Candidates below ``cfg["score_threshold"]``, suppressed ones, boxes without an area and boxes
    with a centre outside of the image are removed. Boxes are not clipped at the border: clipping
    changes the aspect ratio, which distorts the face when it is resized for the classifier.

    Args:
        corners: (N, 4) left, top, right, bottom in letterboxed pixels.
        scores: (N,) 0..1.
        landmarks: (N, 5, 2) in letterboxed pixels, or None.
        cfg: The detector's config; uses ``score_threshold``, ``nms_threshold``, ``max_faces``.
        apply_nms: False if the network's output is already suppressed.

    Returns:
        At most ``max_faces`` faces in source pixels, highest score first.
    """
    corners = letterboxed.to_source(np.asarray(corners).reshape(-1, 2, 2)).reshape(-1, 4)
    scores = np.asarray(scores, np.float32).reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        size = corners[:, 2:] - corners[:, :2]
        centre = corners[:, :2] + size / 2
        valid = (scores >= cfg["score_threshold"]) & (size > 0).all(1) & np.isfinite(corners).all(1)
        valid &= ((centre >= 0) & (centre <= letterboxed.source_size)).all(1)
    index = np.flatnonzero(valid)
    index = index[np.argsort(-scores[index], kind="stable")][:MAX_CANDIDATES]
    boxes = np.concatenate([corners[index, :2], size[index]], axis=1)
    if apply_nms:
        keep = nms(boxes, scores[index], cfg["nms_threshold"])
        index, boxes = index[keep], boxes[keep]
    index, boxes = index[: cfg["max_faces"]], boxes[: cfg["max_faces"]]
    if landmarks is not None:
        landmarks = letterboxed.to_source(np.asarray(landmarks).reshape(-1, 5, 2)[index])
    return Detections(boxes, np.clip(scores[index], 0, 1), landmarks)
