"""Time of one step of the smoothers."""

from __future__ import annotations

import pytest

from emotion_lab.benchmarks import smoothing
from emotion_lab.benchmarks.report import smoothing_report
from emotion_lab.temporal.base import TEMPORAL
from emotion_lab.video.smoothing import untrained


def test_every_smoother_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothing, "STEPS", 20)
    monkeypatch.setattr(smoothing, "WARM_UP", 2)
    result = smoothing.bench({"rounds": 2, "seed": 0})
    temporal = [f"temporal, {name}" for name in TEMPORAL.names()]
    assert list(result["steps"]) == [*untrained(), *temporal] and len(temporal) == 3
    for row in result["steps"].values():
        assert row["n"] == 40 and len(row["median_ms_by_round"]) == 2
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
    # Networks take longer than an average.
    assert result["steps"]["temporal, tcn"]["median_ms"] > result["steps"]["none"]["median_ms"]
    text = "\n".join(map(str, smoothing_report(result, {"cpu": "a CPU", "cores": 2})))
    assert "7 classes) on a CPU, 2 cores" in text and "temporal, gru" in text
