"""Sources and runners that share one classifier."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.turns import Turns
from emotion_lab.video.types import Frame
from tests.helpers_web import SMOOTHING
from tests.video.test_runner import Collector


class Greys(FrameReader):
    """``count`` grey frames; ``wait(index)`` runs before each."""

    kind, fps, size = "clip", 25.0, (40, 30)

    def __init__(
        self,
        name: str,
        count: int,
        live: bool = False,
        wait: Callable[[int], object] = lambda index: None,
        sizes: Sequence[tuple[int, int]] = ((40, 30),),
    ) -> None:
        self.name, self.count, self.live, self.wait, self.sizes = name, count, live, wait, sizes

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        for index in range(self.count):
            self.wait(index)
            if stop.is_set():
                return
            width, height = self.sizes[index * len(self.sizes) // self.count]
            image = np.full((height, width, 3), 20 + index % 200, np.uint8)
            yield Frame(image, index, index / 25, time.time(), self.name)

    def close(self) -> None:
        pass


def make_runners(
    readers: Sequence[FrameReader], classifier: Any, turns: int = 2
) -> dict[str, PipelineRunner]:
    """Return a runner with a Collector for each reader; all share the networks."""
    first = Pipeline(FullFrame({}), classifier, SMOOTHING, {"detect_every": 1})
    shared = Turns(turns)
    return {
        reader.name: PipelineRunner(
            FrameSource(reader), first.clone(stills=False), None, [Collector()], turns=shared
        )
        for reader in readers
    }


def collected(runner: PipelineRunner) -> Collector:
    sink = runner.sinks[0]
    assert isinstance(sink, Collector)
    return sink
