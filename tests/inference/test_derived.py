"""Valence, arousal and intensity from class probabilities, against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.core.labels import COORDINATES, EMOTIONS
from emotion_lab.inference.derived import DerivedOutputs, FaceQuantities, VoteShares


def one_hot(name: str) -> np.ndarray:
    return np.eye(len(EMOTIONS))[EMOTIONS.index(name)]


def test_every_emotion_has_coordinates() -> None:
    assert set(COORDINATES) == set(EMOTIONS)
    assert np.abs(np.array(list(COORDINATES.values()))).max() <= 1


def test_a_certain_class_has_its_own_coordinates_and_no_spread() -> None:
    derived = DerivedOutputs(EMOTIONS)
    for name, (valence, arousal) in COORDINATES.items():
        values = derived(one_hot(name), None)
        assert (values["valence"], values["arousal"]) == pytest.approx((valence, arousal))
        assert (values["valence_std"], values["arousal_std"]) == (0, 0)


def test_expectation_and_spread_by_hand() -> None:
    half = (one_hot("happy") + one_hot("sad")) / 2
    values = DerivedOutputs(EMOTIONS)(half, EMOTIONS.index("happy"))
    assert values["valence"] == pytest.approx((0.81 - 0.63) / 2)
    assert values["valence_std"] == pytest.approx((0.81 + 0.63) / 2)
    assert values["arousal"] == pytest.approx((0.51 - 0.27) / 2)
    assert values["intensity"] is None  # there are no vote shares


def test_classes_are_found_by_their_synonyms() -> None:
    values = DerivedOutputs(["Happiness", "anger"])(np.array([1.0, 0.0]), 0)
    assert values["valence"] == 0.81


def test_a_class_without_coordinates_leaves_valence_empty() -> None:
    values = DerivedOutputs(["happy", "contempt"])(np.array([1.0, 0.0]), 0)
    assert set(values.values()) == {None}


def test_intensity_is_the_share_of_the_label() -> None:
    identity = VoteShares(np.eye(2), np.zeros(2))
    p = np.array([0.7, 0.3], np.float32)
    for label in (0, 1):
        assert DerivedOutputs(["a", "b"], identity)(p, label)["intensity"] == pytest.approx(
            p[label]
        )
    assert DerivedOutputs(["a", "b"], identity)(p, None)["intensity"] is None


def test_vote_shares_by_hand() -> None:
    shares = VoteShares(np.diag([2.0, 1.0]), np.array([0.0, np.log(2)]))
    values = shares(np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert values[0] == pytest.approx([0.25 / 1.25, 1 / 1.25])
    assert values.sum(1) == pytest.approx([1, 1]) and values[1, 0] > 0.99
    assert VoteShares.from_card(None) is None


def test_learned_values_replace_derived_ones() -> None:
    derived = DerivedOutputs(EMOTIONS)
    quantities = FaceQuantities(derived, ["arousal", "intensity"])
    p = one_hot("happy")
    values = quantities(p, None, np.array([0.25, 0.5], np.float32))
    assert quantities.source == {"valence": "derived", "arousal": "learned", "intensity": "learned"}
    assert values["valence"] == 0.81 and values["valence_std"] == 0
    assert values["arousal"] == 0.25 and values["arousal_std"] is None
    assert values["intensity"] == 0.5 and list(values) == list(derived(p, None))
    assert FaceQuantities(derived)(p, 3, np.zeros(0)) == derived(p, 3)
