"""Scene cuts: detected between scenes, not in motion, exposure changes or noise."""

from __future__ import annotations

import itertools
import time

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.scene_cut import SceneCutDetector, thumbnail
from emotion_lab.video.types import Detections, Frame
from tests.conftest import composed
from tests.helpers_classifier import ProbabilitiesOnly

FPS = 30
THRESHOLD = composed(entry="live")["tracking"]["scene_cut_threshold"]


def scene(seed: int, width: int = 640, height: int = 360) -> np.ndarray:
    """Return uint8 (height, width, 3): a smooth background with random circles."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 180, (4, 6, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        cv2.circle(image, (x, y), int(rng.integers(10, 60)), colour, -1)
    return image


def find_cuts(images: list[np.ndarray], threshold: float | None = THRESHOLD) -> list[int]:
    """Return the indices of the frames with a detected cut."""
    detector = SceneCutDetector(threshold)
    return [i for i, image in enumerate(images) if detector(image, i / FPS)]


@pytest.mark.parametrize("seed", range(8))
def test_hard_cut_is_found_at_its_frame(seed: int) -> None:
    images = [scene(seed)] * 5 + [scene(100 + seed)] * 5 + [scene(seed)] * 5
    assert find_cuts(images) == [5, 10]
    assert find_cuts(images, None) == []


@pytest.mark.parametrize("seed", range(4))
def test_exposure_change_is_not_a_cut(seed: int) -> None:
    image = scene(seed)
    exposures = [1, 1, 1.5, 1.5, 0.6, 0.6, 2.0, 1]
    assert find_cuts([np.clip(image * g, 0, 255).astype(np.uint8) for g in exposures]) == []
    # A flash, and a fade to black and back.
    assert find_cuts([image, image, np.full_like(image, 255), image, image]) == []
    fade = [(image * g).astype(np.uint8) for g in (1, 0.7, 0.4, 0.1, 0, 0, 0.2, 0.6, 1)]
    assert find_cuts(fade) == []
    # The frame after black is compared with the frame before it.
    assert find_cuts([image, image * 0, image * 0, scene(50 + seed)]) == [3]


@pytest.mark.parametrize("seed", range(4))
def test_motion_and_noise_are_not_cuts(seed: int) -> None:
    wide = scene(seed, width=1920)
    for step in (6, 30, 60):  # up to a tenth of the width per frame
        pan = [wide[:, x : x + 640] for x in range(0, 1280, step)]
        assert len(pan) > 20 and find_cuts(pan) == []
    rng = np.random.default_rng(seed)
    image = wide[:, :640].astype(np.float64)
    noisy = [(image + rng.normal(0, 40, image.shape)).clip(0, 255) for _ in range(20)]
    assert find_cuts([frame.astype(np.uint8) for frame in noisy]) == []


def test_strong_motion_is_not_a_series_of_cuts() -> None:
    wide = scene(3, 2400, 1200)
    rng = np.random.default_rng(4)
    corners = zip(rng.integers(0, 400, 90), rng.integers(0, 300, 90), strict=True)
    images = [np.ascontiguousarray(wide[y : y + 360, x : x + 640]) for x, y in corners]
    detector, exceeding = SceneCutDetector(THRESHOLD), 0
    for last, image in itertools.pairwise(images):
        detector._last = thumbnail(last)
        exceeding += detector.difference(thumbnail(image)[2:-2, 4:-4]) > THRESHOLD
    assert exceeding > 40 and len(find_cuts(images)) <= 0.3 * exceeding


@pytest.mark.parametrize("seed", range(3))
def test_shaking_camera_is_not_a_cut(seed: int) -> None:
    wide, rng = scene(seed, 2400, 1200), np.random.default_rng(seed)
    corners = zip(rng.integers(0, 160, 60), rng.integers(0, 120, 60), strict=True)
    assert find_cuts([wide[y : y + 360, x : x + 640] for x, y in corners]) == []


@pytest.mark.parametrize("shape", [(1, 1), (20, 3000), (1080, 1920), (17, 31)])
def test_any_image_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert thumbnail(image).shape == (18, 32)
    assert find_cuts([image] * 3) == []


def test_fast() -> None:
    images = [scene(seed, 1920, 1080) for seed in (0, 0, 1)] * 40
    detector, spent = SceneCutDetector(THRESHOLD), []
    for i, image in enumerate(images):
        start = time.process_time()
        detector(image, i / FPS)
        spent.append(time.process_time() - start)
    assert float(np.median(spent)) < 0.001  # 0.05 ms on an idle core


def test_config_key() -> None:
    cfg = composed("tracking.scene_cut_threshold=null", entry="live")
    assert cfg["tracking"]["scene_cut_threshold"] is None
    with pytest.raises(UserError, match=r"tracking.scene_cut_threshold.*above 0 to 1"):
        composed("tracking.scene_cut_threshold=2", entry="live")
    for name in ("live", "predict", "bench"):
        assert composed(entry=name)["tracking"]["scene_cut_threshold"] == THRESHOLD


class _FixedDetector:
    """A detector with one face at a fixed position."""

    name = "fixed"

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.index = -1

    def __call__(self, image: np.ndarray) -> Detections:
        self.calls.append(self.index)
        return Detections(np.array([[200, 100, 120, 120]], np.float32), np.ones(1, np.float32))


class _BrightnessClassifier(ProbabilitiesOnly):
    """A classifier with class 0 for a dark corner of the face, else class 1."""

    classes = ("dark", "light")

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        light = [float(crop[:20, :20].mean() > 127) for crop in crops]
        return np.array([[0.95 - 0.9 * value, 0.05 + 0.9 * value] for value in light], np.float32)


@pytest.mark.parametrize("cut", [THRESHOLD, None])
def test_cut_starts_new_tracks(cut: float | None) -> None:
    """A cut gives a new id, an immediate detection and no smoothing across it."""
    first, second = scene(0), scene(1)
    first[90:230, 190:330], second[90:230, 190:330] = 20, 235
    detector = _FixedDetector()
    overrides = ("smoothing.tau_s=5", "smoothing.switch_evidence_s=5")
    smoothing = composed(*overrides, entry="live")["smoothing"]
    tracking = {"detect_every": 6, "detect_every_s": 9.0, "scene_cut_threshold": cut}
    pipeline = Pipeline(detector, _BrightnessClassifier(), smoothing, tracking)
    results = []
    for i, image in enumerate([first] * 8 + [second] * 8):
        detector.index = i
        results.append(pipeline(Frame(image, i, i / FPS, 0.0)).faces[0])
    assert [face.label for face in results[:8]] == [0] * 8
    if cut is None:
        assert {face.id for face in results} == {1} and results[8].label == 0
        assert detector.calls == [0, 6, 12]
    else:
        assert [face.id for face in results] == [1] * 8 + [2] * 8
        assert [face.label for face in results[8:]] == [1] * 8
        assert results[8].smoothed == pytest.approx(results[8].probabilities, abs=1e-6)
        assert detector.calls == [0, 6, 8, 14]
        assert list(pipeline._faces) == [2]
