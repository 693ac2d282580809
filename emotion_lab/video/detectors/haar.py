"""Haar cascades: what most seeds use; needs no file, finds upright frontal faces only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import collect, find_file, shrink
from emotion_lab.video.types import DETECTORS, Detections

CASCADE = "haarcascade_frontalface_default.xml"
#: A weight of the last stage that maps to a score of 0.63; the drawn and photographed faces
#: tried score 0.5 to 0.9.
SCALE = 5.0


@DETECTORS.register("haar")
class Haar:
    """A boosted cascade of Haar features (Viola and Jones 2001) from OpenCV 4.

    A cascade has no probability: the score is 1 - exp(-w / 5) of the last stage's weight w, good
    for ranking only.

    Args:
        cfg: ``conf/detector/haar.yaml`` as a plain dict.

    Raises:
        UserError: If OpenCV has no cascades (5 has none), or the file is missing or none.
    """

    name = "haar"

    def __init__(self, cfg: dict[str, Any]) -> None:
        if not hasattr(cv2, "CascadeClassifier"):
            raise UserError(
                f"OpenCV {cv2.__version__} has no Haar cascades. Set detector=yunet, or "
                "pip install 'opencv-python<5' 'opencv-python-headless<5'."
            )
        self.cfg = cfg
        self.cascade = cv2.CascadeClassifier()
        path = self._path(cfg)
        try:
            loaded = self.cascade.load(str(path))
        except (cv2.error, SystemError):
            loaded = False
        if not loaded:
            raise UserError(f"{path} is no Haar cascade. Set detector.file=<cascade>.xml.")

    @staticmethod
    def _path(cfg: dict[str, Any]) -> Path:
        folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
        file = cfg["file"] or CASCADE
        # A bare name means one of those that ship with OpenCV.
        if Path(file).name == str(file) and not Path(file).exists() and (folder / file).is_file():
            cfg = {**cfg, "file": folder / file}
        return find_file(cfg, f"OpenCV's {CASCADE}")

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        fitted = shrink(image, self.cfg["size"], self.cfg["enlarge"])
        grey = cv2.equalizeHist(cv2.cvtColor(fitted.image, cv2.COLOR_RGB2GRAY))
        rows, _, weights = self.cascade.detectMultiScale3(
            grey,
            scaleFactor=self.cfg["scale_factor"],
            minNeighbors=self.cfg["min_neighbors"],
            minSize=(self.cfg["min_size"],) * 2,
            outputRejectLevels=True,
        )
        if not len(rows):
            return Detections.none()
        rows = np.asarray(rows, np.float32).reshape(-1, 4)
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
        scores = 1 - np.exp(-np.maximum(np.asarray(weights).reshape(-1), 0) / SCALE)
        return collect(fitted, corners, scores, None, self.cfg)
