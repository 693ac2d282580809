"""The correction by neutral faces, and the choice of its strength."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from emotion_lab.core import checkpoint, weights
from emotion_lab.core.errors import UserError
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.experiments.neutral import average_face, lines, measure, store
from emotion_lab.inference import neutral
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.neutral import correct, log_probabilities, read_person, read_reference
from emotion_lab.neutral import validate
from tests.conftest import composed

CLASSES = ["angry", "happy", "neutral"]
AVERAGE = np.array([-0.5, -0.5, 1.0])


def people(rest: float, n: int = 20, images: int = 12) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return probabilities, labels and persons; half of the persons look angry at rest.

    Args:
        rest: Evidence for anger, in logits, that such a person adds to every image.
    """
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(images) % 3, n)
    persons = np.repeat(np.arange(n), images)
    logits = 2.0 * np.eye(3)[labels] + rng.normal(0, 0.5, (len(labels), 3))
    logits[:, 0] += rest * (persons % 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), labels, [f"p{person:02d}" for person in persons]


def test_full_strength_removes_an_offset() -> None:
    rng = np.random.default_rng(1)
    logits, offset = rng.normal(0, 1, (5, 3)), np.array([1.5, 0.0, -0.5])
    seen = np.exp(logits + offset)
    seen /= seen.sum(1, keepdims=True)
    face = AVERAGE + offset - offset.mean()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(correct(seen, face, AVERAGE, 1.0), expected, atol=1e-6)
    np.testing.assert_allclose(correct(seen, face, AVERAGE, 0.0), seen, atol=1e-6)
    np.testing.assert_allclose(correct(seen, AVERAGE, AVERAGE, 1.0), seen, atol=1e-6)


def test_certain_faces_stay_finite() -> None:
    values = log_probabilities(np.array([1.0, 0.0, 0.0]))
    assert np.isfinite(values).all() and values.sum() == pytest.approx(0)


def test_resting_faces_are_corrected() -> None:
    result = measure(*people(rest=2.5), CLASSES, num_enrolled=1)
    assert result["persons"] == 20 and result["n"] == 20 * 11
    assert result["difference"]["macro_f1_ci95"][0] > 0
    assert result["difference"]["macro_f1_verdict"] == "better"
    assert result["strength"] >= 0.5 and min(result["fold_strengths"]) >= 0.5
    text = "\n".join(map(str, lines(result)))
    assert "intervals over 20 persons" in text


def test_faces_that_are_alike_need_little_correction() -> None:
    result = measure(*people(rest=0.0), CLASSES, num_enrolled=1)
    assert result["strength"] <= 0.5
    assert result["difference"]["macro_f1_verdict"] == "not distinguishable"


def test_enrolled_images_are_not_scored() -> None:
    probabilities, labels, persons = people(rest=1.0)
    result = measure(probabilities, labels, persons, CLASSES, num_enrolled=2)
    assert result["n"] == 20 * 10
    average = np.array(result["average"])
    chosen = np.concatenate(
        [np.flatnonzero((np.array(persons) == p) & (labels == 2))[:2] for p in sorted(set(persons))]
    )
    expected = log_probabilities(probabilities[chosen]).mean(0)
    np.testing.assert_allclose(average, expected, atol=1e-9)


def test_the_strength_is_not_chosen_on_test() -> None:
    cfg = OmegaConf.create(composed("split=test", entry="neutral"))
    with pytest.raises(UserError, match="split=test: the strength is chosen on these images"):
        validate(cfg, [])


def test_persons_without_neutral_image_are_one_line() -> None:
    probabilities, labels, persons = people(rest=1.0)
    labels[(np.array(persons) == "p03") & (labels == 2)] = 0
    with pytest.raises(UserError, match=r"'p03' \(data.group\) has no neutral image"):
        measure(probabilities, labels, persons, CLASSES, num_enrolled=1)
    with pytest.raises(UserError, match="9 persons are too few: 10 or more"):
        measure(*people(rest=1.0, n=9), CLASSES, num_enrolled=1)


@pytest.mark.parametrize("kind", ["neutral reference", "neutral face"])
def test_files_of_another_model_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "neutral.json"
    neutral.write(path, kind, "abc", CLASSES, AVERAGE, strength=0.7)
    read = read_reference if kind == "neutral reference" else read_person
    found = read(path, "abc", CLASSES)
    if kind == "neutral reference":
        assert found.strength == 0.7
        np.testing.assert_array_equal(read(tmp_path, "abc", CLASSES).average, AVERAGE)
    else:
        np.testing.assert_array_equal(found, AVERAGE)
    other = read_person if kind == "neutral reference" else read_reference
    for arguments, message in (
        (("abd", CLASSES), "of another model"),
        (("abc", CLASSES[::-1]), "this one has neutral, happy, angry, in this order"),
    ):
        with pytest.raises(UserError, match=message):
            read(path, *arguments)
    with pytest.raises(UserError, match=r"is no neutral (face|reference) of this version"):
        other(path, "abc", CLASSES)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"neutral": [0.0]}))
    with pytest.raises(UserError, match="does not hold 3 numbers"):
        read(path, "abc", CLASSES)
    path.write_text("{")
    with pytest.raises(UserError, match="is no neutral"):
        read(path, "abc", CLASSES)


@pytest.mark.parametrize("name", weights.MODELS)
def test_shipped_models_hold_the_average_neutral_face(name: str) -> None:
    classifier = load_classifier(name, "onnx")
    assert classifier.neutral is not None
    assert classifier.classes[int(classifier.neutral.average.argmax())] == "neutral"
    assert classifier.neutral.average.sum() == pytest.approx(0, abs=1e-4)
    assert classifier.neutral.model == classifier.model_id
    assert 0 < classifier.neutral.strength <= 1


def test_both_files_of_fer2013_hold_the_same_average() -> None:
    card = checkpoint.read(weights.find("fer2013", ".ckpt"))[checkpoint.CARD]
    exported = load_classifier("fer2013", "onnx").neutral
    assert exported is not None and card["neutral"]["strength"] == exported.strength
    np.testing.assert_allclose(card["neutral"]["average"], exported.average, atol=1e-3)


@pytest.mark.parametrize("suffix", [".onnx", ".ckpt"])
def test_the_average_is_saved_in_a_file(suffix: str, tmp_path: Path) -> None:
    name = "fer2013-small" if suffix == ".onnx" else "fer2013"
    path = Path(shutil.copy(weights.find(name, suffix), tmp_path / f"model{suffix}"))
    assert store(str(path), {"average": [0.5] * 7, "strength": 0.4, "n": 3}, "val") == path
    neutral_reference = load_classifier(path, "onnx" if suffix == ".onnx" else "torch").neutral
    assert neutral_reference is not None and neutral_reference.strength == 0.4
    np.testing.assert_array_equal(neutral_reference.average, np.full(7, 0.5))


class TwoLevels:
    """Bright images are neutral."""

    classes = CLASSES

    def __call__(self, images: list[np.ndarray]) -> np.ndarray:
        return np.array([[0.1, 0.1, 0.8] if i.max() else [0.8, 0.1, 0.1] for i in images])


def test_the_average_of_images_without_persons() -> None:
    images = np.zeros((6, 2, 2, 1), np.uint8)
    images[:3] = 255
    labels = np.array([2, 2, 0, 1, 2, 0])
    part = Split(ArrayStore(images), np.arange(6), labels, [str(i) for i in range(6)])
    result = average_face(part, labels, TwoLevels(), 0.3)
    expected = log_probabilities(np.array([[0.1, 0.1, 0.8]] * 2 + [[0.8, 0.1, 0.1]])).mean(0)
    np.testing.assert_allclose(result["average"], expected)
    assert lines(result) == ["average of 3 neutral images; strength 0.3"]
    with pytest.raises(UserError, match="no neutral image"):
        average_face(part, np.zeros(6, int), TwoLevels(), 0.3)


def test_a_shipped_model_is_not_overwritten() -> None:
    cfg = OmegaConf.create(composed("save_in_ckpt=true", "strength=0.5", entry="neutral"))
    with pytest.raises(UserError, match=r"writes into a checkpoint or an \.onnx file, which"):
        validate(cfg, [])
