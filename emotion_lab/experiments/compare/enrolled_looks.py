"""Neutral baseline in a comparison of smoothers: faces are enrolled with their neutral looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.types import Split
from emotion_lab.inference.neutral import NeutralReference, log_probabilities
from emotion_lab.video.enrolment import ENROL_S


@dataclass(frozen=True)
class EnrolledLooks:
    """Looks of the faces that are neutral at some time.

    Attributes:
        probabilities: Corrected by the neutral face of the track, float32 (N, K).
        scored: bool (N,): false for the looks that measured the neutral face, and for the faces
            that are never neutral.
    """

    probabilities: np.ndarray
    scored: np.ndarray


def enrol_tracks(
    probabilities: np.ndarray, split: Split, reference: NeutralReference
) -> EnrolledLooks:
    """Enrol every track with the first seconds of its first neutral expression.

    Args:
        probabilities: float32 (N, K), columns as ``reference.classes``.
        split: Images of clips; labels are positions in the same classes.
        reference: Of the frame network.
    """
    looks = split.looks
    if looks is None or "neutral" not in reference.classes:
        raise UserError("enrol_reference= needs clips with neutral faces: leave it out.")
    corrected, scored = probabilities.copy(), np.zeros(len(split), bool)
    is_neutral = split.labels == reference.classes.index("neutral")
    for rows in np.split(np.arange(len(split)), np.flatnonzero(np.diff(looks.tracks)) + 1):
        if not is_neutral[rows].any():
            continue
        first = rows[int(is_neutral[rows].argmax()) :]
        ends = ~is_neutral[first] | (looks.times[first] >= looks.times[first[0]] + ENROL_S)
        enrolled = first[: int(ends.argmax())] if ends.any() else first
        face = log_probabilities(probabilities[enrolled]).mean(0)
        corrected[rows] = reference.correct(probabilities[rows], face)
        scored[np.setdiff1d(rows, enrolled)] = True
    if not scored.any():
        raise UserError("no face is neutral and has another expression: leave enrol_reference out.")
    return EnrolledLooks(corrected, scored)
