"""Haar cascades of OpenCV 4: no model file needed, upright frontal faces only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import native_path
from emotion_lab.video.detectors.nms import postprocess
from emotion_lab.video.detectors.resize import resize_longest_side
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections

CASCADE = "haarcascade_frontalface_default.xml"
#: Last-stage weight that maps to a score of 0.63; synthetic and real faces score 0.5 to 0.9.
SCALE = 5.0


@DETECTORS.register("haar")
class Haar:
    """Boosted cascade of Haar features (Viola and Jones 2001).

    A cascade has no probability output. The score is 1 - exp(-w / 5) of the last stage's weight
    w, suitable for ranking only.
    """

    name = "haar"

    def __init__(self, cfg: dict[str, Any]) -> None:
        if not hasattr(cv2, "CascadeClassifier"):
            raise UserError(
                f"OpenCV {cv2.__version__} has no Haar cascades. Set detector=yunet, or "
                "pip install 'opencv-python<5'."
            )
        self.cfg = cfg
        self.cascade = cv2.CascadeClassifier()
        path = self._path(cfg)
        try:
            with native_path(path) as name:
                loaded = self.cascade.load(name)
        except (cv2.error, SystemError):
            loaded = False
        if not loaded:
            raise UserError(f"{path} is not a Haar cascade. Set detector.file=<cascade>.xml.")

    @staticmethod
    def _path(cfg: dict[str, Any]) -> Path:
        bundled = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
        file = cfg["file"] or CASCADE
        # A bare file name selects a cascade that ships with OpenCV.
        if Path(file).name == str(file) and not Path(file).exists() and (bundled / file).is_file():
            cfg = {**cfg, "file": bundled / file}
        return find_weights(cfg, f"OpenCV's {CASCADE}")

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        resized = resize_longest_side(image, self.cfg["size"], self.cfg["enlarge"])
        grey = cv2.equalizeHist(cv2.cvtColor(resized.image, cv2.COLOR_RGB2GRAY))
        rects, _, weights = self.cascade.detectMultiScale3(
            grey,
            scaleFactor=self.cfg["scale_factor"],
            minNeighbors=self.cfg["min_neighbors"],
            minSize=(self.cfg["min_size"],) * 2,
            outputRejectLevels=True,
        )
        boxes = np.asarray(rects, np.float32).reshape(-1, 4)
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        scores = 1 - np.exp(-np.maximum(np.asarray(weights).reshape(-1), 0) / SCALE)
        return postprocess(resized, corners, scores, None, self.cfg)
