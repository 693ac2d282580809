"""Label hysteresis: when the displayed label changes."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.video.smoothing.label_hysteresis import LabelHysteresis
from tests.video.test_smoothing import random_stream


def hysteresis(**changes: float) -> LabelHysteresis:
    return LabelHysteresis({"threshold": 0.4, "switch_evidence_s": 0.1, **changes}, 3)


def switch_time(fps: int, lead: float) -> float:
    """Return the seconds until a class with ``lead`` over the displayed label replaces it."""
    label = hysteresis()
    label.update([0.6, 0.3, 0.1], 0.0)
    rival = [0.5 - lead / 2, 0.5 + lead / 2, 0.0]
    return next(i / fps for i in range(1, 999) if label.update(rival, i / fps) == 1)


@pytest.mark.parametrize("fps", [10, 30, 100])
def test_switch_time_is_inversely_proportional_to_the_lead(fps: int) -> None:
    for lead in (0.8, 0.4, 0.1):
        assert 0.1 / lead - 1e-6 <= switch_time(fps, lead) < 0.1 / lead + 1 / fps + 1e-6


def test_alternation_does_not_switch() -> None:
    label = hysteresis()
    label.update([0.6, 0.3, 0.1], 0.0)
    for i in range(1, 400):
        row = [0.3, 0.65, 0.05] if i % 2 else [0.65, 0.3, 0.05]
        assert label.update(row, i / 30) == 0
    # Two of three frames: it switches eventually.
    rows = ([0.3, 0.65, 0.05] if i % 3 else [0.65, 0.3, 0.05] for i in range(400, 500))
    assert 1 in [label.update(row, (400 + i) / 30) for i, row in enumerate(rows)]


def test_evidence_is_separate_for_each_class() -> None:
    label = hysteresis()
    label.update([0.6, 0.3, 0.1], 0.0)
    assert label.update([0.3, 0.45, 0.25], 0.3) == 0
    assert label.update([0.3, 0.2, 0.5], 0.7) == 0
    assert label.update([0.3, 0.2, 0.5], 0.9) == 2


def test_uncertain_below_the_threshold() -> None:
    label = hysteresis()
    assert label.update([0.39, 0.31, 0.3], 0.0) is None
    assert label.update([0.45, 0.3, 0.25], 0.1) is None  # slightly above: not yet
    assert label.update([0.9, 0.05, 0.05], 0.3) == 0  # clearly above
    assert label.update([0.39, 0.31, 0.3], 0.4) is None
    assert label.update([0.45, 0.3, 0.25], 1.0) is None  # 0.03 s
    assert label.update([0.45, 0.3, 0.25], 2.5) == 0  # 0.105 s
    label.update([0.39, 0.31, 0.3], 2.6)
    label.reset()
    assert label.update([0.41, 0.3, 0.29], 2.7) == 0  # no history after the reset


def test_new_label_is_above_the_threshold() -> None:
    label = LabelHysteresis({"threshold": 0.5, "switch_evidence_s": 0.1}, 3)
    last, switches = label.update([0.6, 0.2, 0.2], 0.0), 0
    for i, row in enumerate(random_stream(12, 600, 3)):
        shown = label.update(row, 0.1 * (i + 1))
        if shown != last:
            assert row.max() < 0.5 if shown is None else row[shown] >= 0.5
            switches += shown is not None
        last = shown
    assert switches > 15


def test_zero_evidence_returns_the_top_class() -> None:
    label = hysteresis(threshold=0.0, switch_evidence_s=0.0)
    frames = random_stream(11, 100, 3)
    assert [label.update(row, i / 30) for i, row in enumerate(frames)] == list(frames.argmax(1))


def test_hysteresis_nan_raises() -> None:
    with pytest.raises(ValueError, match="Expected"):
        hysteresis().update([np.nan, 0.5, 0.5], 0.0)
