"""Images in which a face detector finds no face; candidates for manual review."""

from __future__ import annotations

import cv2
import numpy as np

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.config.compose import defaults
from emotion_lab.core.errors import unknown
from emotion_lab.core.progress import track
from emotion_lab.video.types import Detector

#: Detector -> config changes for a high recall, so that few faces are missed. Of 1,200 images of
#: FER2013, YuNet then lists 10 (about 90 at its default threshold of 0.7) and Haar 180, most of
#: which do show a face.
DETECTORS: dict[str, dict[str, float]] = {
    "haar": {"min_neighbors": 1},
    "yunet": {"score_threshold": 0.1},
}

#: Minimum of the shorter side after enlarging an image for the detector, in pixels.
MIN_SIDE = 160
#: Border added to an image, relative to its shorter side: detectors are trained on faces with
#: surroundings.
BORDER = 0.25


def build_face_detector(name: str, file: str | None) -> Detector | None:
    """Return the detector ``name`` with its default config, or None for ``none``."""
    if name == "none":
        return None
    if name not in DETECTORS:
        raise unknown("face detector", name, ("none", *DETECTORS), "Set face_detector=<name>.")
    from emotion_lab.video.detectors import build_detector

    return build_detector({**defaults("detector", name), **DETECTORS[name], "file": file})


def enlarge(image: np.ndarray) -> np.ndarray:
    """Enlarge uint8 (H, W, C) to a shorter side of at least 160 pixels and add a border; RGB."""
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.shape[2] == 1 else image
    height, width = rgb.shape[:2]
    scale = max(1.0, MIN_SIDE / min(height, width))
    size = (round(width * scale), round(height * scale))
    rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)
    border = round(BORDER * min(size))
    return cv2.copyMakeBorder(rgb, border, border, border, border, cv2.BORDER_REPLICATE)


def images_without_face(stats: ImageStats, detector: Detector, blank: np.ndarray) -> list[int]:
    """Return the indices of the images without a detection."""
    indices = np.flatnonzero(stats.readable & ~blank).tolist()
    progress = track(indices, f"detecting faces ({detector.name})")
    return [i for i in progress if not len(detector(enlarge(stats.image(i))))]
