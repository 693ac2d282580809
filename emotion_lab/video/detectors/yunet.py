"""YuNet: small, fast, with landmarks; the default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import MAX_CANDIDATES, collect, find_file, shrink
from emotion_lab.video.types import DETECTORS, Detections

URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
STRIDES = (8, 16, 32)

#: Corners (N, 4), scores (N,) and landmarks (N, 10) of uint8 (H, W, 3) RGB, sides multiples of 32.
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def decode(maps: dict[str, np.ndarray], width: int, height: int, score: float) -> Found:
    """Turn the network's maps into faces.

    Each place of a map predicts one face: the shift of its centre from the place and the logarithm
    of its sides, in units of the stride, and landmarks as shifts from the place. A score is the
    geometric mean of class and objectness, as in OpenCV's FaceDetectorYN.

    Args:
        maps: ``cls_8``, ``obj_8``, ``bbox_8``, ``kps_8`` and those of 16 and 32, each
            (1, places, 1 | 1 | 4 | 10).
        width: Of the network's input.
        height: Of the network's input.
        score: Fainter faces are left out.
    """
    corners, scores, points = [], [], []
    for stride in STRIDES:
        found = (maps[f"{name}_{stride}"][0] for name in ("cls", "obj", "bbox", "kps"))
        sure, there, box, marks = found
        strength = np.sqrt(sure.clip(0, 1) * there.clip(0, 1))[:, 0]
        index = np.flatnonzero(strength >= score)
        place = np.stack([index % (width // stride), index // (width // stride)], axis=1)
        centre = (place + box[index, :2]) * stride
        half = np.exp(box[index, 2:]) * (stride / 2)
        corners.append(np.concatenate([centre - half, centre + half], axis=1))
        scores.append(strength[index])
        points.append(((marks[index].reshape(-1, 5, 2) + place[:, None]) * stride).reshape(-1, 10))
    return np.concatenate(corners), np.concatenate(scores), np.concatenate(points)


def _with_opencv(path: Path, cfg: dict[str, Any]) -> Callable[[np.ndarray], Found]:
    net = cv2.FaceDetectorYN.create(
        str(path), "", (320, 320), cfg["score_threshold"], cfg["nms_threshold"], MAX_CANDIDATES
    )

    def run(image: np.ndarray) -> Found:
        net.setInputSize((image.shape[1], image.shape[0]))
        rows = net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return corners, rows[:, 14], rows[:, 4:14]

    return run


def _with_openvino(path: Path, cfg: dict[str, Any]) -> Callable[[np.ndarray], Found]:
    from emotion_lab.inference.openvino_core import compiled, core, import_openvino

    ov = import_openvino()
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = core().read_model(path)
    names = [output.get_any_name() for output in model.outputs]
    model.reshape([1, 3, -1, -1])
    steps = PrePostProcessor(model)
    tensor = steps.input().tensor()
    tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    tensor.set_color_format(ColorFormat.RGB)
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout("NCHW"))
    # float32 always: for a network this small bfloat16 was hardly faster.
    request = compiled(steps.build(), "fp32")

    def run(image: np.ndarray) -> Found:
        outputs = request.infer([image[None]], share_inputs=True, share_outputs=True)
        maps = dict(zip(names, outputs.values(), strict=True))
        return decode(maps, image.shape[1], image.shape[0], cfg["score_threshold"])

    return run


RUNTIMES = {"opencv": _with_opencv, "openvino": _with_openvino}


@DETECTORS.register("yunet")
class YuNet:
    """YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector").

    By itself it is about twice as fast through OpenVINO as through OpenCV, with the same boxes.

    Args:
        cfg: ``conf/detector/yunet.yaml`` as a plain dict.

    Attributes:
        runtime: ``opencv`` or ``openvino``, what it runs with.

    Raises:
        UserError: If the model file is missing, has another hash or is none of YuNet's, or the
            runtime asked for is not installed.
    """

    name = "yunet"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        path = find_file(cfg, "YuNet's face_detection_yunet_2023mar.onnx", URL)
        self.runtime = cfg["backend"]
        if self.runtime != "opencv":
            self.runtime = self._installed(self.runtime)
        try:
            self._run = RUNTIMES[self.runtime](path, cfg)
            self._run(np.zeros((320, 320, 3), np.uint8))
        except (cv2.error, RuntimeError, KeyError) as error:
            raise UserError(
                f"{path} is no YuNet model that {self.runtime} can read. "
                "Set detector.file=<face_detection_yunet_2023mar.onnx>."
            ) from error

    @staticmethod
    def _installed(wanted: str) -> str:
        try:
            from emotion_lab.inference.openvino_core import import_openvino

            import_openvino()
        except ImportError as error:
            if wanted == "auto":
                return "opencv"
            raise UserError(
                "detector.backend=openvino: the package openvino is not installed. "
                "pip install openvino, or set detector.backend=opencv."
            ) from error
        return "openvino"

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        # Padded here: in images 32 pixels high or wide OpenCV finds a face of score 1 that its
        # network never saw.
        fitted = shrink(image, self.cfg["size"], self.cfg["enlarge"], multiple=32, least=64)
        corners, scores, landmarks = self._run(fitted.image)
        # OpenCV has suppressed the doubles already.
        doubles = self.runtime != "opencv"
        return collect(fitted, corners, scores, landmarks, self.cfg, nms=doubles)
