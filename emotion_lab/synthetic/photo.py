"""A synthetic group photo: several people with known emotions in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face


def draw_group(emotions: Sequence[str], height: int = 360, seed: int = 0) -> np.ndarray:
    """Draw one frontal face for each emotion, side by side.

    Args:
        emotions: Emotion of each person, from left to right.
        height: Height of the image in pixels; each person takes 5/6 of it in width.
        seed: Random seed of the people.

    Returns:
        uint8 RGB (H, W, 3).
    """
    columns = []
    for i, emotion in enumerate(emotions):
        rng = np.random.default_rng([seed, i])
        face = sample_face(rng, emotion, difficulty=0.2, intensity=1.0)
        face = replace(face, scale=0.62, occlusion="none", noise=2.0)
        columns.append(draw_face(face, (height, height * 5 // 6), 3))
    return np.concatenate(columns, axis=1)
