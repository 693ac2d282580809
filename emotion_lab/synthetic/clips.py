"""Synthetic clips of one face each: emotions that change over time, with the truth of every frame.

The faces are cut already, as the live pipeline cuts them: their position and size jitter like the
boxes of a detector. Beside the expression, a clip holds what misleads a network of single images: a
resting face that resembles an emotion, speech, blinks, hands in front of the face, turned heads,
motion blur and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import FaceSpec, blend, sample_face
from emotion_lab.synthetic.video import expression_at

#: Seconds that an expression lasts, and that a change to the next one takes.
_SEGMENT_S = (1.0, 4.0)
_TRANSITION_S = (0.2, 0.5)
#: Frames per second of a clip, and the deviation of a frame interval from its mean, as a fraction.
_FPS = (10.0, 25.0)
_JITTER = 0.2


@dataclass(frozen=True)
class SyntheticClip:
    """One clip.

    Attributes:
        images: uint8 (N, S, S, C).
        labels: int64 (N,), positions in ``EMOTIONS``; during a change the stronger emotion.
        times: Seconds since the first frame, float64 (N,), rising in irregular steps.
    """

    images: np.ndarray
    labels: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class _Wave:
    """A sum of sines with random phases: smooth motion between -1 and 1."""

    frequencies: np.ndarray
    phases: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator, slow_hz: float, fast_hz: float) -> _Wave:
        return cls(rng.uniform(slow_hz, fast_hz, 3), rng.uniform(0, 2 * math.pi, 3))

    def __call__(self, times: np.ndarray) -> np.ndarray:
        return np.sin(2 * math.pi * np.outer(times, self.frequencies) + self.phases).mean(1)


def _events(
    rng: np.random.Generator, seconds: float, rate_hz: float, length_s: tuple[float, float]
) -> list[tuple[float, float]]:
    """Sample (start, end) of events that occur ``rate_hz`` times a second."""
    starts = rng.uniform(0, seconds, rng.poisson(rate_hz * seconds))
    return [(start, start + rng.uniform(*length_s)) for start in starts]


def _during(events: list[tuple[float, float]], times: np.ndarray) -> np.ndarray:
    """Return the strength 0..1 of events at ``times``, with soft edges of 0.1 s."""
    edges = [np.clip(np.minimum(times - start, end - times) / 0.1, 0, 1) for start, end in events]
    return np.max(edges, axis=0, initial=0.0) if edges else np.zeros(len(times))


def _sample_times(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Sample irregular times with missing frames."""
    step = 1 / rng.uniform(*_FPS)
    times = np.cumsum(step * rng.uniform(1 - _JITTER, 1 + _JITTER, math.ceil(seconds / step)))
    times = times[rng.uniform(size=len(times)) > rng.uniform(0, 0.2)]
    return times - times[0]


def _sample_timeline(
    rng: np.random.Generator, seconds: float, first: str
) -> tuple[list[str], np.ndarray]:
    """Sample the emotions of a clip, never the same twice in a row, and their ends in seconds."""
    emotions, ends = [first], [float(rng.uniform(*_SEGMENT_S))]
    while ends[-1] < seconds:
        emotions.append(str(rng.choice([name for name in EMOTIONS if name != emotions[-1]])))
        ends.append(ends[-1] + float(rng.uniform(*_SEGMENT_S)))
    return emotions, np.array(ends)


def _sample_person(
    rng: np.random.Generator, difficulty: float
) -> tuple[FaceSpec, dict[str, FaceSpec]]:
    """Return a person with a neutral face, and for each emotion a face with its action units."""
    d = difficulty
    person = replace(sample_face(rng, "neutral", d), occlusion="none", yaw=0.0, pitch=0.0, roll=0.0)
    resting = blend(
        person, sample_face(rng, str(rng.choice(EMOTIONS)), 0.0), rng.uniform(0, 0.3) * d
    )
    faces = {"neutral": resting}
    for name in EMOTIONS:
        if name != "neutral":
            face = sample_face(rng, name, d, intensity=rng.uniform(1 - 0.4 * d, 1.0))
            faces[name] = blend(resting, face, 1 - 0.2 * d)
    return person, faces


def draw_clip(
    rng: np.random.Generator,
    emotion: str,
    seconds: float,
    size: int = 48,
    channels: int = 1,
    difficulty: float = 1.0,
) -> SyntheticClip:
    """Draw a clip of a new person.

    Args:
        rng: Random numbers of the person, the emotions and the motion.
        emotion: The first emotion.
        seconds: Length of the clip.
        size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        difficulty: Variation of the faces, see :func:`sample_face`, and rate of speech, blinks,
            hands and blur; 0 for clean faces.
    """
    d = difficulty
    person, faces = _sample_person(rng, d)
    times = _sample_times(rng, seconds)
    emotions, ends = _sample_timeline(rng, seconds, emotion)
    transition_s = rng.uniform(*_TRANSITION_S)
    yaw, pitch, roll, gaze, x, y, zoom = (_Wave.sample(rng, 0.1, 0.6)(times) for _ in range(7))
    box = rng.normal(0, 0.012 * d, (3, len(times)))
    speech = _during(_events(rng, seconds, 0.12 * d, (0.8, 2.5)), times)
    mouth = 0.5 + 0.5 * _Wave.sample(rng, 2.5, 5.0)(times)
    blink = _during(_events(rng, seconds, 0.25, (0.15, 0.3)), times)
    hand = _during(_events(rng, seconds, 0.08 * d, (0.4, 1.2)), times)
    blurred = _during(_events(rng, seconds, 0.15 * d, (0.2, 0.6)), times)
    kind, hand_y = str(rng.choice(["hand", "block"])), rng.uniform(-0.3, 0.7)
    images = np.empty((len(times), size, size, channels), np.uint8)
    labels = np.empty(len(times), np.int64)
    for i, time_s in enumerate(times):
        face, segment = expression_at(faces, emotions, ends, float(time_s), transition_s)
        labels[i] = EMOTIONS.index(emotions[segment])
        face = replace(
            face,
            jaw_drop=min(1.0, face.jaw_drop + 0.7 * speech[i] * mouth[i]),
            lips_part=max(face.lips_part, 0.8 * speech[i] * mouth[i]),
            eye_closure=max(face.eye_closure, blink[i]),
            yaw=0.45 * d * yaw[i],
            pitch=0.2 * d * pitch[i],
            roll=0.2 * d * roll[i],
            gaze=0.6 * gaze[i],
            shift_x=person.shift_x + 0.03 * d * x[i] + box[0, i],
            shift_y=person.shift_y + 0.03 * d * y[i] + box[1, i],
            scale=person.scale * (1 + 0.05 * d * zoom[i] + box[2, i]),
            blur=person.blur + 1.5 * blurred[i],
            occlusion=kind if hand[i] > 0.5 else "none",
            occlusion_y=hand_y,
            noise_seed=int(rng.integers(2**31)),
        )
        images[i] = draw_face(face, size, channels)
    return SyntheticClip(images, labels, times)
