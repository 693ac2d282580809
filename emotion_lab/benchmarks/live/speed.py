"""Frames per second against a baseline, time of each stage, cost of single outputs, latency."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.benchmarks.live.frames import DecodedReader
from emotion_lab.core.timing import per_second, summary
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.sources.video_file import VideoFileReader
from emotion_lab.video.types import Frame, FrameResult

#: Frames of the baseline before the first round, and its maximum seconds in one round.
_WARM_UP, _ROUND_S = 3, 8.0
#: Stages of the pipeline, in their order; ``decode`` and ``draw`` are measured beside it.
STAGES = ("decode", "cut", "detect", "track", "crop", "select", "classify", "smooth", "draw")


class _FaceCount(Sink):
    """Counts the faces."""

    def __init__(self) -> None:
        self.faces = 0

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Add a frame."""
        self.faces += len(result.faces)


def run_decoded(frames: Sequence[Frame], pipeline: Pipeline) -> int:
    """Run decoded frames as ``live`` does, stages side by side; return the number of faces."""
    count = _FaceCount()
    PipelineRunner(FrameSource(DecodedReader(frames)), pipeline, sinks=[count]).run()
    return count.faces


def compare(
    frames: Sequence[Frame],
    baseline_pipeline: Callable[[np.ndarray], int],
    make_pipeline: Callable[[], Pipeline],
    rounds: int,
    save: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Time both pipelines in alternation on the same decoded frames.

    Ours processes all frames in every round. The baseline is slower by far: in each round it
    processes every ``rounds``-th frame, another part each time, so that in the end it has seen
    each frame once; fewer where that takes longer than :data:`_ROUND_S`.

    Args:
        save: Called after each round with the result so far.
    """
    rates: dict[str, list[float]] = {"seed": [], "ours": []}
    baseline_faces, baseline_frames, our_faces, result = 0, 0, 0, {}
    for frame in frames[:_WARM_UP]:
        baseline_pipeline(frame.image)
    run_decoded(frames, make_pipeline())
    for turn in range(rounds):
        begin, count = time.perf_counter(), 0
        for frame in frames[turn::rounds]:
            baseline_faces += baseline_pipeline(frame.image)
            count += 1
            if time.perf_counter() - begin > _ROUND_S:
                break
        rates["seed"].append(count / (time.perf_counter() - begin))
        baseline_frames += count

        def ours() -> int:
            nonlocal our_faces
            our_faces = run_decoded(frames, make_pipeline())
            return len(frames)

        rates["ours"].append(per_second(ours))
        seed_fps, ours_fps = (values[-1] for values in rates.values())
        print(
            f"  round {turn + 1}/{rounds}: baseline {seed_fps:,.1f}, ours {ours_fps:,.0f} frames/s",
            flush=True,
        )
        summaries = {name: summary(values) for name, values in rates.items()}
        seed, our = (summaries[name]["median"] for name in rates)
        result = {
            "frames": len(frames),
            "size": [frames[0].image.shape[1], frames[0].image.shape[0]],
            "seed_fps": seed,
            "ours_fps": our,
            "ratio": round(our / seed, 2),
            "seed_faces": round(baseline_faces / baseline_frames, 3),
            "ours_faces": round(our_faces / len(frames), 3),
            "rounds": summaries,
        }
        save(result)
    return result


def decode_ms(path: Path, limit: int) -> float:
    """Return the milliseconds to decode one frame of a clip."""
    reader = VideoFileReader(path)
    begin, count = time.perf_counter(), 0
    for _ in reader.frames(threading.Event()):
        count += 1
        if count == limit:
            break
    reader.close()
    return 1000 * (time.perf_counter() - begin) / count


def stage_ms(
    frames: Sequence[Frame], pipeline: Pipeline, overlay: Overlay, decode: float | None
) -> dict[str, float | None]:
    """Return the milliseconds of each stage of a frame, one stage after the other.

    Args:
        decode: Result of :func:`decode_ms`; None if the frames come from no video.
    """
    total = dict.fromkeys(STAGES, 0.0)
    for frame in frames:
        result = pipeline(frame)
        for name, ms in result.stages_ms.items():
            total[name] += ms
        begin = time.perf_counter()
        overlay.draw(frame.image, result, fps=1.0)
        total["draw"] += 1000 * (time.perf_counter() - begin)
    each: dict[str, float | None] = {k: round(v / len(frames), 3) for k, v in total.items()}
    each["decode"] = None if decode is None else round(decode, 3)
    return each


class PlainPipeline(Pipeline):
    """A pipeline without head pose, valence, arousal and intensity."""

    def _pose(self, *arguments: object) -> None:
        return None

    def _quantities(self, *arguments: object) -> dict[str, float | None]:
        return {}


def outputs_cost(
    frames: Sequence[Frame],
    make_pipeline: Callable[[], Pipeline],
    make_plain: Callable[[], Pipeline],
    rounds: int,
) -> dict[str, Any]:
    """Return how much head pose and derived outputs slow the pipeline down.

    Both process each frame, one after the other, in alternating order. The slowdown is the median
    over the rounds of the ratio of their processor times, minus 1.

    Args:
        make_plain: Builds :class:`PlainPipeline` with the same settings.
    """
    pairs = []
    for turn in range(rounds + 1):
        pipelines = (make_pipeline(), make_plain())
        seconds = [0.0, 0.0]
        for index, frame in enumerate(frames):
            for k in (0, 1) if index % 2 else (1, 0):
                begin = time.process_time()
                pipelines[k](frame)
                seconds[k] += time.process_time() - begin
        if turn:  # the first round warms up
            pairs.append(seconds)
    return {
        "on_ms": round(1000 * statistics.median(on for on, _ in pairs) / len(frames), 3),
        "off_ms": round(1000 * statistics.median(off for _, off in pairs) / len(frames), 3),
        "slowdown": round(statistics.median(on / off for on, off in pairs) - 1, 4),
    }


def latency(path: Path, pipeline: Pipeline, seconds: float) -> dict[str, Any]:
    """Play a clip like a camera and measure the milliseconds from capture to label.

    Frames that are replaced by newer ones before processing are counted as dropped.
    """
    delays = []
    cfg = {"source": str(path), "realtime": True, "loop": True, "max_frames": round(seconds * 30)}
    with open_source(cfg) as source:
        for frame in source:
            pipeline(frame)
            delays.append((time.time() - frame.wall) * 1000)
        dropped, fps = source.dropped, source.fps
    third = max(1, len(delays) // 3)
    return {
        "fps": fps,
        "frames": len(delays),
        "dropped": dropped,
        "p50_ms": round(float(np.percentile(delays, 50)), 2),
        "p95_ms": round(float(np.percentile(delays, 95)), 2),
        "p95_first_third_ms": round(float(np.percentile(delays[:third], 95)), 2),
        "p95_last_third_ms": round(float(np.percentile(delays[-third:], 95)), 2),
    }
