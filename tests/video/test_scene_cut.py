"""Cuts: found where another scene begins, and not in motion, light or noise."""

from __future__ import annotations

import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from emotion_lab.config.compose import CONF
from emotion_lab.core.errors import UserError
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.scene_cut import SceneCutDetector, thumbnail
from emotion_lab.video.types import Detections, Frame
from tests.conftest import composed

FPS = 30
THRESHOLD = composed(entry="live")["tracking"]["scene_cut_threshold"]


def scene(seed: int, width: int = 640, height: int = 360) -> np.ndarray:
    """Return uint8 (height, width, 3): a smooth background and some things in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 180, (4, 6, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        cv2.circle(image, (x, y), int(rng.integers(10, 60)), colour, -1)
    return image


def fires(images: list[np.ndarray], threshold: float | None = THRESHOLD) -> list[int]:
    """Return the indices of the frames at which a cut is found."""
    cuts = SceneCutDetector(threshold)
    return [i for i, image in enumerate(images) if cuts(image, i / FPS)]


@pytest.mark.parametrize("seed", range(8))
def test_a_hard_cut_is_found_at_its_frame(seed: int) -> None:
    images = [scene(seed)] * 5 + [scene(100 + seed)] * 5 + [scene(seed)] * 5
    assert fires(images) == [5, 10]
    assert fires(images, None) == []


@pytest.mark.parametrize("seed", range(4))
def test_light_is_no_cut(seed: int) -> None:
    image = scene(seed)
    exposures = [1, 1, 1.5, 1.5, 0.6, 0.6, 2.0, 1]
    assert fires([np.clip(image * g, 0, 255).astype(np.uint8) for g in exposures]) == []
    # A flash that leaves nothing, and a fade to black and back.
    assert fires([image, image, np.full_like(image, 255), image, image]) == []
    fade = [(image * g).astype(np.uint8) for g in (1, 0.7, 0.4, 0.1, 0, 0, 0.2, 0.6, 1)]
    assert fires(fade) == []
    # What comes after black is compared with what was before it.
    assert fires([image, image * 0, image * 0, scene(50 + seed)]) == [3]


@pytest.mark.parametrize("seed", range(4))
def test_motion_and_noise_are_no_cut(seed: int) -> None:
    wide = scene(seed, width=1920)
    for step in (6, 30, 60):  # up to a tenth of the picture from frame to frame
        pan = [wide[:, x : x + 640] for x in range(0, 1280, step)]
        assert len(pan) > 20 and fires(pan) == []
    rng = np.random.default_rng(seed)
    image = wide[:, :640].astype(np.float64)
    noisy = [(image + rng.normal(0, 40, image.shape)).clip(0, 255) for _ in range(20)]
    assert fires([frame.astype(np.uint8) for frame in noisy]) == []


def test_where_everything_moves_a_cut_must_stand_out() -> None:
    """A camera that is thrown about is not one cut after another."""
    wide = scene(3, 2400, 1200)
    rng = np.random.default_rng(4)
    corners = zip(rng.integers(0, 400, 90), rng.integers(0, 300, 90), strict=True)
    images = [np.ascontiguousarray(wide[y : y + 360, x : x + 640]) for x, y in corners]
    cuts = SceneCutDetector(THRESHOLD)
    loud = sum(cuts.difference(thumbnail(b)[2:-2, 4:-4]) > THRESHOLD for b in _each(cuts, images))
    found = fires(images)
    print(f"{loud} of {len(images)} frames are unlike the last, {len(found)} taken for a cut")
    assert loud > 40 and len(found) <= 0.3 * loud


@pytest.mark.parametrize("seed", range(3))
def test_a_shaken_camera_is_no_cut(seed: int) -> None:
    wide, rng = scene(seed, 2400, 1200), np.random.default_rng(seed)
    corners = zip(rng.integers(0, 160, 60), rng.integers(0, 120, 60), strict=True)
    assert fires([wide[y : y + 360, x : x + 640] for x, y in corners]) == []


def _each(cuts: SceneCutDetector, images: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield every frame but the first while ``cuts`` knows the one before it."""
    for last, image in zip(images, images[1:], strict=False):
        cuts._last = thumbnail(last)
        yield image


@pytest.mark.parametrize("shape", [(1, 1), (20, 3000), (1080, 1920), (17, 31)])
def test_any_size(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert thumbnail(image).shape == (18, 32)
    assert fires([image] * 3) == []


def test_cheap() -> None:
    images = [scene(seed, 1920, 1080) for seed in (0, 0, 1)] * 40
    cuts, spent = SceneCutDetector(THRESHOLD), []
    for i, image in enumerate(images):
        began = time.process_time()
        cuts(image, i / FPS)
        spent.append(time.process_time() - began)
    print(f"{1000 * float(np.median(spent)):.3f} ms")
    assert float(np.median(spent)) < 0.001  # 0.05 ms on a free core; a busy one must not fail


def test_the_key_has_a_rule() -> None:
    assert composed("tracking.scene_cut_threshold=null", entry="live")["tracking"]["scene_cut_threshold"] is None
    with pytest.raises(UserError, match=r"tracking.scene_cut_threshold.*above 0 to 1"):
        composed("tracking.scene_cut_threshold=2", entry="live")
    for name in ("live", "predict", "bench"):
        assert f"cut: {THRESHOLD}" in (CONF / f"{name}.yaml").read_text(encoding="utf-8")


class _Face:
    """A detector with one face, always at the same place."""

    name = "given"

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.index = -1

    def __call__(self, image: np.ndarray) -> Detections:
        self.looked.append(self.index)
        return Detections(np.array([[200, 100, 120, 120]], np.float32), np.ones(1, np.float32))


class _Two:
    """A classifier that is sure of class 0 where the corner of the face is dark, else of 1."""

    classes = ["dark", "light"]
    crop_margin = 0.0

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        light = [float(crop[:20, :20].mean() > 127) for crop in crops]
        return np.array([[0.95 - 0.9 * value, 0.05 + 0.9 * value] for value in light], np.float32)


@pytest.mark.parametrize("cut", [THRESHOLD, None])
def test_behind_a_cut_is_another_face(cut: float | None) -> None:
    """The same place, another scene: a new id, a look at once, nothing carried over."""
    one, other = scene(0), scene(1)
    one[90:230, 190:330], other[90:230, 190:330] = 20, 235
    detector = _Face()
    smoothing = composed("smoothing.tau_s=5", "smoothing.switch_evidence_s=5", entry="live")["smoothing"]
    tracking = {"detect_every": 6, "detect_every_s": 9.0, "scene_cut_threshold": cut}
    pipeline = Pipeline(detector, _Two(), smoothing, tracking)
    results = []
    for i, image in enumerate([one] * 8 + [other] * 8):
        detector.index = i
        results.append(pipeline(Frame(image, i, i / FPS, 0.0)).faces[0])
    assert [face.label for face in results[:8]] == [0] * 8
    if cut is None:
        assert {face.id for face in results} == {1} and results[8].label == 0
        assert detector.looked == [0, 6, 12]
    else:
        assert [face.id for face in results] == [1] * 8 + [2] * 8
        assert [face.label for face in results[8:]] == [1] * 8
        assert results[8].smoothed == pytest.approx(results[8].probabilities, abs=1e-6)
        assert detector.looked == [0, 6, 8, 14]
        assert list(pipeline._memory) == [2]
