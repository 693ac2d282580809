"""Benchmark of the live pipeline: speed against a baseline, latency and label stability."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.benchmarks import baseline
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.core.timing import summary, time_interleaved
from emotion_lab.models.load import restore
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import factory
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.smoothing import TrackSmoother
from emotion_lab.video.sources.open import open_source, read_photo
from emotion_lab.video.types import Frame

#: Key in ``bench.json`` -> config key of the sources that speed is measured on.
SOURCES = {"one_face": "clip", "six_faces": "photo"}
#: Number of frames and frame rate of a moving photo.
_PHOTO_FRAMES, _FPS = 150, 30.0
#: Number of synthetic clips for the smoothing benchmark, each with another person.
NUM_CLIPS = 4
#: Seconds of each emotion in such a clip, and how often the emotions are repeated.
_EMOTION_S, _CYCLES = 2.5, 2


def clip_frames(path: Path, limit: int) -> list[Frame]:
    """Decode a clip in advance: reading it is not timed."""
    with open_source({"source": str(path), "max_frames": limit}) as source:
        return list(source)


def moving_photo(path: Path) -> list[Frame]:
    """Return a photo as a clip: it moves in a circle with a diameter of 3 % of its width."""
    image = read_photo(path)
    scale = 960 / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    frames = []
    for index in range(_PHOTO_FRAMES):
        angle = 2 * np.pi * index / 60
        shift = 0.015 * width * np.array([np.cos(angle), np.sin(angle)])
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames.append(Frame(moved, index, index / _FPS, time.time(), path.name))
    return frames


def compare(
    frames: list[Frame],
    baseline_pipeline: Callable[[np.ndarray], int],
    make_pipeline: Callable[[], Pipeline],
    rounds: int,
) -> dict[str, Any]:
    """Time both pipelines in alternation on the same decoded frames."""
    faces = {"baseline": 0, "ours": 0}
    stages: dict[str, float] = {}

    def run_baseline() -> int:
        faces["baseline"] = sum(baseline_pipeline(frame.image) for frame in frames)
        return len(frames)

    def run_ours() -> int:
        pipeline = make_pipeline()
        faces["ours"] = 0
        stages.clear()
        for frame in frames:
            frame.wall = time.time()
            result = pipeline(frame)
            faces["ours"] += len(result.faces)
            for name, ms in result.stages_ms.items():
                stages[name] = stages.get(name, 0.0) + ms / len(frames)
        return len(frames)

    rates = time_interleaved({"baseline": run_baseline, "ours": run_ours}, rounds, unit="frames")
    baseline_rates, our_rates = summary(rates["baseline"]), summary(rates["ours"])
    n = len(frames)
    return {
        "frames": n,
        "size": [frames[0].image.shape[1], frames[0].image.shape[0]],
        "seed_fps": baseline_rates["median"],
        "ours_fps": our_rates["median"],
        "ratio": round(our_rates["median"] / baseline_rates["median"], 2),
        "seed_faces": round(faces["baseline"] / n, 3),
        "ours_faces": round(faces["ours"] / n, 3),
        "rounds": {"seed": baseline_rates, "ours": our_rates},
        "ours_ms_per_frame": {name: round(ms, 3) for name, ms in stages.items()},
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


@dataclass
class LiveMeasurement:
    """Predictions of a clip with known emotions, for each frame with a detected face.

    Attributes:
        changes: (start in seconds, emotion) of the ground truth; the first starts at 0.
        frames: Number of frames of the clip.
        times: Seconds of each frame with a face.
        ids: Track id of the face; a new id means a new track.
        raw: Probabilities before smoothing, float32 (K,).
    """

    changes: list[tuple[float, str]]
    frames: int
    times: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)


def measure_clip(seed: int, pipeline: Pipeline) -> LiveMeasurement:
    """Render a clip of a person, given by the seed, who shows every emotion; classify it.

    The pipeline must have no tracks; its smoothing does not matter.
    """
    emotions = [*EMOTIONS] * _CYCLES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.mp4"
        segments = [(_EMOTION_S, emotion) for emotion in emotions]
        render_video(path, segments, fps=_FPS, size=(480, 360), seed=seed)
        frames = clip_frames(path, 100_000)
    changes = [(i * _EMOTION_S, emotion) for i, emotion in enumerate(emotions)]
    measurement = LiveMeasurement(changes, len(frames))
    for frame in frames:
        faces = pipeline(frame).faces
        if faces:
            measurement.times.append(frame.time_s)
            measurement.ids.append(faces[0].id)
            measurement.raw.append(faces[0].probabilities)
    return measurement


def smoothed_labels(
    measurement: LiveMeasurement, smoothing: dict[str, Any], classes: list[str]
) -> list[str | None]:
    """Return the label of each frame that the pipeline shows with a smoothing config."""
    smoothers: dict[int, TrackSmoother] = {}
    labels = []
    for time_s, track, raw in zip(measurement.times, measurement.ids, measurement.raw, strict=True):
        if track not in smoothers:
            smoothers[track] = TrackSmoother(smoothing, len(classes))
        _, label = smoothers[track].update(raw, time_s)
        labels.append(None if label is None else classes[label])
    return labels


def stability(clips: list[tuple[LiveMeasurement, list[str | None]]]) -> dict[str, Any]:
    """Return label switches per minute and the delay after a true change, over all clips.

    Args:
        clips: Each with the label shown in each of its frames, None while uncertain.

    Returns:
        ``switches_per_min``; ``flicker_per_min``, the switches without one for each followed
        change; ``delay_ms_median``, the median time until the new emotion is shown; ``followed``,
        the number of ``changes`` whose new emotion is shown before the next change; ``right``, the
        fraction of frames that show the true emotion; ``frames_with_face``.
    """
    switches, correct, count, seconds = 0, 0, 0, 0.0
    delays: list[float] = []
    for measurement, labels in clips:
        certain = [label for label in labels if label is not None]
        switches += sum(label != last for last, label in itertools.pairwise(certain))
        ends = [start for start, _ in measurement.changes[1:]]
        for (start, emotion), end in zip(measurement.changes, [*ends, np.inf], strict=True):
            hits = [
                time_s - start
                for time_s, label in zip(measurement.times, labels, strict=True)
                if start - 1e-9 <= time_s < end - 1e-9 and label == emotion
            ]
            correct += len(hits)
            if hits and start > 0:
                delays.append(hits[0])
        count += len(labels)
        seconds += measurement.times[-1] - measurement.times[0] if measurement.times else 0.0
    flicker = max(0, switches - len(delays))
    return {
        "switches_per_min": round(60 * switches / seconds, 2) if seconds else None,
        "flicker_per_min": round(60 * flicker / seconds, 2) if seconds else None,
        "delay_ms_median": round(1000 * float(np.median(delays)), 1) if delays else None,
        "followed": len(delays),
        "changes": sum(len(measurement.changes) - 1 for measurement, _ in clips),
        "right": round(correct / count, 3) if count else None,
        "frames_with_face": count,
    }


def compare_smoothing(
    seed: int, make_pipeline: Callable[[], Pipeline], configs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Evaluate every smoothing config on synthetic clips with known emotions.

    Faces are detected and classified once; all configs smooth the same probabilities. Several clips
    are used because the median delay depends on which changes are followed.
    """
    clips = []
    for index in range(NUM_CLIPS):
        pipeline = make_pipeline()
        clips.append(measure_clip(seed + index, pipeline))
        print(f"  clip {index + 1}/{NUM_CLIPS}: {clips[-1].frames} frames", flush=True)
    results = {}
    for name, smoothing in configs.items():
        labels = [smoothed_labels(clip, smoothing, pipeline.classes) for clip in clips]
        results[name] = stability(list(zip(clips, labels, strict=True)))
    unsmoothed = results.get("none", {}).get("switches_per_min")
    for result in results.values():
        rate = result["switches_per_min"]
        result["fewer_switches"] = round(unsmoothed / rate, 2) if unsmoothed and rate else None
    return {"frames": sum(clip.frames for clip in clips), "clips": len(clips), "smoothing": results}


def bench(cfg: dict[str, Any], smoothing: dict[str, Any]) -> dict[str, Any]:
    """Run the benchmark; ``smoothing`` maps the name of every method to its config."""
    net, _ = restore(find_checkpoint(cfg["ckpt"]))
    baseline_pipeline = baseline.live_pipeline(net.eval())
    first = factory.build_pipeline(cfg, stills=False, synthetic=True)

    def make_pipeline() -> Pipeline:
        smooth, track = cfg["smoothing"], cfg["tracking"]
        return Pipeline(first.detector, first.classifier, smooth, track, cfg["align"])

    result: dict[str, Any] = {
        "runtime": first.classifier.runtime_name,
        "detector": first.detector.name,
    }
    for name, key in SOURCES.items():
        if cfg[key] is not None:
            path = Path(cfg[key])
            print(f"{key}: {path}", flush=True)
            frames = clip_frames(path, 400) if key == "clip" else moving_photo(path)
            result[name] = compare(frames, baseline_pipeline, make_pipeline, cfg["rounds"])
    if cfg["clip"] is not None:
        print("latency: the clip at its own frame rate", flush=True)
        result["latency"] = latency(Path(cfg["clip"]), make_pipeline(), cfg["seconds"])
        result["latency_p95_ms"] = result["latency"]["p95_ms"]
    print("smoothing: synthetic clips with known emotions", flush=True)
    return result | compare_smoothing(cfg["seed"], make_pipeline, smoothing)
