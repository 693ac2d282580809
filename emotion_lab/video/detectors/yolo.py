"""YOLOv8, YOLO11 and later face detectors, exported to ONNX by ultralytics."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.nms import postprocess
from emotion_lab.video.detectors.onnx_net import OnnxNet
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections

WHAT = "a face model exported by ultralytics (yolo export format=onnx)"
BINS = 16  # DFL: a box side is a distribution over 0..15 strides (Li et al. 2020)
STRIDES = (8, 16, 32)


def join_heads(heads: list[np.ndarray], width: int, classes: int) -> np.ndarray:
    """Decode raw heads, one per stride, to the output format of an ordinary export.

    Args:
        heads: Each (1, 4 * 16 + classes + points * 3, h, w): distributions of the distances to
            left, top, right and bottom in strides, class logits, landmarks in half strides.
        width: Input width in pixels.

    Returns:
        (4 + classes + points * 3, sum of h * w): box as centre x, centre y, width, height in
        pixels, class probabilities, and x, y (pixels) and confidence of each landmark.
    """
    parts = []
    for head in heads:
        _, channels, h, w = head.shape
        stride = width / w
        values = head[0].reshape(channels, h * w)
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h))).reshape(2, -1)
        bins = values[: 4 * BINS].reshape(4, BINS, -1)
        weight = np.exp(bins - bins.max(axis=1, keepdims=True))
        sides = (weight * np.arange(BINS)[:, None]).sum(1) / weight.sum(1)
        first, last = grid + 0.5 - sides[:2], grid + 0.5 + sides[2:]
        probability = _sigmoid(values[4 * BINS : 4 * BINS + classes])
        points = values[4 * BINS + classes :].reshape(-1, 3, h * w).copy()
        points[:, :2] = (points[:, :2] * 2 + grid) * stride
        points[:, 2] = _sigmoid(points[:, 2])
        boxes = np.concatenate([(first + last) / 2, last - first]) * stride
        parts.append(np.concatenate([boxes, probability, points.reshape(-1, h * w)]))
    return np.concatenate(parts, axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


@DETECTORS.register("yolo")
class Yolo:
    """YOLO face detector from an ONNX file; ultralytics need not be installed.

    Supported outputs: (1, 4 + classes + landmarks, cells) and its transpose, (1, N, 6 +
    landmarks) of an export with built-in NMS, and raw heads. Five landmarks of two or three
    values each are returned; any other number of landmarks is ignored.
    """

    name = "yolo"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.net = OnnxNet(find_weights(cfg, WHAT), cfg["size"])
        names = self.net.literal("names")
        self._names: dict[int, str] = names if isinstance(names, dict) else {}
        self._keypoints = self.net.literal("kpt_shape")
        width, height = self.net.size or (self.net.longest_side, self.net.longest_side)
        outputs = self.net.probe()
        self._layout = self._recognise(outputs, width, height)
        channels = {
            "head": outputs[0].shape[1],
            "rows": outputs[0].shape[-1],
            "end": outputs[0].shape[-1] - 1,
            "raw": outputs[0].shape[1] - 4 * BINS + 4,
        }[self._layout]
        if self._layout == "end" and self._names:
            channels += len(self._names) - 1  # one column holds the class index
        self._num_classes, self._points = self._split_channels(channels)
        self._faces = self._face_classes()

    def _refuse(self, why: str) -> UserError:
        task = self.net.metadata.get("task")
        kind = f" (its task is {task})" if task else ""
        return UserError(f"{self.net.path}{kind}: {why}. detector=yolo needs {WHAT}.")

    def _recognise(self, outputs: list[np.ndarray], width: int, height: int) -> str:
        """Return the layout of the outputs: ``raw``, ``head``, ``rows`` or ``end``."""
        shapes = [output.shape for output in outputs]
        if len(shapes) == len(STRIDES) and all(
            len(s) == 4 and s[0] == 1 and s[1] == shapes[0][1] > 4 * BINS for s in shapes
        ):
            maps = [(height // stride, width // stride) for stride in STRIDES]
            if [s[2:] for s in shapes] == maps:
                return "raw"
        if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] == 1:
            _, first, last = shapes[0]
            # One prediction per cell of each stride; some models have a P2 or P6 map as well.
            cells = {s: (width // s) * (height // s) for s in (4, 8, 16, 32, 64)}
            total = cells[8] + cells[16] + cells[32]
            totals = {total, total + cells[4], total + cells[64]}
            if last in totals and first > 4:
                return "head"
            if first in totals and last > 4:
                return "rows"
            # YOLOv5 and v7, not supported, have three anchors per cell and an objectness score.
            if last >= 6 and first not in {3 * n for n in totals}:
                return "end"
        raise self._refuse(f"cannot read outputs of shapes {shapes}")

    def _split_channels(self, channels: int) -> tuple[int, tuple[int, int]]:
        """Return the number of classes and (number of landmarks, values per landmark)."""
        points = (0, 0)
        if self._names:
            classes = len(self._names)
            if isinstance(self._keypoints, (list, tuple)) and len(self._keypoints) == 2:
                points = (int(self._keypoints[0]), int(self._keypoints[1]))
        else:
            # Without metadata (always with OpenCV): one class, five landmarks or none.
            classes = 1
            points = {5: (0, 0), 15: (5, 2), 20: (5, 3)}.get(channels, (-1, 0))
        if channels != 4 + classes + points[0] * points[1]:
            raise self._refuse(
                f"{channels} values per face are not 4 of the box, {classes} classes and "
                f"{points[0] if points[0] > 0 else 5} landmarks"
            )
        return classes, points

    def _face_classes(self) -> list[int]:
        """Return the indices of the classes whose name contains "face"."""
        if self._num_classes == 1:
            return [0]
        faces = [i for i, name in enumerate(self._names.values()) if "face" in str(name).lower()]
        if not faces:
            shown = ", ".join(str(name) for name in list(self._names.values())[:5])
            raise self._refuse(f"none of its {self._num_classes} classes is a face ({shown}, ...)")
        return faces

    def _landmarks(self, values: np.ndarray) -> np.ndarray | None:
        count, dims = self._points
        if count != 5 or dims not in (2, 3):
            return None
        return values.reshape(-1, count, dims)[:, :, :2]

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        letterboxed = self.net.fit(image, pad=114, centre=True, enlarge=self.cfg["enlarge"])
        width = letterboxed.image.shape[1]
        blob = letterboxed.image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        outputs = self.net.run(blob)
        if self._layout == "end":
            rows = outputs[0][0]
            rows = rows[np.isin(rows[:, 5].astype(int), self._faces)]
            landmarks = self._landmarks(rows[:, 6:])
            return postprocess(
                letterboxed, rows[:, :4], rows[:, 4], landmarks, self.cfg, apply_nms=False
            )
        if self._layout == "raw":
            rows = join_heads(outputs, width, self._num_classes).T
        else:
            rows = outputs[0][0] if self._layout == "rows" else outputs[0][0].T
        scores = rows[:, 4 : 4 + self._num_classes][:, self._faces].max(axis=1)
        passed = scores >= self.cfg["score_threshold"]
        rows, scores = rows[passed], scores[passed]
        corners = np.concatenate(
            [rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1
        )
        landmarks = self._landmarks(rows[:, 4 + self._num_classes :])
        return postprocess(letterboxed, corners, scores, landmarks, self.cfg)
