"""The images of val that exported files are held against, and those that int8 is calibrated by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import Split
from emotion_lab.evaluation.evaluate import leakage_warnings, match_classes
from emotion_lab.exporters.base import CalibrationData
from emotion_lab.exporters.verify import ENOUGH


@dataclass
class Images:
    """Faces as they were read.

    Attributes:
        faces: RGB, uint8 (h, w, 3) each.
        labels: In the checkpoint's class order, int64 (N,).
        names: Path or ``file:row``.
        calibration: Others of the same split, for int8; None where none were asked for.
        fingerprint: Of the whole split.
        notes: What there is to know about them.
    """

    faces: list[np.ndarray]
    labels: np.ndarray
    names: list[str]
    calibration: CalibrationData | None
    fingerprint: dict[str, Any]
    notes: list[str]


def _read(part: Split, skip: bool) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    faces, kept = [], []
    for position in range(len(part)):
        try:
            image = part.image(position)
        except UserError:
            if not skip:
                raise
            continue
        faces.append(image if image.shape[2] == 3 else image.repeat(3, axis=2))
        kept.append(position)
    return faces, part.labels[kept], [str(part.names[i]) for i in kept]


def val_images(
    card: dict[str, Any], data_cfg: dict[str, Any], foreign: bool, n: int, calibration: int
) -> Images:
    """Read images of val; the test split stays closed.

    Those for calibration are drawn first and have no part in the comparison, unless fewer than
    :data:`ENOUGH` others are left.

    Args:
        card: The checkpoint's.
        data_cfg: The ``data`` group to read.
        foreign: Whether it is other data than the checkpoint was trained on.
        n: At most so many for the comparison.
        calibration: So many for int8; 0 reads none.

    Raises:
        UserError: If there is no val split, or nothing of it can be read.
    """
    data = EmotionData(data_cfg, ("val",), card["seed"], carve=not foreign)
    part, notes = match_classes(data, card["classes"], "val")
    data.source.classes, data.source.splits["val"] = list(card["classes"]), part
    fingerprint = data.fingerprints()["val"]
    seen = [one.get("fingerprints", {}) for one in card.get("members", [card])]
    notes = [*data.source.notes, *notes, *leakage_warnings(seen, "val", fingerprint, foreign)]
    order = np.random.default_rng(0).permutation(len(part))
    held, rest = order[:calibration], order[calibration:]
    if calibration and len(rest) < ENOUGH:
        rest = order
        notes.append("val is small: the images that int8 was calibrated by are compared as well")
    skip = data_cfg["on_decode_error"] == "skip"
    faces, labels, names = _read(part.subset(np.sort(rest[:n])), skip)
    if not faces:
        raise UserError("no image of val can be read.")
    if len(faces) < ENOUGH:
        notes.append(f"only {len(faces)} images: a certificate should stand on {ENOUGH:,} or more")
    known = None
    if calibration:
        others, classes, _ = _read(part.subset(np.sort(held)), skip)
        known = CalibrationData(others, classes)
    return Images(faces, labels, names, known, fingerprint, notes)
