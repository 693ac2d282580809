"""Synthetic persons: one head in all images, and a resting face that may look angry or sad."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from emotion_lab.synthetic.spec import ACTION_UNITS, FaceSpec, sample_face

#: Resting face -> strength of the action units that it adds to every expression.
RESTING: dict[str, dict[str, float]] = {
    "even": {},
    "angry": {"brow_lower": 0.6, "lid_tighten": 0.4, "lip_tighten": 0.55},
    "sad": {"brow_inner_raise": 0.5, "corner_depress": 0.6, "chin_raise": 0.3},
}
#: Parameters of a face that stay the same in all images of a person.
_IDENTITY = (
    *("face_width", "jaw", "eye_distance", "eye_size", "eye_slant", "iris"),
    *("nose_length", "nose_width", "lip_fullness", "mouth_width", "skin", "hair", "hair_style"),
    *("brow_thickness", "beard"),
)


@dataclass(frozen=True)
class Person:
    """A synthetic person.

    Attributes:
        head: Its identity; the other parameters are not used.
        resting: Name of its resting face, a key of :data:`RESTING`.
        offset: Action unit -> strength that is added to every expression.
    """

    head: FaceSpec
    resting: str
    offset: dict[str, float]


def sample_person(rng: np.random.Generator) -> Person:
    """Sample a person: every resting face is equally frequent, at 60 to 100 % of its strength."""
    head = sample_face(rng, "neutral", difficulty=0.0)
    resting = list(RESTING)[rng.integers(len(RESTING))]
    strength = float(rng.uniform(0.6, 1.0))
    return Person(head, resting, {name: strength * v for name, v in RESTING[resting].items()})


def sample_face_of(
    person: Person,
    rng: np.random.Generator,
    emotion: str,
    difficulty: float = 1.0,
    intensity: float | None = None,
) -> FaceSpec:
    """Sample a face of a person; the arguments are those of :func:`spec.sample_face`."""
    face = sample_face(rng, emotion, difficulty, intensity)
    units = {
        name: min(1.0, getattr(face, name) + person.offset.get(name, 0.0)) for name in ACTION_UNITS
    }
    return replace(face, **units, **{name: getattr(person.head, name) for name in _IDENTITY})
