"""Neutral baseline in the pipeline: per track, over three seconds, and from a photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.inference import neutral
from emotion_lab.inference.neutral import NeutralReference, log_probabilities, read_person
from emotion_lab.video.enrolment import ENROL_S, Enrolment, neutral_face
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.types import Detections
from tests.conftest import composed
from tests.helpers_web import GreyFrames
from tests.video.test_pipeline import FACE, BrightnessClassifier, grey_frames, make_pipeline

#: The average neutral face is as dark as light.
CLASSES = ["dark", "light"]
REFERENCE = NeutralReference(CLASSES, "abc", np.zeros(2), 1.0)
#: A second person, of another brightness, in the same frame.
OTHER = (70.0, 10.0, 30.0, 30.0)


def enrolled_pipeline(boxes: list, save: Path | None = None) -> Pipeline:
    pipeline = make_pipeline(boxes, "smoothing=none")
    pipeline.enrolment = Enrolment(REFERENCE, save=save)
    return pipeline


def test_a_track_is_relative_to_its_neutral_face(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = tmp_path / "me.json"
    pipeline = enrolled_pipeline([FACE] * 80, save)
    frames = grey_frames([191] * 80)
    before = pipeline(frames[0]).faces[0].probabilities
    assert before[1] == pytest.approx(0.749, abs=1e-3)
    pipeline.enrol()
    results = [pipeline(frame) for frame in frames[1:]]
    first = next(i for i, result in enumerate(results) if result.faces[0].probabilities[1] < 0.7)
    assert results[first].time_s - results[0].time_s == pytest.approx(ENROL_S)
    assert results[first].faces[0].probabilities[1] == pytest.approx(0.5, abs=1e-3)
    assert "enrolled face 1 (30 frames)" in capsys.readouterr().err
    np.testing.assert_allclose(
        read_person(save, "abc", REFERENCE.classes), log_probabilities(before), atol=1e-5
    )


def test_everyone_has_a_neutral_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = enrolled_pipeline([[FACE[0], OTHER]] * 60, tmp_path / "me.json")
    frames = grey_frames([191] * 60)
    for frame in frames:
        frame.image[:, 60:] = 64
    pipeline.enrol()
    results = [pipeline(frame) for frame in frames]
    for face in results[-1].faces:
        assert face.probabilities[1] == pytest.approx(0.5, abs=1e-3)
    assert "not saved, because several faces were seen" in capsys.readouterr().err
    assert not (tmp_path / "me.json").exists()


def test_a_person_of_a_file_holds_for_all_tracks() -> None:
    person = log_probabilities(np.array([0.25, 0.75]))
    pipeline = make_pipeline([FACE] * 2, "smoothing=none")
    pipeline.enrolment = Enrolment(REFERENCE, person)
    face = pipeline(grey_frames([191])[0]).faces[0]
    assert face.smoothed[1] == pytest.approx(0.5, abs=2e-3)
    assert pipeline.clone(stills=True).enrolment.person is person


class FixedDetector:
    """Finds a face in every image."""

    name = "fixed"

    def __call__(self, image: np.ndarray) -> Detections:
        return Detections(np.array(FACE, np.float32), np.ones(1, np.float32))


def test_python_api_enrols_a_photo_or_a_saved_face(tmp_path: Path) -> None:
    classifier = BrightnessClassifier()
    classifier.model_id, classifier.data_name = "abc", None
    smoothing = composed("smoothing=none", entry="live")["smoothing"]
    neutral.write(
        tmp_path / "neutral.json",
        "neutral reference",
        "abc",
        classifier.classes,
        [0, 0],
        strength=1,
    )
    image, save = grey_frames([191])[0].image, tmp_path / "me.json"
    for source in (image, save):
        model = EmotionRecognizer(classifier, FixedDetector(), smoothing)
        assert model(image)[0].probabilities["light"] == pytest.approx(0.749, abs=1e-3)
        model.enrol(source, tmp_path, None if source is save else save)
        assert model(image)[0].probabilities["light"] == pytest.approx(0.5, abs=1e-3)
        assert model.pipeline(stills=False)(grey_frames([191])[0]).faces[0].smoothed[1] < 0.51
    with pytest.raises(UserError, match="got float32"):
        model.enrol(image.astype(np.float32), tmp_path)
    assert model(image)[0].probabilities["light"] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(UserError, match="of another model"):
        classifier.model_id = "abd"
        model.enrol(save, tmp_path)


def test_a_model_that_holds_the_average_needs_no_reference() -> None:
    classifier = BrightnessClassifier()
    classifier.model_id, classifier.data_name, classifier.neutral = "abc", None, REFERENCE
    smoothing = composed("smoothing=none", entry="live")["smoothing"]
    model = EmotionRecognizer(classifier, FixedDetector(), smoothing)
    frames = grey_frames([191] * 40)
    assert model(frames[0].image)[0].probabilities["light"] == pytest.approx(0.749, abs=1e-3)
    pipeline = model.pipeline(stills=False)
    pipeline.enrol()
    assert [pipeline(f).faces[0].smoothed[1] for f in frames][-1] == pytest.approx(0.5, abs=1e-3)
    model.enrol(frames[0].image)
    assert model(frames[0].image)[0].probabilities["light"] == pytest.approx(0.5, abs=1e-3)


def test_a_temporal_model_is_better_without(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = enrolled_pipeline([FACE])
    pipeline.enrol()
    assert capsys.readouterr().err == ""
    pipeline.smoothing = {"name": "temporal"}
    pipeline.enrol()
    assert "smoothing=temporal was less accurate with a neutral base" in capsys.readouterr().err


def test_enrolment_needs_the_average_of_the_model() -> None:
    with pytest.raises(UserError, match="start with enrol_reference="):
        make_pipeline([FACE]).enrol()
    classifier = BrightnessClassifier()
    classifier.model_id, classifier.data_name = "abc", None
    smoothing = composed("smoothing=none", entry="live")["smoothing"]
    model = EmotionRecognizer(classifier, FixedDetector(), smoothing)
    with pytest.raises(UserError, match="start with enrol_reference="):
        model.enrol(grey_frames([191])[0].image)


def test_a_neutral_face_needs_exactly_one_face() -> None:
    face = np.array([0.3, 0.7])
    assert neutral_face([[face], [], [face]], "me.mp4") == pytest.approx(log_probabilities(face))
    with pytest.raises(UserError, match=r"enrol=me.jpg shows 2 faces: give a photo"):
        neutral_face([[face, face]], "me.jpg")
    with pytest.raises(UserError, match=r"enrol=me.mp4 shows 2 faces \(frame 1\)"):
        neutral_face([[face], [face, face]], "me.mp4")
    with pytest.raises(UserError, match=r"enrol=me.jpg shows no face"):
        neutral_face([[]], "me.jpg")


def test_an_enrolment_that_ends_early_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = tmp_path / "me.json"
    pipeline = enrolled_pipeline([FACE] * 8, save)
    pipeline.enrol()
    source = FrameSource(GreyFrames(8))
    PipelineRunner(source, pipeline, num_cores=1).run()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "neutral: not enrolled, the source ended before 3 s were seen (8 frames)"
    assert not save.exists()
    assert pipeline.enrolment is not None
    pipeline.enrolment.reset()
    assert capsys.readouterr().err == ""
