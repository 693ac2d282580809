"""OpenCV's res10 SSD face detector, TensorFlow or Caffe format."""

from __future__ import annotations

from os.path import commonprefix
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import native_path
from emotion_lab.video.detectors.nms import postprocess
from emotion_lab.video.detectors.resize import letterbox
from emotion_lab.video.detectors.weights import configured_path, find_weights
from emotion_lab.video.types import DETECTORS, Detections

#: Suffix of the weights file -> suffix of the network definition.
PAIRS = {".pb": ".pbtxt", ".caffemodel": ".prototxt"}
#: Mean of the training images: blue, green, red.
MEAN = (104.0, 177.0, 123.0)
SIDE = 300


def find_pair(cfg: dict[str, Any]) -> tuple[Path, Path]:
    """Return (weights, network definition) from ``file`` and ``config``, in either order.

    If only one is set, the other is searched in its folder: the only file with the matching
    suffix, or the one with the longest common name prefix.
    """
    what = "a .pb with its .pbtxt, or a .caffemodel with its .prototxt"
    paths = [find_weights(cfg, what)]
    endings = [*PAIRS, *PAIRS.values()]
    if paths[0].suffix.lower() not in endings:
        raise UserError(f"{paths[0]} is not an SSD model: detector=ssd needs {what}.")
    if cfg["config"]:
        paths.append(configured_path(cfg, "config", what))
    else:
        paths.append(_find_partner(paths[0]))
    names = " and ".join(path.name for path in paths)
    weights, definition = sorted(paths, key=lambda path: path.suffix.lower() not in PAIRS)
    if PAIRS.get(weights.suffix.lower()) != definition.suffix.lower():
        raise UserError(f"{names} do not belong together: detector=ssd needs {what}.")
    return weights, definition


def _find_partner(path: Path) -> Path:
    """Return the file of the other suffix that belongs to ``path``."""
    partners = {**PAIRS, **{text: weights for weights, text in PAIRS.items()}}
    suffix = partners[path.suffix.lower()]
    candidates = sorted(p for p in path.parent.iterdir() if p.suffix.lower() == suffix)
    # Comparing character by character is the purpose here.
    common = [len(commonprefix([p.stem, path.stem])) for p in candidates]  # noqa: RUF071
    best = [p for p, n in zip(candidates, common, strict=True) if n == max(common)]
    if len(best) != 1:
        raise UserError(
            f"{len(candidates) or 'no'} {suffix} files in the folder of {path}: set "
            f"detector.config=<its {suffix} file>."
        )
    return best[0]


@DETECTORS.register("ssd")
class Ssd:
    """Single-shot detector with a ResNet-10 (Liu et al. 2016; OpenCV's face_detector sample)."""

    name = "ssd"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        weights, definition = find_pair(cfg)
        if weights.suffix.lower() == ".caffemodel" and not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise UserError(
                f"OpenCV {cv2.__version__} cannot read Caffe files. Set detector=yunet, or "
                "pip install 'opencv-python<5'."
            )
        try:
            with native_path(weights) as first, native_path(definition) as second:
                self.net = cv2.dnn.readNet(first, second)
            shape = self._forward(np.zeros((SIDE, SIDE, 3), np.uint8)).shape
        except (cv2.error, SystemError) as error:
            raise UserError(
                f"{weights} with {definition} cannot be read as a network. Download both "
                "files again."
            ) from error
        if len(shape) != 4 or shape[3] != 7:
            raise UserError(
                f"{weights} is not an SSD face detector: expected an output with rows of 7 values, "
                f"got shape {tuple(shape)}."
            )

    def _forward(self, image: np.ndarray) -> np.ndarray:
        """Return (1, 1, N, 7) for uint8 (300, 300, 3) RGB."""
        blob = cv2.dnn.blobFromImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), mean=MEAN)
        self.net.setInput(blob)
        return self.net.forward()

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        letterboxed = letterbox(image, SIDE, SIDE, pad=128, enlarge=self.cfg["enlarge"])
        rows = self._forward(letterboxed.image)[0, 0]
        # Columns: image, class, score, left, top, right, bottom; corners in 0..1.
        return postprocess(letterboxed, rows[:, 3:7] * SIDE, rows[:, 2], None, self.cfg)
