"""OpenCV's res10 SSD, in TensorFlow or Caffe form."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import collect, find_file, given_path, letterbox
from emotion_lab.video.types import DETECTORS, Detections

#: Weights -> the description that belongs to them.
PAIRS = {".pb": ".pbtxt", ".caffemodel": ".prototxt"}
#: What the network had taken off its training images: blue, green, red.
MEAN = (104.0, 177.0, 123.0)
SIDE = 300


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in PAIRS


def find_pair(cfg: dict[str, Any]) -> tuple[Path, Path]:
    """Return (weights, description) from ``file`` and ``config``, in either order.

    Where only one is set, the other is looked for in its folder: the only one of its kind, or the
    one whose name begins most like it.

    Raises:
        UserError: If one is missing, or the two are of different kinds.
    """
    what = "a .pb with its .pbtxt, or a .caffemodel with its .prototxt"
    paths = [find_file(cfg, what)]
    endings = [*PAIRS, *PAIRS.values()]
    if paths[0].suffix.lower() not in endings:
        raise UserError(f"{paths[0]} is no SSD model: detector=ssd needs {what}.")
    if cfg["config"]:
        paths.append(given_path(cfg, "config", what))
    else:
        paths.append(_partner(paths[0]))
    weights = [path for path in paths if _is_weights(path)]
    texts = [path for path in paths if not _is_weights(path)]
    if len(weights) != 1 or texts[0].suffix.lower() != PAIRS[weights[0].suffix.lower()]:
        names = " and ".join(path.name for path in paths)
        raise UserError(f"{names} do not belong together: detector=ssd needs {what}.")
    return weights[0], texts[0]


def _partner(path: Path) -> Path:
    both = {**PAIRS, **{text: weights for weights, text in PAIRS.items()}}
    wanted = both[path.suffix.lower()]
    near = sorted(p for p in path.parent.iterdir() if p.suffix.lower() == wanted)
    alike = [len(os.path.commonprefix([p.stem, path.stem])) for p in near]
    best = [p for p, n in zip(near, alike, strict=True) if n == max(alike)]
    if len(best) != 1:
        found = "no" if not near else f"{len(near)}"
        raise UserError(
            f"{found} {wanted} files beside {path}: set detector.config=<the {wanted} for it>."
        )
    return best[0]


@DETECTORS.register("ssd")
class Ssd:
    """A single-shot detector on a ResNet-10 (Liu et al. 2016; OpenCV's face_detector sample).

    Args:
        cfg: ``conf/detector/ssd.yaml`` as a plain dict.

    Raises:
        UserError: If the files are missing, do not belong together or are no such network.
    """

    name = "ssd"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        weights, text = find_pair(cfg)
        if weights.suffix.lower() == ".caffemodel" and not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise UserError(
                f"OpenCV {cv2.__version__} reads no Caffe files. Set detector=yunet, or "
                "pip install 'opencv-python<5' 'opencv-python-headless<5'."
            )
        try:
            self.net = cv2.dnn.readNet(str(weights), str(text))
            shape = self._forward(np.zeros((SIDE, SIDE, 3), np.uint8)).shape
        except (cv2.error, SystemError) as error:
            raise UserError(
                f"{weights} with {text} cannot be read as a network. Fetch both files again."
            ) from error
        if len(shape) != 4 or shape[3] != 7:
            raise UserError(
                f"{weights} is no SSD face detector: expected rows of 7 values, found the shape "
                f"{tuple(shape)}."
            )

    def _forward(self, image: np.ndarray) -> np.ndarray:
        """Return (1, 1, N, 7) for uint8 (300, 300, 3) RGB."""
        blob = cv2.dnn.blobFromImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), mean=MEAN)
        self.net.setInput(blob)
        return self.net.forward()

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        enlarge = self.cfg["enlarge"]
        fitted = letterbox(image, SIDE, SIDE, pad=128, enlarge=enlarge)
        rows = self._forward(fitted.image)[0, 0]
        # A row is image, class, score, left, top, right, bottom; the corners are 0..1.
        return collect(fitted, rows[:, 3:7] * SIDE, rows[:, 2], None, self.cfg)
