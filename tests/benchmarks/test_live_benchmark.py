"""Live benchmark: label switches, flicker and delays against known emotions, and the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emotion_lab.benchmarks.live import stability as live
from emotion_lab.benchmarks.live.report import live_report
from emotion_lab.core import timing
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Detections, Frame
from tests.conftest import composed
from tests.helpers_classifier import ProbabilitiesOnly

CLASSES = ["happy", "sad"]


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**composed(f"smoothing={name}", entry="live")["smoothing"], **changes}


def measurement(predicted: list[int], ids: list[int] | None = None) -> live.LiveMeasurement:
    """Return predictions at 10 frames a second of a person who is happy for 2 s, then sad."""
    changes = [(0.0, "happy"), (2.0, "sad")]
    raw = [np.eye(2, dtype=np.float32)[label] for label in predicted]
    times = [i / 10 for i in range(len(predicted))]
    return live.LiveMeasurement(changes, len(predicted), times, ids or [1] * len(raw), raw)


def test_switches_delays_and_flicker() -> None:
    # One flicker while happy (two switches); sad is shown after 0.3 s.
    clip = measurement([0] * 10 + [1] + [0] * 12 + [1] * 18)
    shown = live.smoothed_labels(clip, config("none"), CLASSES)
    assert shown == ["happy"] * 10 + ["sad"] + ["happy"] * 12 + ["sad"] * 18
    result = live.stability([(clip, shown)])
    assert result["switches_per_min"] == pytest.approx(3 / (4.0 / 60), abs=0.01)
    assert result["flicker_per_min"] == pytest.approx(2 / (4.0 / 60), abs=0.01)
    assert result["delay_ms_median"] == pytest.approx(300)
    assert (result["followed"], result["changes"], result["frames_with_face"]) == (1, 1, 41)
    assert result["right"] == pytest.approx(37 / 41, abs=1e-3)
    # Two clips: the switches of both in the time of both, none between the clips.
    wrong = measurement([0] * 41)
    wrong_labels = live.smoothed_labels(wrong, config("none"), CLASSES)
    both = live.stability([(clip, shown), (wrong, wrong_labels)])
    assert both["switches_per_min"] == pytest.approx(3 / (8.0 / 60), abs=0.01)
    assert (both["followed"], both["changes"]) == (1, 2)


def test_uncertain_frames_and_clips_without_faces() -> None:
    clip = measurement([0] * 20)
    result = live.stability([(clip, ["happy"] * 5 + [None] * 5 + ["happy"] * 10)])
    assert result["switches_per_min"] == 0 and result["right"] == 0.75
    result = live.stability([(measurement([]), [])])
    assert result["switches_per_min"] is None and result["delay_ms_median"] is None


class FixedDetector:
    """Detects one face in the centre."""

    name = "fixed"

    def __call__(self, image: np.ndarray) -> Detections:
        return Detections(np.array([[140, 80, 200, 200]], np.float32), np.ones(1, np.float32))


class RandomClassifier(ProbabilitiesOnly):
    """Returns random probabilities and counts the calls."""

    def __init__(self) -> None:
        self.classes, self.calls = CLASSES, 0
        self._rng = np.random.default_rng(0)

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        return self._rng.dirichlet([1, 1], len(crops)).astype(np.float32)


def test_smoothed_labels_equal_those_of_the_pipeline() -> None:
    frames = [Frame(np.zeros((360, 480, 3), np.uint8), i, i / 30, 0.0) for i in range(90)]
    for name in ("ema", "hmm"):
        pipeline = Pipeline(FixedDetector(), RandomClassifier(), config(name))
        faces = [pipeline(frame).faces[0] for frame in frames]
        times, ids = [frame.time_s for frame in frames], [face.id for face in faces]
        raw = [face.probabilities for face in faces]
        clip = live.LiveMeasurement([(0.0, "happy")], 90, times, ids, raw)
        shown = [None if face.label is None else CLASSES[face.label] for face in faces]
        assert live.smoothed_labels(clip, config(name), CLASSES) == shown
        assert len(set(shown)) == 2
    # A new track starts without history.
    clip = measurement([0] * 10 + [1] * 10, [1] * 10 + [2] * 10)
    slow = config("ema", tau_s=50, switch_evidence_s=50)
    assert live.smoothed_labels(clip, slow, CLASSES) == ["happy"] * 10 + ["sad"] * 10


def test_frames_are_classified_once_for_all_smoothing_methods(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "NUM_CLIPS", 2)
    monkeypatch.setattr(live, "_EMOTION_S", 0.2)
    monkeypatch.setattr(live, "_CYCLES", 1)
    pipelines = {"always": RandomClassifier(), "auto": RandomClassifier()}

    def make_pipeline(when: str) -> Pipeline:
        classify = {"when": when, "max_age_s": 0.5}
        return Pipeline(FixedDetector(), pipelines[when], config("none"), classify=classify)

    clips, agreement = live.measure_synthetic(3, make_pipeline)
    assert pipelines["always"].calls == agreement["faces"] == 2 * 42
    assert pipelines["auto"].calls == round(agreement["classified"] * 84)
    configs = {name: config(name) for name in ("none", "ema", "window")}
    result = live.compare_smoothing(clips, configs, CLASSES)
    assert result["clips"] == 2 and result["frames"] == 84
    methods = result["smoothing"]
    assert set(methods) == set(configs)
    rates = {name: row["switches_per_min"] for name, row in methods.items()}
    assert rates["none"] > 3 * rates["ema"] > 0
    assert methods["ema"]["fewer_switches"] == pytest.approx(rates["none"] / rates["ema"], abs=0.01)
    assert all(row["frames_with_face"] == 84 for row in methods.values())


def test_report_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    speed = {"frames": 72, "size": [640, 360], "seed_fps": 4.0, "ours_fps": 132.0, "ratio": 33.0}
    speed |= {"seed_faces": 1.0, "ours_faces": 1.0}
    row = {"switches_per_min": 25.7, "fewer_switches": 6.2, "flicker_per_min": 10.9}
    row |= {"delay_ms_median": 266.7, "followed": 52, "changes": 78}
    empty = dict.fromkeys(row) | {"followed": 0, "changes": 78}
    result: dict[str, Any] = {"detector": "yunet", "runtime": "torch", "one_face": speed}
    same = {"faces": 100, "agreement": 0.995, "classified": 0.4, "delay_increase_ms_median": 33.3}
    nothing = {"faces": 0, "agreement": None, "classified": None}
    result["agreement"] = {"synthetic": same, "no_face.mp4": nothing}
    blocks = live_report({**result, "smoothing": {"ema": row, "none": empty}})
    text = "\n".join(map(str, blocks))
    assert "clip (72 frames of 640x360)" in text and "33.0x" in text
    assert "99.50%" in text and "40.00%" in text and "33.3" in text
    assert "seed" not in text and "one_face" not in text
    header, ema, none = text.splitlines()[-3:]
    assert "flicker/min" in header and "52 of 78" in ema
    columns = ("switches/min", "flicker/min", "delay ms")
    for number, column in zip(("25.7", "10.9", "266.7"), columns, strict=True):
        assert ema.index(number) + len(number) == header.index(column) + len(column)
    assert none.count(" -") == 3
    timing.time_interleaved({"baseline": lambda: 1}, 1)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  warm-up baseline: ") and first.endswith(" images/s")
    assert second.startswith("  round 1/1 baseline: ")
