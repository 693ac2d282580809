"""RetinaFace and SCRFD networks exported to ONNX by insightface."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.nms import postprocess
from emotion_lab.video.detectors.onnx_net import OnnxNet
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections

STRIDES = (8, 16, 32)
WHAT = "an SCRFD or RetinaFace .onnx file as insightface exports it (det_10g.onnx, det_500m.onnx)"
#: Channels of the maps: score, distances to the four sides, five landmarks.
WIDTHS = (1, 4, 10)


def decode(
    maps: list[np.ndarray], width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Decode the output maps of one image.

    Each cell of a map has one or two anchors at its corner (column * stride, row * stride). Their
    outputs are the distances to left, top, right and bottom and the landmark offsets, in strides
    (Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection").

    Args:
        maps: Scores of the three strides, then distances, then landmarks (optional);
            each (cells * anchors, 1 | 4 | 10).

    Returns:
        (N, 4) left, top, right, bottom in input pixels, (N,) scores, (N, 5, 2) landmarks or None.
    """
    corners, scores, points = [], [], []
    for level, stride in enumerate(STRIDES):
        columns, rows = width // stride, height // stride
        score, sides = maps[level], maps[level + 3]
        anchors = len(score) // (columns * rows)
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
        centre = np.repeat(grid.reshape(-1, 2), anchors, axis=0).astype(np.float32) * stride
        sides = sides * stride
        corners.append(np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1))
        scores.append(score[:, 0])
        if len(maps) == 9:
            points.append(maps[level + 6].reshape(-1, 5, 2) * stride + centre[:, None])
    landmarks = np.concatenate(points) if points else None
    return np.concatenate(corners), np.concatenate(scores), landmarks


@DETECTORS.register("retinaface")
class RetinaFace:
    """SCRFD or RetinaFace from an ONNX file."""

    name = "retinaface"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.net = OnnxNet(find_weights(cfg, WHAT), cfg["size"])
        width, height = self.net.size or (self.net.longest_side, self.net.longest_side)
        self._order(self.net.probe(), width, height)

    def _order(self, outputs: list[np.ndarray], width: int, height: int) -> list[np.ndarray]:
        """Sort the maps by their shapes into the order of :func:`decode`."""
        maps = [output.reshape(-1, output.shape[-1]) for output in outputs if output.ndim > 1]
        cells = [(width // s) * (height // s) for s in STRIDES]
        ordered = []
        for channels in WIDTHS[: len(outputs) // 3]:
            group = sorted((m for m in maps if m.shape[1] == channels), key=len, reverse=True)
            anchors = len(group[0]) // cells[0] if group else 0
            if anchors < 1 or [len(m) for m in group] != [n * anchors for n in cells]:
                break
            ordered += group
        if len(ordered) != len(outputs) or len(outputs) not in (6, 9):
            raise UserError(
                f"{self.net.path} has outputs of shapes {[o.shape for o in outputs]}, not the 6 "
                f"or 9 maps of {WHAT}. Set detector.file=<such a file>."
            )
        return ordered

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        # insightface pads with black on the right and bottom.
        letterboxed = self.net.fit(image, pad=0, centre=False, enlarge=self.cfg["enlarge"])
        height, width = letterboxed.image.shape[:2]
        blob = (letterboxed.image.astype(np.float32) - 127.5) / 128
        outputs = self.net.run(blob.transpose(2, 0, 1)[None])
        corners, scores, landmarks = decode(self._order(outputs, width, height), width, height)
        return postprocess(letterboxed, corners, scores, landmarks, self.cfg)
