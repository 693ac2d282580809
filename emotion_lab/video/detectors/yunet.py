"""YuNet through OpenCV or OpenVINO: small, fast, with landmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import native_path
from emotion_lab.video.detectors.nms import MAX_CANDIDATES, postprocess
from emotion_lab.video.detectors.resize import resize_longest_side
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections

URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)
WHAT = "YuNet's face_detection_yunet_2023mar.onnx"
STRIDES = (8, 16, 32)
_SCORES = ("cls", "obj")
#: An input size that has come so many times gets a network of its own, which is faster.
_REPEATS = 8
#: Number of such networks.
_MAX_NETWORKS = 4

#: Corners (N, 4), scores (N,) and landmarks (N, 10), in input pixels.
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]


def decode(maps: dict[str, np.ndarray], width: int, score_threshold: float) -> Candidates:
    """Decode the output maps of the network.

    Each cell of a map predicts one face: the offset of its centre from the cell, the logarithm of
    its width and height, and the offsets of the landmarks, all in strides. The score is the
    geometric mean of class and objectness, as in OpenCV's FaceDetectorYN.

    Args:
        maps: ``cls_8``, ``obj_8``, ``bbox_8``, ``kps_8`` and those of 16 and 32, each
            (1, cells, 1 | 1 | 4 | 10).
        width: Input width in pixels.
        score_threshold: Faces with a lower score are removed.
    """
    corners, points = [], []
    cls, obj = (np.concatenate([maps[f"{name}_{n}"][0, :, 0] for n in STRIDES]) for name in _SCORES)
    score = np.sqrt(cls.clip(0, 1) * obj.clip(0, 1))
    found = np.flatnonzero(score >= score_threshold)
    first = 0
    for stride in STRIDES:
        bbox, kps = maps[f"bbox_{stride}"][0], maps[f"kps_{stride}"][0]
        index = found[(found >= first) & (found < first + len(bbox))] - first
        first += len(bbox)
        if not len(index):
            continue
        cell = np.stack([index % (width // stride), index // (width // stride)], axis=1)
        centre = (cell + bbox[index, :2]) * stride
        half = np.exp(bbox[index, 2:]) * (stride / 2)
        corners.append(np.concatenate([centre - half, centre + half], axis=1))
        points.append(((kps[index].reshape(-1, 5, 2) + cell[:, None]) * stride).reshape(-1, 10))
    if not corners:
        return np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros((0, 10))
    return np.concatenate(corners), score[found], np.concatenate(points)


def _with_opencv(path: Path, cfg: dict[str, Any]) -> Callable[[np.ndarray], Candidates]:
    with native_path(path) as name:
        net = cv2.FaceDetectorYN.create(
            name, "", (320, 320), cfg["score_threshold"], cfg["nms_threshold"], MAX_CANDIDATES
        )

    def run(image: np.ndarray) -> Candidates:
        net.setInputSize((image.shape[1], image.shape[0]))
        rows = net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        rows = np.zeros((0, 15), np.float32) if rows is None else rows
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return corners, rows[:, 14], rows[:, 4:14]

    return run


class _OpenVino:
    """Runs the network with OpenVINO, in float32: bfloat16 is hardly faster for one this small.

    The size of the input is dynamic. Frames of a video all have one size, and photos a few: for
    these, networks of their sizes are compiled, which give the same results.
    """

    def __init__(self, path: Path, cfg: dict[str, Any]) -> None:
        from emotion_lab.inference.openvino_core import import_openvino

        import_openvino()
        self._path, self._threshold = path, cfg["score_threshold"]
        self._dynamic = self._compile(-1, -1)
        self._fixed: dict[tuple[int, int], Any] = {}
        self._counts: Counter[tuple[int, int]] = Counter()

    def _compile(self, height: int, width: int) -> Any:
        """Return the request of a network for uint8 RGB (1, height, width, 3)."""
        import openvino as ov
        from openvino.preprocess import ColorFormat, PrePostProcessor

        from emotion_lab.inference.openvino_core import compiled, core

        model = core().read_model(self._path)
        self._names = [output.get_any_name() for output in model.outputs]
        model.reshape([1, 3, height, width])
        steps = PrePostProcessor(model)
        tensor = steps.input().tensor()
        tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        tensor.set_color_format(ColorFormat.RGB)
        steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.BGR)
        steps.input().model().set_layout(ov.Layout("NCHW"))
        return compiled(steps.build(), "fp32")

    def _request(self, size: tuple[int, int]) -> Any:
        if size not in self._fixed and len(self._fixed) < _MAX_NETWORKS:
            self._counts[size] += 1
            if self._counts[size] > _REPEATS:
                self._fixed[size] = self._compile(*size)
        return self._fixed.get(size, self._dynamic)

    def __call__(self, image: np.ndarray) -> Candidates:
        """Return the candidates of uint8 (H, W, 3) RGB."""
        from emotion_lab.inference.openvino_core import infer

        request = self._request((image.shape[0], image.shape[1]))
        maps = dict(zip(self._names, infer(request, image[None]), strict=True))
        return decode(maps, image.shape[1], self._threshold)


BACKENDS: dict[str, Callable[[Path, dict[str, Any]], Callable[[np.ndarray], Candidates]]] = {
    "opencv": _with_opencv,
    "openvino": _OpenVino,
}


@DETECTORS.register("yunet")
class YuNet:
    """YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector").

    OpenVINO is about twice as fast as OpenCV, with the same boxes.
    """

    name = "yunet"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        path = find_weights(cfg, WHAT, URL)
        self.backend = cfg["backend"]
        if self.backend != "opencv":
            self.backend = self._resolve(self.backend)
        try:
            self._run = BACKENDS[self.backend](path, cfg)
            self._run(np.zeros((320, 320, 3), np.uint8))
        except (cv2.error, RuntimeError, KeyError) as error:
            raise UserError(
                f"{path} is not a YuNet model that {self.backend} can read. "
                "Set detector.file=<face_detection_yunet_2023mar.onnx>."
            ) from error

    @staticmethod
    def _resolve(backend: str) -> str:
        """Return ``openvino``, or ``opencv`` for ``auto`` if OpenVINO is not installed."""
        try:
            from emotion_lab.inference.openvino_core import import_openvino

            import_openvino()
        except ImportError as error:
            if backend == "auto":
                return "opencv"
            raise UserError(
                "detector.backend=openvino: the package openvino is not installed. "
                "pip install openvino, or set detector.backend=opencv."
            ) from error
        return "openvino"

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        # At least 64 pixels: OpenCV returns a false face of score 1 for a side of 32.
        resized = resize_longest_side(
            image, self.cfg["size"], self.cfg["enlarge"], multiple=32, min_side=64
        )
        corners, scores, landmarks = self._run(resized.image)
        # FaceDetectorYN applies NMS itself.
        apply_nms = self.backend != "opencv"
        return postprocess(resized, corners, scores, landmarks, self.cfg, apply_nms)
