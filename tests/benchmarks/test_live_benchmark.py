"""What the live benchmark counts: switches, flicker and delays against a known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion_lab.benchmarks import live
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Detections, Frame
from tests.conftest import composed

CLASSES = ["happy", "sad"]


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**composed(f"smoothing={name}", entry="live")["smoothing"], **changes}


def seen(answers: list[int], ids: list[int] | None = None) -> live.LiveMeasurement:
    """Return what was seen at 10 frames a second of someone who is happy for 2 s, then sad."""
    rows = [(0.0, "happy"), (2.0, "sad")]
    raw = [np.eye(2, dtype=np.float32)[answer] for answer in answers]
    times = [i / 10 for i in range(len(answers))]
    return live.LiveMeasurement(rows, len(answers), times, ids or [1] * len(answers), raw)


def test_switches_delays_and_flicker() -> None:
    # One flicker while happy (two switches), and sad is seen 0.3 s late.
    clip = seen([0] * 10 + [1] + [0] * 12 + [1] * 18)
    shown = live.labels(clip, config("none"), CLASSES)
    assert shown == ["happy"] * 10 + ["sad"] + ["happy"] * 12 + ["sad"] * 18
    found = live.steadiness([(clip, shown)])
    assert found["switches_per_min"] == pytest.approx(3 / (4.0 / 60), abs=0.01)
    assert found["flicker_per_min"] == pytest.approx(2 / (4.0 / 60), abs=0.01)
    assert found["delay_ms_median"] == pytest.approx(300)
    assert (found["followed"], found["changes"], found["frames_with_face"]) == (1, 1, 41)
    assert found["right"] == pytest.approx(37 / 41, abs=1e-3)
    # Over two clips: switches of both by the time of both, and none between them.
    wrong = seen([0] * 41)
    both = live.steadiness([(clip, shown), (wrong, live.labels(wrong, config("none"), CLASSES))])
    assert both["switches_per_min"] == pytest.approx(3 / (8.0 / 60), abs=0.01)
    assert (both["followed"], both["changes"]) == (1, 2)


def test_uncertain_is_no_switch_and_nothing_seen_has_no_numbers() -> None:
    clip = seen([0] * 20)
    found = live.steadiness([(clip, ["happy"] * 5 + [None] * 5 + ["happy"] * 10)])
    assert found["switches_per_min"] == 0 and found["right"] == 0.75
    found = live.steadiness([(seen([]), [])])
    assert found["switches_per_min"] is None and found["delay_ms_median"] is None


class _Still:
    """A detector of one face in the middle."""

    name = "given"

    def __call__(self, image: np.ndarray) -> Detections:
        return Detections(np.array([[140, 80, 200, 200]], np.float32), np.ones(1, np.float32))


class _Noisy:
    """A classifier whose answers are random, and counted."""

    crop_margin = 0.0

    def __init__(self) -> None:
        self.classes, self.calls = CLASSES, 0
        self._rng = np.random.default_rng(0)

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        return self._rng.dirichlet([1, 1], len(crops)).astype(np.float32)


def test_labels_are_those_of_the_pipeline() -> None:
    """Smoothing what was recorded says what the pipeline itself would have said."""
    frames = [Frame(np.zeros((360, 480, 3), np.uint8), i, i / 30, 0.0) for i in range(90)]
    for name in ("ema", "hmm"):
        pipeline = Pipeline(_Still(), _Noisy(), config(name))
        faces = [pipeline(frame).faces[0] for frame in frames]
        clip = live.LiveMeasurement(
            [(0.0, "happy")],
            90,
            [frame.time_s for frame in frames],
            [face.id for face in faces],
            [face.probabilities for face in faces],
        )
        shown = [None if face.label is None else CLASSES[face.label] for face in faces]
        assert live.labels(clip, config(name), CLASSES) == shown
        assert len(set(shown)) == 2
    # Another track begins anew.
    clip = seen([0] * 10 + [1] * 10, [1] * 10 + [2] * 10)
    slow = config("ema", tau_s=50, switch_evidence_s=50)
    assert live.labels(clip, slow, CLASSES) == ["happy"] * 10 + ["sad"] * 10


def test_every_frame_is_classified_once_for_all_smoothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CLIPS", 2)
    monkeypatch.setattr(live, "_PART_S", 0.2)
    monkeypatch.setattr(live, "_CYCLES", 1)
    classifier = _Noisy()
    choices = {name: config(name) for name in ("none", "ema", "window")}
    result = live.smoothers(3, lambda: Pipeline(_Still(), classifier, config("none")), choices)
    assert result["clips"] == 2 and result["frames"] == classifier.calls == 2 * 42
    found = result["smoothing"]
    assert set(found) == set(choices)
    rates = {name: row["switches_per_min"] for name, row in found.items()}
    assert rates["none"] > 3 * rates["ema"] > 0
    assert found["ema"]["fewer_switches"] == pytest.approx(rates["none"] / rates["ema"], abs=0.01)
    assert all(row["frames_with_face"] == 84 for row in found.values())
