"""Images of the val split for the parity certificate and for int8 calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.core.wording import counted
from emotion_lab.data import contamination
from emotion_lab.data.checkpoint_data import CheckpointData
from emotion_lab.data.types import Split
from emotion_lab.inference.conversion.base import CalibrationData

#: Number of images that a certificate needs to be meaningful.
MIN_IMAGES = 1000


@dataclass
class ValImages:
    """Decoded images of val.

    Attributes:
        faces: RGB, uint8 (h, w, 3) each.
        labels: In the checkpoint's class order, int64 (N,).
        names: Path or ``file:row``.
        calibration: Further images of val for int8; None if not requested.
        fingerprint: Of the complete split.
        trained_on: How many of ``faces`` were trained on, see
            :meth:`contamination.SeenImages.summary`.
        notes: Lines to show: skipped files, images that were trained on, too few images.
    """

    faces: list[np.ndarray]
    labels: np.ndarray
    names: list[str]
    calibration: CalibrationData | None
    fingerprint: dict[str, Any]
    trained_on: dict[str, Any]
    notes: list[str]


def _read(part: Split) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Decode all images; return them as RGB with their labels and names."""
    images = (part.image(position) for position in range(len(part)))
    faces = [image if image.shape[2] == 3 else image.repeat(3, axis=2) for image in images]
    return faces, part.labels, [str(name) for name in part.names]


def val_images(
    card: dict[str, Any],
    data_cfg: dict[str, Any],
    foreign: bool,
    num_images: int,
    num_calibration: int,
) -> ValImages:
    """Read images of val; the test split is not read.

    The calibration images are drawn first and excluded from the comparison, unless fewer than
    :data:`MIN_IMAGES` others remain.

    Args:
        card: Of the checkpoint.
        data_cfg: The ``data`` group to read.
        foreign: Whether it differs from the data the checkpoint was trained on.
        num_images: Largest number of images for the comparison.
        num_calibration: Number of images for int8; 0 reads none.
    """
    data = CheckpointData.open(card, data_cfg, "val", foreign)
    notes = list(data.notes)
    order = np.random.default_rng(0).permutation(len(data.part))
    calibration_order, rest = order[:num_calibration], order[num_calibration:]
    if num_calibration and len(rest) < MIN_IMAGES:
        rest = order
        notes.append("val is small: the certificate includes the calibration images of int8")
    part = data.part.subset(np.sort(rest[:num_images]))
    faces, labels, names = _read(part)
    if len(faces) < MIN_IMAGES:
        notes.append(
            f"only {counted(len(faces), 'image')}: a certificate should be based on "
            f"{MIN_IMAGES:,} or more"
        )
    trained_on = contamination.of_card(card, data_cfg).seen(part).summary()
    warning = contamination.warning(trained_on, len(part))
    notes += [] if warning is None else [f"warning: {warning}"]
    calibration = None
    if num_calibration:
        samples, classes, _ = _read(data.part.subset(np.sort(calibration_order)))
        calibration = CalibrationData(samples, classes)
    return ValImages(faces, labels, names, calibration, data.fingerprint, trained_on, notes)
