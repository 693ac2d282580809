"""Images in which a detector finds no face: candidates to look at, nothing more."""

from __future__ import annotations

import cv2
import numpy as np
from omegaconf import OmegaConf

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.config.compose import CONF
from emotion_lab.core.errors import unknown
from emotion_lab.core.progress import track
from emotion_lab.video.types import Detector

#: Detectors offered, set so that they miss few: only an image without even a weak sign of a face is
#: listed. Of 1,200 images of FER2013 YuNet then lists 10 (at its usual 0.7 about 90), Haar 180,
#: most of them faces after all.
OFFERED: dict[str, dict[str, float]] = {"haar": {"min_neighbors": 1}, "yunet": {"score_threshold": 0.1}}

#: Shortest side, in pixels, to which an image is enlarged for the detector.
SIDE = 160
#: A crop that the face fills gets so much border, as a share of its side: detectors were trained
#: on faces with something around them.
BORDER = 0.25


def find_detector(name: str, file: str | None) -> Detector | None:
    """Return the detector that ``face_detector=`` names, with the values of its yaml; None for ``none``.

    Args:
        name: ``none``, ``haar`` or ``yunet``.
        file: Its model file, or None for its own.

    Raises:
        UserError: For an unknown name, or a model file that is missing or wrong.
    """
    if name == "none":
        return None
    if name not in OFFERED:
        raise unknown("face detector", name, ("none", *OFFERED), "Set face_detector=<name>.")
    from emotion_lab.video.detectors import build_detector

    folder = CONF / "detector"
    merged = OmegaConf.merge(
        OmegaConf.load(folder / "base.yaml"), OmegaConf.load(folder / f"{name}.yaml")
    )
    config = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(config, dict)
    return build_detector({**config, **OFFERED[name], "file": file})


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return uint8 (H', W', 3) RGB, at least 160 pixels on its shorter side, with a border.

    Args:
        image: uint8 (H, W, C).
    """
    colour = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.shape[2] == 1 else image
    height, width = colour.shape[:2]
    scale = max(1.0, SIDE / min(height, width))
    size = (round(width * scale), round(height * scale))
    colour = cv2.resize(colour, size, interpolation=cv2.INTER_CUBIC)
    border = round(BORDER * min(size))
    return cv2.copyMakeBorder(colour, *(border,) * 4, cv2.BORDER_REPLICATE)


def without_face(looked: ImageStats, detector: Detector, skip: np.ndarray) -> list[int]:
    """Return the images in which the detector finds no face.

    Args:
        looked: The images.
        detector: See :func:`find_detector`.
        skip: bool (N,), images known to be blank.
    """
    found = []
    todo = np.flatnonzero(looked.readable & ~skip).tolist()
    for i in track(todo, f"looking for faces ({detector.name})"):
        if not len(detector(enlarged(looked.image(i)))):
            found.append(i)
    return found
