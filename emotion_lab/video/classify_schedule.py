"""Selects the faces of a frame that are classified; the others keep their probabilities."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from emotion_lab.video.smoothing import TrackSmoother

#: Config keys ``classify.<key>``. Without a config every face of every frame is classified.
DEFAULTS: dict[str, Any] = {"when": "always", "max_age_s": 0.5}
#: Crops are compared as grey pictures of this side, without a border that shows the background.
_SIDE, _BORDER = 16, 2
#: The difference of two crops is the root mean square of the largest differences, of this share of
#: the pixels, in standard deviations of the picture. The share is small, because a mouth is small.
_SHARE = 0.05
#: Accepted difference for each unit of the lead of the label over the second class, and its
#: maximum: a small change can turn a label of a small lead.
_DIFFERENCE_PER_LEAD, _MAX_DIFFERENCE = 0.8, 0.4
#: A box has moved if its centre or a side changed by this share of its longer side.
_MAX_MOVEMENT = 0.25
#: Least standard deviation of a picture: noise of a uniform one is no difference.
_MIN_STD = 4.0
_INNER = slice(_BORDER, _SIDE - _BORDER)
_ROWS, _COLUMNS = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) - (_SIDE - 1) / 2


def small_picture(crop: np.ndarray) -> np.ndarray:
    """Return the grey levels of a crop, uint8 (h, w, 3), as float32 (16, 16).

    The green channel is close to the grey level.
    """
    small = cv2.resize(crop[:, :, crop.shape[2] // 2], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)


class CropComparison:
    """Compares crops with one crop, without regard to small movements, exposure and contrast.

    The distance is the one-sided tangent distance (Simard, LeCun, Denker 1993, "Efficient Pattern
    Recognition Using a New Transformation Distance"): the part of the difference that a small
    shift, rotation, scaling or a change of brightness and contrast explains is removed.

    Args:
        small: Of the reference crop, from :func:`small_picture`.
    """

    def __init__(self, small: np.ndarray) -> None:
        self._small, self._reference = small, small[_INNER, _INNER].ravel()

    @functools.cached_property
    def _std(self) -> float:
        return max(_MIN_STD, float(self._reference.std()))

    @functools.cached_property
    def _tangents(self) -> np.ndarray:
        """Orthonormal directions of the small changes, float32 (pixels, 6).

        Computed when they are needed: many crops are never compared.
        """
        small, inner = self._small, self._small[_INNER, _INNER]
        before, after = slice(_BORDER - 1, -_BORDER - 1), slice(_BORDER + 1, _SIDE - _BORDER + 1)
        dy = (small[after, _INNER] - small[before, _INNER]) / 2
        dx = (small[_INNER, after] - small[_INNER, before]) / 2
        rows, columns = _ROWS[_INNER, _INNER], _COLUMNS[_INNER, _INNER]
        changes = np.empty((6, *inner.shape), np.float32)
        changes[0], changes[1] = dx, dy
        changes[2], changes[3] = columns * dx + rows * dy, columns * dy - rows * dx
        changes[4], changes[5] = 1, inner
        return np.linalg.qr(changes.reshape(6, -1).T)[0]

    def difference(self, small: np.ndarray) -> float:
        """Return the difference, 0 or more, in standard deviations of the reference.

        It is infinite if the pictures have so little in common that no small change explains it.
        """
        difference = small[_INNER, _INNER].ravel() - self._reference
        if difference @ difference > difference.size * self._std**2:
            return float("inf")
        difference -= self._tangents @ (difference @ self._tangents)
        count = max(1, round(_SHARE * difference.size))
        squares = np.partition(difference**2, -count)[-count:]
        return math.sqrt(squares.mean()) / self._std


@dataclass(frozen=True)
class Look:
    """One classification of a face.

    Attributes:
        box: float32 (4,) x, y, width, height in pixels.
        probabilities: float32 (K,).
        quantities: Learned quantities, float32 (Q,).
        crop: None if it is compared with no other.
    """

    time_s: float
    box: np.ndarray
    probabilities: np.ndarray
    quantities: np.ndarray
    crop: CropComparison | None


class ClassifySchedule:
    """Decides whether a face is classified again.

    Args:
        cfg: ``when`` (``always``, or ``auto``: if the face changed, or its label is not certain),
            ``max_age_s``: seconds after which a face is classified in any case.
    """

    def __init__(self, cfg: dict[str, Any] | None = None) -> None:
        cfg = {**DEFAULTS, **(cfg or {})}
        self.always, self.max_age_s = cfg["when"] == "always", float(cfg["max_age_s"])

    def look(
        self,
        time_s: float,
        box: np.ndarray,
        picture: np.ndarray | None,
        probabilities: np.ndarray,
        quantities: np.ndarray,
    ) -> Look:
        """Return a classification at ``time_s``; ``picture`` is that of :meth:`pictures`."""
        comparison = None if picture is None else CropComparison(picture)
        return Look(time_s, box.copy(), probabilities, quantities, comparison)

    def pictures(self, crops: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """Return the :func:`small_picture` of each crop; None if no crops are compared."""
        return [None if self.always else small_picture(crop) for crop in crops]

    def is_due(
        self,
        look: Look,
        smoother: TrackSmoother,
        time_s: float,
        box: np.ndarray,
        picture: np.ndarray | None,
    ) -> bool:
        """Return whether a face must be classified at ``time_s``.

        Args:
            look: Its last classification.
            smoother: Of its track, which got the probabilities of ``look``.
            box: x, y, width, height in pixels.
            picture: Of :meth:`pictures`.
        """
        if look.crop is None or picture is None or time_s - look.time_s >= self.max_age_s - 1e-6:
            return True
        label = smoother.settled
        if label is None:
            return True
        lead = min(_lead(smoother.latest, label), _lead(smoother.smoothed, label))
        if lead <= 0:
            return True
        moved = np.abs(np.concatenate([_centre(box) - _centre(look.box), box[2:] - look.box[2:]]))
        if moved.max() > _MAX_MOVEMENT * look.box[2:].max():
            return True
        accepted = min(_MAX_DIFFERENCE, _DIFFERENCE_PER_LEAD * lead)
        return look.crop.difference(picture) > accepted


def _lead(probabilities: np.ndarray, label: int) -> float:
    """Return the lead of a class over the most probable other class, negative if it is behind."""
    values = probabilities.tolist()
    own = values.pop(label)
    return own - max(values, default=0.0)


def _centre(box: np.ndarray) -> np.ndarray:
    return box[:2] + box[2:] / 2
