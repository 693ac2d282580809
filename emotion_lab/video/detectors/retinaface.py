"""RetinaFace and SCRFD networks exported to ONNX by insightface."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import collect, find_file
from emotion_lab.video.detectors.onnx_net import OnnxNet
from emotion_lab.video.types import DETECTORS, Detections

STRIDES = (8, 16, 32)
WHAT = "an SCRFD or RetinaFace .onnx file as insightface exports it (det_10g.onnx, det_500m.onnx)"
#: Values of each map: score, distances to the four sides, five landmarks.
WIDTHS = (1, 4, 10)


def decode(
    maps: list[np.ndarray], width: int, height: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Turn the maps of one image into faces.

    Each place of a map predicts one or two faces from its corner (column * stride, row * stride):
    distances to left, top, right and bottom, and landmarks, both in units of the stride (Guo et
    al. 2021, "Sample and Computation Redistribution for Efficient Face Detection").

    Args:
        maps: Scores of the three strides, then distances, then landmarks (which may be absent);
            each (places * anchors, 1 | 4 | 10).
        width: Of the network's input.
        height: Of the network's input.

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
    """SCRFD or RetinaFace through ONNX.

    Args:
        cfg: ``conf/detector/retinaface.yaml`` as a plain dict.

    Raises:
        UserError: If the file is missing or has other outputs than insightface's exports.
    """

    name = "retinaface"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.net = OnnxNet(find_file(cfg, WHAT), cfg["size"])
        width, height = self.net.size or (self.net.longest, self.net.longest)
        self._order(self.net.probe(), width, height)

    def _order(self, outputs: list[np.ndarray], width: int, height: int) -> list[np.ndarray]:
        """Return the maps as :func:`decode` wants them, told apart by their shapes."""
        maps = [output.reshape(-1, output.shape[-1]) for output in outputs if output.ndim > 1]
        places = [(width // s) * (height // s) for s in STRIDES]
        ordered = []
        for channels in WIDTHS[: len(outputs) // 3]:
            mine = [m for m in maps if m.shape[1] == channels]
            mine.sort(key=len, reverse=True)
            anchors = len(mine[0]) // places[0] if mine else 0
            if anchors < 1 or [len(m) for m in mine] != [p * anchors for p in places]:
                break
            ordered += mine
        if len(ordered) != len(outputs) or len(outputs) not in (6, 9):
            raise UserError(
                f"{self.net.path} has outputs of shapes {[o.shape for o in outputs]}, not the 6 "
                f"or 9 maps of {WHAT}. Set detector.file=<such a file>."
            )
        return ordered

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        # insightface puts the image into the top left corner of a black canvas.
        fitted = self.net.fit(image, pad=0, centre=False, enlarge=self.cfg["enlarge"])
        height, width = fitted.image.shape[:2]
        blob = (fitted.image.astype(np.float32) - 127.5) / 128
        outputs = self.net.run(blob.transpose(2, 0, 1)[None])
        corners, scores, landmarks = decode(self._order(outputs, width, height), width, height)
        return collect(fitted, corners, scores, landmarks, self.cfg)
