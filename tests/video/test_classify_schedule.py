"""When a face is classified again."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emotion_lab.video.classify_schedule import ClassifySchedule, CropComparison, small_picture
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.smoothing import TrackSmoother
from emotion_lab.video.types import Frame, FrameResult
from tests.conftest import composed
from tests.video.test_pipeline import Box, BrightnessClassifier, FakeDetector

CLEAR = np.array([0.1, 0.9], np.float32)
BOX = np.array([10, 10, 80, 80], np.float32)


def face_picture(mouth: int = 4, shift: float = 0.0, angle: float = 0.0) -> np.ndarray:
    """Return an 80 x 80 RGB face of smooth shapes whose mouth has a height of 2 * ``mouth``."""
    image = np.full((320, 320), 60, np.uint8)
    cv2.ellipse(image, (160, 160), (110, 140), 0, 0, 360, 190, -1)
    for x in (115, 205):
        cv2.ellipse(image, (x, 120), (22, 12), 0, 0, 360, 30, -1)
    cv2.ellipse(image, (160, 225), (45, 4 * mouth), 0, 0, 360, 40, -1)
    move = cv2.getRotationMatrix2D((160, 160), angle, 1.0)
    move[:, 2] += 4 * shift
    image = cv2.warpAffine(image, move, (320, 320), borderMode=cv2.BORDER_REPLICATE)
    small = cv2.resize(image, (80, 80), interpolation=cv2.INTER_AREA)
    return np.repeat(small[:, :, None], 3, axis=2)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return CropComparison(small_picture(a)).difference(small_picture(b))


def test_an_opened_mouth_differs_and_movement_and_light_do_not() -> None:
    face = face_picture()
    darker = (0.7 * face + 10).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 5, face.shape)
    noisy = np.clip(face + noise, 0, 255).astype(np.uint8)
    for other in (face, darker, noisy, face_picture(shift=0.5), face_picture(angle=1.5)):
        assert difference(face, other) < 0.3
    assert difference(face, face_picture(mouth=10)) > 0.6
    assert difference(face, 255 - face) == np.inf


def smoother(values: np.ndarray = CLEAR, last: np.ndarray | None = None) -> TrackSmoother:
    """Return a smoother that got ``values`` for a second, then ``last``."""
    result = TrackSmoother(composed("smoothing=ema", entry="live")["smoothing"], len(values))
    for step in range(30):
        result.update(values, step / 30)
    if last is not None:
        result.update(last, 1.1)
    return result


def is_due(
    schedule: ClassifySchedule,
    time_s: float = 0.1,
    moved: tuple[int, ...] = (0, 0, 0, 0),
    crop: np.ndarray | None = None,
    smoothed: TrackSmoother | None = None,
) -> bool:
    first, last = schedule.pictures([face_picture(), face_picture() if crop is None else crop])
    look = schedule.look(0.0, BOX, first, CLEAR, np.zeros(0))
    return schedule.is_due(look, smoothed or smoother(), time_s, BOX + moved, last)


def test_a_face_is_classified_when_it_changed_or_is_not_certain() -> None:
    schedule = ClassifySchedule({"when": "auto", "max_age_s": 0.5})
    assert not is_due(schedule)
    assert not is_due(schedule, time_s=0.49) and is_due(schedule, time_s=0.5)
    assert not is_due(schedule, moved=(8, 0, 0, 0))
    assert is_due(schedule, moved=(30, 0, 0, 0)) and is_due(schedule, moved=(0, 0, 30, 0))
    assert is_due(schedule, crop=face_picture(mouth=10))
    uncertain = np.full(7, 1 / 7, np.float32)
    assert is_due(schedule, smoothed=smoother(uncertain))
    assert is_due(schedule, smoothed=smoother(CLEAR, last=CLEAR[::-1]))
    assert is_due(ClassifySchedule({"when": "always"})) and is_due(ClassifySchedule())


def test_a_small_lead_accepts_small_differences_only() -> None:
    schedule, slightly = ClassifySchedule({"when": "auto"}), face_picture(shift=0.5)
    assert 0.1 < difference(face_picture(), slightly) < 0.4
    close = np.array([0.47, 0.53], np.float32)
    assert not is_due(schedule, crop=slightly)
    assert is_due(schedule, crop=slightly, smoothed=smoother(close))
    assert not is_due(schedule, smoothed=smoother(close))


def run(
    when: str, greys: list[int], faces: int = 1
) -> tuple[list[FrameResult], BrightnessClassifier]:
    """Run 10 frames a second of textured faces whose brightness is that of ``greys``."""
    boxes: list[list[Box]] = [[(10 + 100 * k, 10, 80, 80) for k in range(faces)]] * len(greys)
    classifier = BrightnessClassifier()
    pipeline = Pipeline(
        FakeDetector(boxes),
        classifier,
        composed("smoothing=ema", entry="live")["smoothing"],
        {"detect_every": 1, "scene_cut_threshold": None},
        classify={"when": when, "max_age_s": 0.5},
    )
    frames = []
    for index, grey in enumerate(greys):
        image = np.full((100, 100 * faces + 10, 3), grey, np.uint8)
        image[40:60, 30:60] = 255 - grey  # in the first face
        frames.append(Frame(image, index, index / 10, 0.0))
    return [pipeline(frame) for frame in frames], classifier


def test_a_still_face_keeps_its_probabilities_until_it_is_too_old() -> None:
    results, classifier = run("auto", [230] * 12)
    looks = [result.faces[0].classified for result in results]
    assert looks == [True, *[False] * 4] * 2 + [True, False]
    assert classifier.batch_sizes == [1] * 3
    always, _ = run("always", [230] * 12)
    for result, reference in zip(results, always, strict=True):
        assert result.faces[0].smoothed == pytest.approx(reference.faces[0].smoothed, abs=1e-6)
        assert result.faces[0].label == reference.faces[0].label


def test_a_change_is_followed_as_early_as_with_always() -> None:
    greys = [230] * 8 + [20] * 10
    auto, always = (run(when, greys)[0] for when in ("auto", "always"))
    assert [r.faces[0].label for r in auto] == [r.faces[0].label for r in always]
    assert auto[8].faces[0].classified and auto[-1].faces[0].label == 0


def test_only_the_face_that_changed_is_classified() -> None:
    results, classifier = run("auto", [230] * 3, faces=2)
    assert classifier.batch_sizes == [2] and not any(f.classified for f in results[1].faces)
    assert [len(result.faces) for result in results] == [2, 2, 2]
