"""Face detectors that ultralytics exported to ONNX: YOLOv8, v11 and their kin."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import collect, find_file
from emotion_lab.video.detectors.onnx_net import OnnxNet
from emotion_lab.video.types import DETECTORS, Detections

WHAT = "a face model exported by ultralytics (yolo export format=onnx)"
BINS = 16  # a side's distance is a distribution over 0..15 strides (Li et al. 2020)
STRIDES = (8, 16, 32)


def join_heads(heads: list[np.ndarray], width: int, classes: int) -> np.ndarray:
    """Decode raw heads, one a stride, to what an ordinary export gives.

    Args:
        heads: Each (1, 4 * 16 + classes + points * 3, h, w): distributions of the distances to
            left, top, right and bottom in strides, class logits, landmarks in half strides.
        width: Of the network's input, in pixels.
        classes: Number of classes.

    Returns:
        (4 + classes + points * 3, sum of h * w): centre x and y, width and height in pixels,
        class probabilities, and x, y in pixels and probability of each landmark.
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
    """A YOLO face detector through ONNX; ultralytics itself is not needed.

    Understood are (1, 4 + classes + landmarks, places) and its transposition, (1, N, 6 +
    landmarks) of an export with suppression inside, and raw heads. Five landmarks, with or
    without a third value each, are handed on; any other number is left out.

    Args:
        cfg: ``conf/detector/yolo.yaml`` as a plain dict.

    Raises:
        UserError: If the file is missing, has another layout, or no class is a face.
    """

    name = "yolo"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.net = OnnxNet(find_file(cfg, WHAT), cfg["size"])
        self._names = self.net.literal("names")
        self._keypoints = self.net.literal("kpt_shape")
        width, height = self.net.size or (self.net.longest, self.net.longest)
        outputs = self.net.probe()
        self._layout = self._recognise(outputs, width, height)
        channels = {
            "head": outputs[0].shape[1],
            "rows": outputs[0].shape[-1],
            "end": outputs[0].shape[-1] - 1,
            "raw": outputs[0].shape[1] - 4 * BINS + 4,
        }[self._layout]
        if self._layout == "end" and isinstance(self._names, dict):
            channels += len(self._names) - 1  # one column holds the class there
        self._classes, self._points = self._contents(channels)
        self._faces = self._face_classes()

    def _refuse(self, why: str) -> UserError:
        task = self.net.metadata.get("task")
        kind = f" (its task is {task})" if task else ""
        return UserError(f"{self.net.path}{kind}: {why}. detector=yolo needs {WHAT}.")

    def _recognise(self, outputs: list[np.ndarray], width: int, height: int) -> str:
        shapes = [output.shape for output in outputs]
        if len(shapes) == len(STRIDES) and all(
            len(s) == 4 and s[0] == 1 and s[1] == shapes[0][1] > 4 * BINS for s in shapes
        ):
            maps = [(height // stride, width // stride) for stride in STRIDES]
            if [s[2:] for s in shapes] == maps:
                return "raw"
        if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] == 1:
            _, first, last = shapes[0]
            # One place a cell of each stride; some models have a finer or a coarser map as well.
            cells = {s: (width // s) * (height // s) for s in (4, 8, 16, 32, 64)}
            three = cells[8] + cells[16] + cells[32]
            places = {three, three + cells[4], three + cells[64]}
            if last in places and first > 4:
                return "head"
            if first in places and last > 4:
                return "rows"
            # YOLOv5 and v7 have three anchors a cell, and an objectness between box and classes.
            if last >= 6 and first not in {3 * place for place in places}:
                return "end"
        raise self._refuse(f"cannot read outputs of shapes {shapes}")

    def _contents(self, channels: int) -> tuple[int, tuple[int, int]]:
        """Return the number of classes and (landmarks, values of each) among the channels."""
        points = (0, 0)
        if isinstance(self._names, dict) and self._names:
            classes = len(self._names)
            if isinstance(self._keypoints, (list, tuple)) and len(self._keypoints) == 2:
                points = (int(self._keypoints[0]), int(self._keypoints[1]))
        else:
            # No word of the exporter (always so with OpenCV): one class, five landmarks or none.
            classes = 1
            points = {5: (0, 0), 15: (5, 2), 20: (5, 3)}.get(channels, (-1, 0))
        if channels != 4 + classes + points[0] * points[1]:
            raise self._refuse(
                f"{channels} values a face do not add up to 4 for the box, {classes} classes and "
                f"{points[0] if points[0] > 0 else 5} landmarks"
            )
        return classes, points

    def _face_classes(self) -> list[int]:
        if self._classes == 1:
            return [0]
        faces = [i for i, name in enumerate(self._names.values()) if "face" in str(name).lower()]
        if not faces:
            shown = ", ".join(str(name) for name in list(self._names.values())[:5])
            raise self._refuse(f"none of its {self._classes} classes is a face ({shown}, ...)")
        return faces

    def _landmarks(self, values: np.ndarray) -> np.ndarray | None:
        count, each = self._points
        if count != 5 or each not in (2, 3):
            return None
        return values.reshape(-1, count, each)[:, :, :2]

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        fitted = self.net.fit(image, pad=114, centre=True, enlarge=self.cfg["enlarge"])
        width = fitted.image.shape[1]
        blob = fitted.image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        outputs = self.net.run(blob)
        if self._layout == "end":
            rows = outputs[0][0]
            rows = rows[np.isin(rows[:, 5].astype(int), self._faces)]
            landmarks = self._landmarks(rows[:, 6:])
            return collect(fitted, rows[:, :4], rows[:, 4], landmarks, self.cfg, nms=False)
        if self._layout == "raw":
            rows = join_heads(outputs, width, self._classes).T
        else:
            rows = outputs[0][0] if self._layout == "rows" else outputs[0][0].T
        scores = rows[:, 4 : 4 + self._classes][:, self._faces].max(axis=1)
        rows, scores = rows[scores >= self.cfg["score_threshold"]], scores[scores >= self.cfg["score_threshold"]]
        corners = np.concatenate(
            [rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], axis=1
        )
        landmarks = self._landmarks(rows[:, 4 + self._classes :])
        return collect(fitted, corners, scores, landmarks, self.cfg)
