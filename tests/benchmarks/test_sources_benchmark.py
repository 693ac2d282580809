"""Benchmark of several sources: the clips, what is counted, and the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_lab.benchmarks import sources
from emotion_lab.benchmarks.report import sources_report
from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.types import Frame
from tests.helpers_sinks import face, picture, result
from tests.helpers_sources import write_clip
from tests.helpers_web import SMOOTHING, FakeClassifier, GreyFrames


class Fake(FakeClassifier):
    data_name = None


def test_clips_are_resized_and_start_at_different_places(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{name}.mp4", 20) for name in "ab"]
    paths = sources.write_clips(tmp_path, clips, 4, seed=0)
    firsts = []
    for path in paths:
        with open_source({"source": str(path)}) as source:
            frames = list(source)
        assert (source.size, source.fps, len(frames)) == ((640, 360), 30.0, 20)
        firsts.append(frames[0].image)
    assert (firsts[0] == firsts[1]).all() and (firsts[0] != firsts[2]).any()


def test_every_source_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SETTLE_S", 0.1)
    paths = sources.write_clips(tmp_path, [write_clip(tmp_path / "a.mp4", 30)], 3, seed=0)
    model = EmotionRecognizer(Fake(), FullFrame({}), SMOOTHING)
    measured = sources.measure(paths, model, 0.6)
    assert [row["source"] for row in measured["per_source"]] == ["1", "2", "3"]
    for row in measured["per_source"]:
        assert row["frames"] + row["dropped"] == pytest.approx(18, abs=3)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert measured["frames"] == sum(row["frames"] for row in measured["per_source"])
    assert measured["faces_per_frame"] == 1
    assert measured["sources_per_batch"] >= 1
    head = {"num_sources": 3, "size": [640, 360], "fps": 30.0, "detector": "d", "runtime": "r"}
    text = "\n".join(str(block) for block in sources_report({**head, **measured}))
    assert "sources: 3 of 640x360 at 30 frames/s" in text
    assert f"least served: source {measured['least_served']['source']}" in text


def test_the_start_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.5, 3.0, 4.1])
    monkeypatch.setattr(sources.time, "monotonic", lambda: next(clock))
    source = FrameSource(GreyFrames(live=True))
    sink = sources.Delays(source, seconds=3.0)
    frame = Frame(picture(), 0, 0.0, 0.0)
    for dropped in (4, 5, 5, 7, 9):
        monkeypatch.setattr(source._queue, "dropped", dropped)
        sink.write(frame, result(faces=[face()]), None)
    source.close()
    assert (len(sink.delays_ms), sink.dropped, sink.faces) == (3, 4, 3)
    assert sink.seconds == pytest.approx(3.1) and sink.stopped
