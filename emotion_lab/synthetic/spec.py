"""Parametric faces: action units, identity, pose and lighting; sampling and blending.

The expressions follow the Facial Action Coding System (Ekman & Friesen 1978): a face is a set of
action units (AU), and each basic emotion is a prototype of AUs ("EMFACS"). `render` draws a spec.

At difficulty 1, pose and framing vary so that a linear model on raw pixels has an accuracy of about
50 %, while the expressions are still recognisable (intensity 0.7 and above).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class FaceSpec:
    """All parameters of a synthetic face; equal specs give equal images.

    Lengths are in face units (half the height of the head), angles in radians, colours RGB 0..255,
    action units 0 (absent) to 1 (maximal).
    """

    # Action units with their number in the Facial Action Coding System.
    brow_inner_raise: float = 0.0  # AU1
    brow_outer_raise: float = 0.0  # AU2
    brow_lower: float = 0.0  # AU4
    lid_raise: float = 0.0  # AU5
    cheek_raise: float = 0.0  # AU6
    lid_tighten: float = 0.0  # AU7
    nose_wrinkle: float = 0.0  # AU9
    upper_lip_raise: float = 0.0  # AU10
    corner_pull: float = 0.0  # AU12
    corner_depress: float = 0.0  # AU15
    chin_raise: float = 0.0  # AU17
    lip_stretch: float = 0.0  # AU20
    lip_tighten: float = 0.0  # AU23
    lips_part: float = 0.0  # AU25
    jaw_drop: float = 0.0  # AU26
    eye_closure: float = 0.0  # AU43
    # Identity.
    face_width: float = 0.76
    jaw: float = 0.5  # 0 square .. 1 pointed
    eye_distance: float = 0.34
    eye_size: float = 1.0
    eye_slant: float = 0.0
    iris: Colour = (80, 55, 35)
    nose_length: float = 1.0
    nose_width: float = 1.0
    lip_fullness: float = 1.0
    mouth_width: float = 1.0
    skin: Colour = (225, 180, 150)
    hair: Colour = (60, 40, 30)
    hair_style: str = "short"  # bald | short | side | fringe | long | curly
    brow_thickness: float = 1.0
    beard: float = 0.0  # 0 none .. 1 dark stubble
    clothes: Colour = (70, 90, 120)
    # Pose.
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0  # 1: the height of the head is 0.9 of the shorter image side
    shift_x: float = 0.0  # relative to the shorter image side
    shift_y: float = 0.0
    gaze: float = 0.0  # -1 .. 1
    # Light and camera.
    light_x: float = 0.0  # relative change of brightness from the centre to the border
    light_y: float = 0.0
    gain: float = 1.0
    contrast: float = 1.0
    blur: float = 0.0  # Gaussian sigma in pixels of a 48-pixel image
    noise: float = 0.0  # standard deviation in grey levels
    noise_seed: int = 0
    # Surroundings.
    glasses: bool = False
    occlusion: str = "none"  # none | hand | hair | scarf | block
    occlusion_x: float = 0.0
    occlusion_y: float = 0.0
    occlusion_size: float = 0.3
    occlusion_colour: Colour = (120, 120, 120)
    background: str = "cloud"  # plain | cloud | shapes
    background_seed: int = 0


#: Names of the action units, in AU order.
ACTION_UNITS: tuple[str, ...] = tuple(FaceSpec.__dataclass_fields__)[:16]

#: Emotion -> strength of its AUs at intensity 1, after Ekman & Friesen.
PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {"brow_lower": 1.0, "lid_raise": 0.45, "lid_tighten": 0.7, "lip_tighten": 1.0},
    "disgust": {
        **{"nose_wrinkle": 1.0, "upper_lip_raise": 0.95, "corner_depress": 0.55},
        **{"brow_lower": 0.45, "lid_tighten": 0.8, "cheek_raise": 0.4, "lips_part": 0.3},
    },
    "fear": {
        **{"brow_inner_raise": 0.95, "brow_outer_raise": 0.35, "brow_lower": 0.45},
        **{"lid_raise": 0.95, "lip_stretch": 1.0, "lips_part": 0.9},
    },
    "happy": {"cheek_raise": 0.9, "corner_pull": 1.0, "lips_part": 0.6},
    "sad": {
        **{"brow_inner_raise": 0.9, "brow_lower": 0.35, "corner_depress": 1.0},
        **{"chin_raise": 0.6, "eye_closure": 0.3},
    },
    "surprise": {
        **{"brow_inner_raise": 0.9, "brow_outer_raise": 0.95, "lid_raise": 0.8},
        **{"jaw_drop": 1.0, "lips_part": 0.3},
    },
    "neutral": {},
}

_SKINS = np.array([(250, 218, 194), (224, 172, 136), (176, 122, 88), (122, 80, 60)], float)
_HAIRS = np.array([(28, 22, 20), (70, 44, 28), (150, 104, 56), (216, 184, 120), (176, 172, 168)])
_IRISES = ((70, 45, 25), (60, 95, 130), (70, 100, 60), (40, 30, 25))
_HAIR_STYLES = ("bald", "short", "side", "fringe", "long", "curly")


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = np.clip(values, 0, 255).tolist()
    return red, green, blue


def _sample_action_units(
    rng: np.random.Generator, emotion: str, difficulty: float, intensity: float | None
) -> dict[str, float]:
    """Sample the strength of each action unit."""
    u = rng.uniform
    if intensity is None:
        intensity = u(max(0.3, 0.92 - 0.22 * difficulty), 1.0)
    prototype = PROTOTYPES[emotion]
    jitter = rng.normal(0.0, 0.045 * difficulty, len(ACTION_UNITS))
    factors = u(1 - 0.15 * difficulty, 1 + 0.1 * difficulty, len(ACTION_UNITS))
    units = {
        name: float(np.clip(prototype.get(name, 0.0) * intensity * factor + offset, 0.0, 1.0))
        for name, factor, offset in zip(ACTION_UNITS, factors, jitter, strict=True)
    }
    # Variants of an expression: a smile with closed lips, anger with visible teeth.
    if emotion == "happy" and u() < 0.3:
        units["lips_part"] *= 0.1
    if emotion == "angry" and u() < 0.2:
        units["lips_part"], units["lip_tighten"] = 0.5 * intensity, 0.5 * intensity
    return units


def _sample_skin(rng: np.random.Generator) -> np.ndarray:
    """Sample a skin colour, RGB, between two neighbouring tones."""
    tone = rng.uniform(0, len(_SKINS) - 1.001)
    low = int(tone)
    return _SKINS[low] + (tone - low) * (_SKINS[low + 1] - _SKINS[low]) + rng.normal(0, 5, 3)


def sample_face(
    rng: np.random.Generator, emotion: str, difficulty: float = 1.0, intensity: float | None = None
) -> FaceSpec:
    """Sample a face with an emotion.

    Args:
        difficulty: Variation of pose, framing, lighting, noise and occlusion, and weakness of the
            expression: 0 for clean frontal faces, 1 is the default of the dataset, 2 is twice that.
        intensity: Strength of the expression 0..1; None samples it.
    """
    d = float(difficulty)
    u = rng.uniform
    units = _sample_action_units(rng, emotion, d, intensity)
    skin = _sample_skin(rng)
    hair = _HAIRS[rng.integers(len(_HAIRS))] * u(0.75, 1.15)
    occluded = u() < 0.16 * d
    return FaceSpec(
        **units,
        face_width=u(0.68, 0.82),
        jaw=u(0.1, 1.0),
        eye_distance=u(0.31, 0.37),
        eye_size=u(0.9, 1.15),
        eye_slant=u(-0.15, 0.15),
        iris=_IRISES[rng.integers(len(_IRISES))],
        nose_length=u(0.85, 1.15),
        nose_width=u(0.8, 1.25),
        lip_fullness=u(0.7, 1.3),
        mouth_width=u(0.88, 1.12),
        skin=_colour(skin),
        hair=_colour(hair),
        hair_style=_HAIR_STYLES[rng.integers(len(_HAIR_STYLES))],
        brow_thickness=u(0.8, 1.4),
        beard=u(0.3, 0.9) if u() < 0.2 else 0.0,
        clothes=_colour(u(20, 235, 3)),
        yaw=u(-0.42, 0.42) * d,
        pitch=u(-0.2, 0.2) * d,
        roll=u(-0.2, 0.2) * d,
        scale=1.0 + u(-0.12, 0.1) * d,
        shift_x=u(-0.045, 0.045) * d,
        shift_y=u(-0.045, 0.045) * d,
        gaze=u(-0.6, 0.6) * min(d, 1.0),
        light_x=u(-0.45, 0.45) * d,
        light_y=u(-0.35, 0.35) * d,
        gain=1.0 + u(-0.3, 0.25) * d,
        contrast=1.0 + u(-0.3, 0.2) * d,
        blur=max(0.0, u(-0.4, 0.7)) * d,
        noise=u(1.0, 8.0) * d,
        noise_seed=int(rng.integers(2**31)),
        glasses=bool(u() < 0.15 * d),
        occlusion=("hand", "hair", "scarf", "block")[rng.integers(4)] if occluded else "none",
        occlusion_x=u(-0.8, 0.8),
        occlusion_y=u(-0.6, 0.8),
        occlusion_size=u(0.16, 0.3),
        occlusion_colour=_colour(u(10, 245, 3)),
        background="plain" if u() > 0.2 + 0.7 * d else ("cloud", "shapes")[rng.integers(2)],
        background_seed=int(rng.integers(2**31)),
    )


def blend(spec_a: FaceSpec, spec_b: FaceSpec, t: float) -> FaceSpec:
    """Interpolate the action units from ``spec_a`` (``t`` = 0) to ``spec_b`` (``t`` = 1).

    All other parameters are those of ``spec_a``.
    """
    return replace(
        spec_a, **{n: (1 - t) * getattr(spec_a, n) + t * getattr(spec_b, n) for n in ACTION_UNITS}
    )
