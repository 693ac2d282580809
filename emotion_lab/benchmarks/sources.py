"""Benchmark of several paced sources in one process: delay, dropped frames, fairness."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.paths import as_list
from emotion_lab.core.threads import usable_cores
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import factory
from emotion_lab.video.multi_runner import MultiRunner, raise_errors
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.turns import Turns
from emotion_lab.video.types import Frame, FrameResult

#: Pictures and frame rate of every source.
SIZE, FPS = (640, 360), 30.0
#: Duration of a clip, which is repeated, and of the start that is not measured, seconds.
_CLIP_S, _SETTLE_S = 10.0, 2.0
_EMOTIONS = ("happy", "sad", "surprise", "neutral")


class Delays(Sink):
    """Collects the delay of each frame after the start, and ends the run after ``seconds``.

    Attributes:
        delays_ms: From capture to label.
        faces: Number of faces in these frames.
        dropped: Number of dropped frames while it measured.
        seconds: Duration of the measurement.
    """

    def __init__(self, source: FrameSource, seconds: float) -> None:
        self.delays_ms: list[float] = []
        self.faces, self.dropped, self.seconds = 0, 0, 0.0
        self._source, self._end_s = source, seconds
        self._first_s: float | None = None  # time.monotonic() of the first frame
        self._begin_s, self._begin_dropped = 0.0, 0

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Add a frame."""
        now = time.monotonic()
        self._first_s = now if self._first_s is None else self._first_s
        if now - self._first_s < _SETTLE_S:
            self._begin_s, self._begin_dropped = now, self._source.dropped
            return
        self.delays_ms.append(result.latency_ms)
        self.faces += len(result.faces)
        self.dropped = self._source.dropped - self._begin_dropped
        self.seconds = now - self._begin_s
        self.stopped = self.seconds >= self._end_s


def write_clips(folder: Path, clips: list[Path], num_sources: int, seed: int) -> list[Path]:
    """Write a clip of :data:`SIZE` at :data:`FPS` for each source.

    Args:
        clips: Used in turn; each further use starts later in the clip. Without one, each source
            shows another synthetic person.
    """
    paths = []
    for number in range(num_sources):
        path = folder / f"{number}.mp4"
        paths.append(path)
        if not clips:
            timeline = [(_CLIP_S / len(_EMOTIONS), emotion) for emotion in _EMOTIONS]
            render_video(path, timeline, fps=FPS, size=SIZE, seed=seed + number)
            continue
        cfg = {"source": str(clips[number % len(clips)]), "max_frames": round(_CLIP_S * FPS)}
        with open_source(cfg) as source:
            images = [cv2.resize(f.image, SIZE, interpolation=cv2.INTER_AREA) for f in source]
        start = len(images) * (number // len(clips)) // (1 + (num_sources - 1) // len(clips))
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, SIZE)
        for image in images[start:] + images[:start]:
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        writer.release()
    return paths


def measure(paths: list[Path], model: EmotionRecognizer, seconds: float) -> dict[str, Any]:
    """Play all clips at the same time, as cameras would, and measure every source."""
    turns, runners, sinks = Turns(usable_cores()), {}, []
    for number, path in enumerate(paths, start=1):
        source = open_source({"source": str(path), "realtime": True, "loop": True})
        sinks.append(Delays(source, seconds))
        pipeline = model.pipeline(stills=False, synthetic=True)
        runners[str(number)] = PipelineRunner(source, pipeline, None, [sinks[-1]], turns=turns)
    multi = MultiRunner(runners)
    wall, cpu = time.monotonic(), time.process_time()
    multi.run()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    raise_errors(multi.errors, len(runners))
    batches = pipeline.batching
    rows = [_row(name, sink) for name, sink in zip(runners, sinks, strict=True)]
    frames, dropped = (sum(row[key] for row in rows) for key in ("frames", "dropped"))
    delays = np.concatenate([sink.delays_ms for sink in sinks])
    return {
        "per_source": rows,
        "frames": frames,
        "dropped": dropped,
        "dropped_share": round(dropped / max(1, frames + dropped), 5),
        "frames_per_s": round(sum(row["frames_per_s"] for row in rows), 1),
        "faces_per_frame": round(sum(sink.faces for sink in sinks) / max(1, frames), 3),
        **_percentiles(delays),
        "max_p95_ms": max(row["p95_ms"] for row in rows),
        "least_served": min(rows, key=lambda row: row["frames_per_s"]),
        "faces_per_batch": round(batches.faces / max(1, batches.batches), 2),
        "sources_per_batch": round(batches.requests / max(1, batches.batches), 2),
        "cpu_share": round(cpu / wall / (os.cpu_count() or 1), 3),
    }


def _percentiles(delays_ms: np.ndarray) -> dict[str, float]:
    values = np.percentile(delays_ms, (50, 95, 99)).round(2).tolist() if len(delays_ms) else [0] * 3
    return dict(zip(("p50_ms", "p95_ms", "p99_ms"), values, strict=True))


def _row(name: str, sink: Delays) -> dict[str, Any]:
    """Return the result of one source."""
    frames = len(sink.delays_ms)
    return {
        "source": name,
        "frames": frames,
        "dropped": sink.dropped,
        "dropped_share": round(sink.dropped / max(1, frames + sink.dropped), 5),
        "frames_per_s": round(frames / sink.seconds, 2) if sink.seconds else 0.0,
        **_percentiles(np.array(sink.delays_ms)),
    }


def bench(cfg: dict[str, Any]) -> dict[str, Any]:
    """Run the benchmark with ``cfg["num_sources"]`` sources."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (None, None, None)
    clips = [Path(path).expanduser() for path in as_list(cfg["clip"])]
    model = factory.build_recognizer(cfg)
    with tempfile.TemporaryDirectory(prefix="emotion_lab_") as folder:
        print(f"sources: writing {cfg['num_sources']} clips", flush=True)
        paths = write_clips(Path(folder), clips, cfg["num_sources"], cfg["seed"])
        print(f"sources: {cfg['seconds']:g} s in real time", flush=True)
        result = measure(paths, model, cfg["seconds"])
    return {
        "num_sources": cfg["num_sources"],
        "size": list(SIZE),
        "fps": FPS,
        "seconds": cfg["seconds"],
        "clips": [path.name for path in clips] or ["synthetic"],
        "usable_cores": usable_cores(),
        "load_before": load,
        "runtime": model.classifier.runtime_name,
        "detector": model.detector.name,
        "classify": cfg["classify"],
        **result,
    }
