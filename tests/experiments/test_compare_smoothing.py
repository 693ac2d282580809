"""Comparison of smoothers: accuracy, flicker, delay, paired intervals, verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.data.types import ArrayStore, Looks, Split
from emotion_lab.experiments.compare.smoother_scores import (
    _score_track,
    compare_smoothers,
    is_better,
    lines,
)
from emotion_lab.experiments.compare.smoothing import named_smoothers


def clips(n: int, seed: int = 0) -> tuple[np.ndarray, Split]:
    """Return noisy outputs and clips of 40 looks, in which class 0 changes to class 1 or 2."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat([0, 1 + i % 2], 20) for i in range(n)])
    seen = np.where(rng.random(40 * n) < 0.75, labels, rng.integers(0, 3, 40 * n))
    probabilities = np.full((40 * n, 3), 0.15)
    probabilities[np.arange(40 * n), seen] = 0.7
    looks = Looks(np.repeat(np.arange(n), 40), np.tile(np.arange(40) * 0.08, n))
    store = ArrayStore(np.zeros((1, 2, 2, 1), np.uint8))
    names = [str(i) for i in range(40 * n)]
    return probabilities, Split(store, np.zeros(40 * n, int), labels, names, looks=looks)


def smoothers(*names: str) -> dict[str, dict[str, Any]]:
    return {name: compose.defaults("smoothing", name) for name in names}


def test_delay_flicker_and_missed_changes_of_a_track() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0])
    shown = np.array([0, 0, 1, 0, 0, 1, 1, 1, -1, 0])
    scored = _score_track(shown, labels, np.arange(10) * 0.5)
    assert (scored.correct, scored.looks, scored.changes, scored.missed) == (4, 10, 5, 1)
    # 1 is shown after two looks, 2 never (its duration counts), 0 after one.
    np.testing.assert_allclose(scored.delays, [1.0, 0.5, 0.5])
    assert scored.seconds == 4.5


def test_hmm_is_calmer_and_more_accurate_than_no_smoothing() -> None:
    result = compare_smoothers(*clips(12), smoothers("none", "hmm"))
    assert result["clips"] == result["changes"] == 12 and result["looks"] == 480
    none, hmm = result["smoothers"]["none"], result["smoothers"]["hmm"]
    difference = result["differences"]["none"]
    assert difference["accuracy"] == pytest.approx(hmm["accuracy"] - none["accuracy"])
    assert 0 < difference["accuracy_ci95"][0] < difference["accuracy"]
    assert difference["flicker_hz_ci95"][1] < 0
    assert none["accuracy"] == pytest.approx(0.75 + 0.25 / 3, abs=0.05)
    text = "\n".join(map(str, lines(result)))
    assert "12 clips, 480 looks" in text and "hmm - none: accuracy +" in text


def test_a_comparison_needs_clips_with_times() -> None:
    probabilities, split = clips(2)
    split.looks = None
    with pytest.raises(UserError, match=r"this data has single images: set data=clips"):
        compare_smoothers(probabilities, split, smoothers("none", "ema"))
    with pytest.raises(UserError, match=r"compared over clips, and this split has 1"):
        compare_smoothers(*clips(1), smoothers("none", "ema"))


@pytest.mark.parametrize(
    "accuracy, flicker, delay, own_delay, better",
    [
        ([0.01, 0.05], 0.2, [-0.2, 0.1], 0.30, True),
        ([-0.01, 0.05], 0.2, [-0.2, 0.1], 0.30, False),  # the interval of the accuracy holds 0
        ([0.01, 0.05], 0.2, [0.0, 0.2], 0.40, False),  # a longer delay
        ([-0.01, 0.01], -0.1, [-0.4, -0.1], 0.15, True),  # half the delay, less flicker
        ([-0.01, 0.01], 0.1, [-0.4, -0.1], 0.15, False),  # half the delay, more flicker
    ],
)
def test_what_counts_as_better(
    accuracy: list[float], flicker: float, delay: list[float], own_delay: float, better: bool
) -> None:
    difference = {
        "accuracy_ci95": accuracy,
        "flicker_hz": flicker,
        "delay_s": own_delay - 0.3,
        "delay_s_ci95": delay,
    }
    assert is_better(difference, {"delay_s": own_delay}, {"delay_s": 0.3}) == better


def test_typed_settings_apply_to_the_smoothers_that_have_them() -> None:
    named = named_smoothers(["smoothing=[ema,hmm]", "smoothing.tau_s=0.5", "data=fer2013"])
    assert list(named) == ["ema", "hmm"]
    assert named["ema"]["tau_s"] == 0.5 and "tau_s" not in named["hmm"]
    assert named_smoothers(["run_a=x"]) == {}
