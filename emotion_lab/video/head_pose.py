"""Head pose of a face from its five landmarks.

The rotation of a generic face whose projection fits the landmarks best (SQPnP, Terzakis and
Lourakis 2020). A face differs from the generic one, and its expression moves the mouth corners, so
that an error of several degrees remains: ``bench benchmark=derived`` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

#: Landmarks of a generic face in the order of ``Detections``, float64 (5, 3), in centimetres: x to
#: the right and y down in the image, z towards the camera. From the canonical face model of
#: MediaPipe (Google, Apache-2.0; Kartynnik et al. 2019, arXiv:1907.06724): the means of the eye
#: corners (vertices 33, 133, 362, 263), the nose tip (1) and the mouth corners (61, 291).
FACE = np.array(
    [
        (-3.151145, -2.624618, 3.465663),
        (3.151145, -2.624618, 3.465663),
        (0.0, 1.126865, 7.475604),
        (-2.456206, 4.342621, 4.283884),
        (2.456206, 4.342621, 4.283884),
    ]
)
#: Assumed distance of the camera in heights or widths of the five landmarks (about 40 cm).
_DISTANCE = 5.0
_CAMERA = np.diag((_DISTANCE, _DISTANCE, 1.0))
#: OpenCV's camera looks along +z.
_AWAY = np.array((1.0, 1.0, -1.0))
_FACE_AWAY = FACE * _AWAY


@dataclass(frozen=True)
class HeadPose:
    """Rotation of a head in degrees; all 0 if it faces the camera upright.

    Attributes:
        yaw: -180..180, positive if the face looks to the right of the image.
        pitch: -90..90, positive if it looks down.
        roll: -180..180, positive if it is tilted clockwise in the image.
    """

    yaw: float
    pitch: float
    roll: float

    @property
    def turn(self) -> float:
        """Angle between the direction of the face and that to the camera, 0..180 degrees."""
        cosine = math.cos(math.radians(self.yaw)) * math.cos(math.radians(self.pitch))
        return math.degrees(math.acos(cosine))

    @property
    def matrix(self) -> np.ndarray:
        """Rotation of points like :data:`FACE`, float64 (3, 3): yaw first, then pitch, roll."""
        yaw, pitch, roll = (math.radians(a) for a in (self.yaw, self.pitch, self.roll))
        c, s = math.cos(yaw), math.sin(yaw)
        around_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = math.cos(pitch), math.sin(pitch)
        around_x = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
        c, s = math.cos(roll), math.sin(roll)
        around_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return around_z @ around_x @ around_y


def head_pose(landmarks: np.ndarray | None) -> HeadPose | None:
    """Estimate the pose of a head.

    Args:
        landmarks: float (5, 2) in pixels, as in ``Detections``.

    Returns:
        The pose; None without landmarks, or for landmarks that no face has (points that coincide
        or are not finite).
    """
    if landmarks is None:
        return None
    points = np.asarray(landmarks, np.float64)
    size = float((points.max(0) - points.min(0)).max()) if np.isfinite(points).all() else 0.0
    if not size > 0:
        return None
    points = (points - points.mean(0)) / size
    try:
        found, rotation, _ = cv2.solvePnP(
            _FACE_AWAY, points, _CAMERA, None, flags=cv2.SOLVEPNP_SQPNP
        )
    except cv2.error:
        return None
    if not found:
        return None
    r = cv2.Rodrigues(rotation)[0] * np.outer(_AWAY, _AWAY)
    return HeadPose(
        yaw=math.degrees(math.atan2(-r[2, 0], r[2, 2])),
        pitch=math.degrees(math.asin(min(1.0, max(-1.0, -r[2, 1])))),
        roll=math.degrees(math.atan2(-r[0, 1], r[1, 1])),
    )
