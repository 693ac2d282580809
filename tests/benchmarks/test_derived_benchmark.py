"""Errors of the derived outputs: turned heads, and synthetic faces of known strength."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion_lab.benchmarks import derived
from emotion_lab.benchmarks.report import derived_report
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.derived import DerivedOutputs, VoteShares


def test_pose_errors_are_small_and_have_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "NUM_HEADS", 300)
    rows = derived.pose_errors(seed=0)
    assert (rows[0]["from"], rows[0]["to"], len(rows)) == (0, 15, 5)
    assert 250 < sum(row["n"] for row in rows) <= 300
    for row in rows:
        for name in ("yaw", "pitch", "roll", "turn"):
            low, high = row[f"{name}_ci95"]
            assert 0 < low <= row[name] <= high < 12


class SmileClassifier:
    """The probability of "happy" grows from the first picture of a batch to the last."""

    classes = EMOTIONS
    derived = DerivedOutputs(EMOTIONS, VoteShares(np.eye(7), np.zeros(7)))

    def __call__(self, faces: list[np.ndarray]) -> np.ndarray:
        happy = np.linspace(0.1, 0.8, len(faces))
        rows = np.repeat((1 - happy)[:, None] / 6, 7, axis=1)
        rows[:, EMOTIONS.index("happy")] = happy
        return rows


def test_intensity_by_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derived, "NUM_PEOPLE", 2)
    monkeypatch.setattr(derived, "_ROUNDS", 20)
    results: dict[str, Any] = derived.intensity_by_strength(SmileClassifier(), seed=0)  # type: ignore[arg-type]
    assert list(results) == [name for name in EMOTIONS if name != "neutral"]
    assert results["happy"]["monotone"] and results["happy"]["spearman"] == 1
    assert results["happy"]["probabilities"]["happy"] == [0.1, 0.24, 0.38, 0.52, 0.66, 0.8]
    assert not results["sad"]["monotone"] and results["sad"]["spearman"] == -1
    table = {"pose": derived.pose_errors(0)[:1], "intensity": results}
    table |= {"people": 2, "strengths": derived.STRENGTHS}
    assert any("2 synthetic people" in str(block) for block in derived_report(table))
