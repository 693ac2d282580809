"""Head pose of landmarks that are projected from known angles."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.video.head_pose import FACE, HeadPose, head_pose

ANGLES = [(0, 0, 0), (30, 10, 5), (-50, -20, 20), (70, 0, 0), (10, 0, 170), (0, 35, -90)]


def project(pose: HeadPose, distance: float = 300.0) -> np.ndarray:
    """Return the landmarks (5, 2) of the generic face in pixels, seen by a camera in cm."""
    points = FACE @ pose.matrix.T
    return points[:, :2] / (distance - points[:, 2:]) * 4000 + (320, 240)


@pytest.mark.parametrize("angles", ANGLES)
def test_known_angles_are_found(angles: tuple[float, float, float]) -> None:
    estimate = head_pose(project(HeadPose(*angles)))
    assert estimate is not None
    assert (estimate.yaw, estimate.pitch, estimate.roll) == pytest.approx(angles, abs=7)


def test_signs_are_those_of_the_picture() -> None:
    """A face that looks to the right of the picture has its nose to the right of its eyes."""
    frontal, right, down = (project(HeadPose(*a)) for a in ((0, 0, 0), (30, 0, 0), (0, 30, 0)))
    centre = [points[:2].mean(0) for points in (frontal, right, down)]
    assert right[2, 0] - centre[1][0] > frontal[2, 0] - centre[0][0]
    assert down[2, 1] - centre[2][1] > frontal[2, 1] - centre[0][1]
    clockwise = project(HeadPose(0, 0, 20))
    assert clockwise[1, 1] > clockwise[0, 1]  # the eye on the right is lower


def test_a_mirrored_face_looks_to_the_other_side() -> None:
    points = project(HeadPose(25, 8, 12))
    mirrored = (points * (-1, 1))[[1, 0, 2, 4, 3]]
    first, second = head_pose(points), head_pose(mirrored)
    assert first is not None and second is not None
    assert (second.yaw, second.roll) == pytest.approx((-first.yaw, -first.roll), abs=1e-4)
    assert second.pitch == pytest.approx(first.pitch, abs=1e-4)


def test_turn_is_the_angle_to_the_camera() -> None:
    assert HeadPose(60, 0, 45).turn == pytest.approx(60)
    assert HeadPose(0, -40, 0).turn == pytest.approx(40)
    assert HeadPose(90, 30, 0).turn == pytest.approx(90)
    assert HeadPose(180, 0, 0).turn == pytest.approx(180)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_impossible_landmarks_have_no_pose(value: float) -> None:
    assert head_pose(np.full((5, 2), value)) is None
    assert head_pose(None) is None
