"""Runner: the stages side by side give the same results as one after another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.types import Frame, FrameResult
from tests.video.test_pipeline import FACE, grey_frames, make_pipeline

GREYS = [200, 210, 30, 30, 30, 220, 220, 40] * 3


class ListReader(FrameReader):
    """Frames in memory, and an error at the end if ``lost``."""

    kind, fps = "clip", 10.0

    def __init__(self, lost: bool = False) -> None:
        self.lost, self.closed = lost, False

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        yield from grey_frames(GREYS)
        if self.lost:
            raise UserError("the clip is lost")

    def close(self) -> None:
        self.closed = True


class Collector(Sink):
    """Keeps the results; stops the run after ``limit`` frames."""

    def __init__(self, limit: int | None = None) -> None:
        self.results: list[FrameResult] = []
        self.limit, self.closed = limit, False

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        self.results.append(result)
        self.stopped = len(self.results) == self.limit

    def close(self) -> None:
        self.closed = True


def run(num_cores: int, reader: ListReader, sink: Collector) -> PipelineRunner:
    pipeline = make_pipeline([FACE] * len(GREYS), "smoothing=ema")
    runner = PipelineRunner(FrameSource(reader), pipeline, None, [sink], num_cores=num_cores)
    runner.run()
    return runner


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("stage ")]


def test_results_are_equal_on_one_core_and_on_two() -> None:
    one, two = Collector(), Collector()
    assert run(1, ListReader(), one).stats.cores is None
    runner = run(2, ListReader(), two)
    assert "; stages side by side on 2 cores" in runner.stats.summary_lines(False)[0]
    assert [r.frame for r in one.results] == [r.frame for r in two.results] == [*range(24)]
    for a, b in zip(one.results, two.results, strict=True):
        assert a.faces[0].label == b.faces[0].label
        np.testing.assert_array_equal(a.faces[0].smoothed, b.faces[0].smoothed)
    assert not threads()


def test_a_lost_source_raises_after_its_last_frame_and_closes_everything() -> None:
    reader, sink = ListReader(lost=True), Collector()
    with pytest.raises(UserError, match="the clip is lost"):
        run(2, reader, sink)
    assert len(sink.results) == len(GREYS) and sink.closed and reader.closed
    assert not threads()


def test_a_sink_ends_the_run_at_its_frame() -> None:
    reader, sink = ListReader(), Collector(limit=3)
    assert run(2, reader, sink).stats.frames == 3
    assert len(sink.results) == 3 and sink.closed and reader.closed
    assert not threads()
