"""Synthetic persons: a constant head, a resting face, and their data set."""

from __future__ import annotations

import numpy as np

from emotion_lab.config import compose
from emotion_lab.data.build import load_data
from emotion_lab.synthetic.persons import _IDENTITY, RESTING, sample_face_of, sample_person


def test_images_of_a_person_share_head_and_resting_face() -> None:
    rng = np.random.default_rng(0)
    persons = [sample_person(rng) for _ in range(30)]
    assert {person.resting for person in persons} == set(RESTING)
    person = next(person for person in persons if person.resting == "angry")
    faces = [sample_face_of(person, rng, emotion) for emotion in ("neutral", "happy", "sad")]
    for name in _IDENTITY:
        assert {getattr(face, name) for face in faces} == {getattr(person.head, name)}
    assert all(face.brow_lower >= person.offset["brow_lower"] for face in faces)
    assert faces[0].yaw != faces[1].yaw
    assert faces[1].corner_pull > 0.5 > faces[0].corner_pull


def test_persons_of_the_data_set_are_in_one_split_and_show_all_classes() -> None:
    cfg = compose.defaults("data", "synthetic") | {"n": 300, "persons": 10, "size": 16}
    train, val = (load_data(cfg, ("train", "val")).splits[name] for name in ("train", "val"))
    assert not set(train.groups) & set(val.groups)
    assert len(set(train.groups)) == 8
    neutral = {group for group, label in zip(train.groups, train.labels, strict=True) if label == 6}
    assert neutral == set(train.groups)
    without = load_data(cfg | {"persons": 0}, ("val",)).splits["val"]
    assert without.groups is None and np.array_equal(without.labels, val.labels)
