"""Anonymization: faces are unrecognizable and stay hidden between detections."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.anonymize import MARGIN, Anonymizer, blur_faces
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.overlay.primitives import COLOURS
from tests.helpers_sinks import face, result

BOX = (250.0, 100.0, 120.0, 140.0)
FACES = [face(box=BOX)]


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def test_blur_changes_only_the_enlarged_box() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (360, 640, 3), np.uint8)
    blurred = blur_faces(image, [BOX])
    x, y, w, h = (round(v) for v in BOX)
    assert sharpness(blurred[y : y + h, x : x + w]) < 0.001 * sharpness(image[y : y + h, x : x + w])
    outside = np.ones((360, 640), bool)
    dx, dy = int(np.ceil(MARGIN * w)), int(np.ceil(MARGIN * h))
    outside[y - dy : y + h + dy, x - dx : x + w + dx] = False
    assert (blurred[outside] == image[outside]).all()
    assert (blurred[y - dy + 3, x - dx + 3 : x] != image[y - dy + 3, x - dx + 3 : x]).any()


def test_blur_removes_the_detail() -> None:
    """Two faces that differ only in detail are nearly equal after blurring."""
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.integers(60, 190, (3, 3, 3), np.uint8), (120, 140))
    first, second = (
        np.clip(coarse.astype(int) + rng.integers(-50, 51, coarse.shape), 0, 255).astype(np.uint8)
        for _ in range(2)
    )
    box = [(0.0, 0.0, 120.0, 140.0)]
    sharp = np.abs(first.astype(int) - second.astype(int)).mean()
    first, second = (blur_faces(image, box).astype(int) for image in (first, second))
    assert np.abs(first - second).mean() < sharp / 20


@pytest.mark.parametrize(
    "box", [(-50, -50, 80, 80), (630, 350, 99, 99), (900, 0, 9, 9), (5, 5, 1, 1), (0, 0, 0, 0)]
)
def test_blur_accepts_any_box(box: tuple[float, float, float, float]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (360, 640, 3), np.uint8)
    assert blur_faces(image, [box]).shape == image.shape


def test_overlay_hides_faces_before_drawing() -> None:
    image = np.random.default_rng(3).integers(0, 256, (360, 640, 3), np.uint8)
    x, y, w, h = (round(v) for v in BOX)
    inner = (slice(y + 8, y + h - 8), slice(x + 8, x + w - 8))
    hidden = Overlay({"bars": "none"}, EMOTIONS, anonymize="blur").draw(image, result(faces=FACES))
    clear = Overlay({"bars": "none"}, EMOTIONS).draw(image, result(faces=FACES))
    assert sharpness(hidden[inner]) < 0.001 * sharpness(image[inner])
    assert (clear[inner] == image[inner]).all()
    assert tuple(hidden[170, 250]) == COLOURS["happy"]  # box and label are sharp


def test_face_stays_hidden_after_a_missed_detection() -> None:
    image = np.random.default_rng(4).integers(0, 256, (360, 640, 3), np.uint8)
    anonymizer = Anonymizer("blur", hold_s=1.0)
    x, y, w, h = (round(v) for v in BOX)
    part = (slice(y, y + h), slice(x, x + w))
    anonymizer(image, result(faces=FACES, time_s=5.0))
    assert sharpness(anonymizer(image, result(time_s=5.8))[part]) < 10
    assert (anonymizer(image, result(time_s=6.1)) == image).all()
    anonymizer(image, result(faces=FACES, time_s=7.0))
    assert (anonymizer(image, result(time_s=7.1, source="next.jpg")) == image).all()
