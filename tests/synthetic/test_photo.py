"""A synthetic group photo."""

from __future__ import annotations

import numpy as np

from emotion_lab.synthetic.photo import draw_group


def test_one_person_for_each_emotion() -> None:
    image = draw_group(["happy", "angry", "sad"], height=120, seed=3)
    assert image.shape == (120, 300, 3) and image.dtype == np.uint8
    assert (image == draw_group(["happy", "angry", "sad"], height=120, seed=3)).all()
    # Another emotion changes that person only.
    other = draw_group(["happy", "surprise", "sad"], height=120, seed=3)
    changed = (image != other).any(axis=(0, 2))
    assert not changed[:100].any() and changed[100:200].any() and not changed[200:].any()
