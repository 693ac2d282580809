"""The correction by neutral faces, and the choice of its strength."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from emotion_lab.core.errors import UserError
from emotion_lab.experiments.neutral import lines, measure
from emotion_lab.inference import neutral
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
