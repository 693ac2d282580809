"""Detector for images that already are face crops: returns the whole image as one face."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.video.types import DETECTORS, Detections


@DETECTORS.register("full_frame")
class FullFrame:
    """Return one box, the whole image, with score 1; ``cfg`` is not used."""

    name = "full_frame"

    def __init__(self, cfg: dict[str, Any]) -> None:
        pass

    def __call__(self, image: np.ndarray) -> Detections:
        """Return uint8 (H, W, 3) as one face."""
        height, width = image.shape[:2]
        return Detections(np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32))
