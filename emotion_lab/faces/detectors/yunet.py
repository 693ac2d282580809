"""YuNet: small, fast, with landmarks; the default."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from emotion_lab.errors import UserError
from emotion_lab.faces.base import DETECTORS, Detections
from emotion_lab.faces.detect import MAX_CANDIDATES, collect, find_file, shrink

URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)


@DETECTORS.register("yunet")
class YuNet:
    """YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector") through OpenCV.

    Args:
        cfg: ``conf/detector/yunet.yaml`` as a plain dict.

    Raises:
        UserError: If the model file is missing, has another hash or is none of YuNet's.
    """

    name = "yunet"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        path = find_file(cfg, "YuNet's face_detection_yunet_2023mar.onnx", URL)
        try:
            self.net = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), cfg["score"], cfg["nms"], MAX_CANDIDATES
            )
            self.net.detect(np.zeros((320, 320, 3), np.uint8))
        except cv2.error as error:
            raise UserError(
                f"{path} is no YuNet model that OpenCV {cv2.__version__} can read. "
                "Set detector.file=<face_detection_yunet_2023mar.onnx>."
            ) from error

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        # Padded here: in images 32 pixels high or wide OpenCV finds a face of score 1 that its
        # network never saw.
        fitted = shrink(image, self.cfg["size"], self.cfg["enlarge"], multiple=32, least=64)
        height, width = fitted.image.shape[:2]
        self.net.setInputSize((width, height))
        rows = self.net.detect(cv2.cvtColor(fitted.image, cv2.COLOR_RGB2BGR))[1]
        if rows is None:
            return Detections.none()
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        # OpenCV has suppressed the doubles already.
        return collect(fitted, corners, rows[:, 14], rows[:, 4:14], self.cfg, nms=False)
