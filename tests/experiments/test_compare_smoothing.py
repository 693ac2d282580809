"""Comparison of smoothers: accuracy, flicker, delay, paired intervals, verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.data.types import ArrayStore, Looks, Split
from emotion_lab.experiments.compare.enrolled_looks import enrol_tracks
from emotion_lab.experiments.compare.smoother_scores import (
    _score_track,
    compare_smoothers,
    is_better,
    lines,
    show_labels,
)
from emotion_lab.experiments.compare.smoothing import named_smoothers
from emotion_lab.inference.neutral import NeutralReference, log_probabilities


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


def still_clip(n: int, flash: int | None = None) -> tuple[np.ndarray, Split]:
    """Return clear outputs of class 0 and a clip of 10 looks a second whose picture stays the same.

    Args:
        flash: A look whose outputs are those of class 1, with the same picture.
    """
    probabilities = np.tile([0.9, 0.1], (n, 1))
    if flash is not None:
        probabilities[flash] = [0.1, 0.9]
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), np.uint8)
    looks, names = Looks(np.zeros(n, int), np.arange(n) / 10), [str(i) for i in range(n)]
    labels = np.zeros(n, np.int64)
    return probabilities, Split(ArrayStore(picture), np.zeros(n, int), labels, names, looks=looks)


@pytest.mark.parametrize("when, classified", [("always", range(12)), ("auto", (0, 5, 10))])
def test_looks_are_classified_as_live_does(when: str, classified: Any) -> None:
    probabilities, split = still_clip(12, flash=7)
    cfg = {**compose.defaults("smoothing", "none"), "switch_evidence_s": 0.0}
    shown, chosen = show_labels(probabilities, split, cfg, {"when": when}, "")
    np.testing.assert_array_equal(np.flatnonzero(chosen), list(classified))
    # Look 7 is shown only if it is classified.
    np.testing.assert_array_equal(
        shown, [1 if i == 7 and when == "always" else 0 for i in range(12)]
    )


def test_the_share_of_classified_looks_is_reported() -> None:
    probabilities, split = still_clip(12)
    split.looks = Looks(np.repeat([0, 1], 6), np.tile(np.arange(6) / 10, 2))
    result = compare_smoothers(
        probabilities, split, smoothers("none", "ema"), classify={"when": "auto"}
    )
    assert result["classify"] == {"when": "auto", "max_age_s": 0.5}
    assert result["smoothers"]["ema"]["classified"] == pytest.approx(4 / 12)
    text = "\n".join(map(str, lines(result)))
    assert "classify.when=auto" in text and "33%" in text


def neutral_clips(n: int) -> tuple[np.ndarray, Split]:
    """Return outputs and clips of people who look like class 1 at rest (class 2), then class 0."""
    probabilities = np.tile(np.repeat([[0.1, 0.5, 0.4], [0.45, 0.5, 0.05]], 20, 0), (n, 1))
    labels = np.tile(np.repeat([2, 0], 20), n)
    looks = Looks(np.repeat(np.arange(n), 40), np.tile(np.arange(40) / 10, n))
    names, store = [str(i) for i in range(40 * n)], ArrayStore(np.zeros((1, 2, 2, 1), np.uint8))
    return probabilities, Split(store, np.zeros(40 * n, int), labels, names, looks=looks)


def test_faces_are_enrolled_with_their_neutral_looks() -> None:
    probabilities, split = neutral_clips(3)
    split.labels[:40] = 0  # never neutral
    average = log_probabilities(np.array([0.1, 0.3, 0.6]))
    reference = NeutralReference(["angry", "sad", "neutral"], "abc", average, 1.0)
    enrolled = enrol_tracks(probabilities, split, reference)
    scored = [*range(60, 80), *range(100, 120)]
    np.testing.assert_array_equal(np.flatnonzero(enrolled.scored), scored)
    np.testing.assert_allclose(enrolled.probabilities[:40], probabilities[:40])
    np.testing.assert_allclose(enrolled.probabilities[40], [0.1, 0.3, 0.6], atol=1e-6)
    settings = {"none": {**compose.defaults("smoothing", "none"), "switch_evidence_s": 0.0}}
    result = compare_smoothers(probabilities, split, settings, enrolled=enrolled)
    assert result["looks"] == 40 and result["last"] == "none, enrolled"
    assert result["smoothers"]["none"]["accuracy"] == 0.0
    assert result["smoothers"]["none, enrolled"]["accuracy"] == 1.0
    assert result["differences"]["none"]["accuracy"] == 1.0


def test_enrolment_ends_after_three_seconds_and_needs_neutral_faces() -> None:
    probabilities, split = neutral_clips(2)
    split.labels[:] = 2
    average = log_probabilities(np.array([0.1, 0.3, 0.6]))
    reference = NeutralReference(["angry", "sad", "neutral"], "abc", average, 1.0)
    scored = enrol_tracks(probabilities, split, reference).scored
    np.testing.assert_array_equal(np.flatnonzero(scored[:40]), np.arange(30, 40))
    split.labels[:] = 0
    with pytest.raises(UserError, match="no face is neutral and has another expression"):
        enrol_tracks(probabilities, split, reference)
