"""Stability of the displayed labels: switches, flicker and delays against known emotions."""

from __future__ import annotations

import bisect
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.benchmarks.live.agreement import Agreement, delay_increase_ms
from emotion_lab.benchmarks.live.frames import FPS, clip_frames
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.synthetic.video import render_video
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.smoothing import TrackSmoother
from emotion_lab.video.types import Frame, FrameResult

#: Number of synthetic clips for the smoothing benchmark, each with another person.
NUM_CLIPS = 4
#: Seconds of each emotion in such a clip, and how often the emotions are repeated.
_EMOTION_S, _CYCLES = 2.5, 2


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

    @staticmethod
    def of(changes: list[tuple[float, str]], results: Sequence[FrameResult]) -> LiveMeasurement:
        """Return the first face of every frame; each frame must have been classified."""
        measurement = LiveMeasurement(changes, len(results))
        for result in results:
            if result.faces:
                measurement.times.append(result.time_s)
                measurement.ids.append(result.faces[0].id)
                measurement.raw.append(result.faces[0].probabilities)
        return measurement


def synthetic_clip(seed: int) -> tuple[list[Frame], list[tuple[float, str]]]:
    """Render a clip of a person, given by the seed, who shows every emotion.

    Returns:
        The frames, and (start in seconds, emotion) of each emotion.
    """
    emotions = [*EMOTIONS] * _CYCLES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.mp4"
        segments = [(_EMOTION_S, emotion) for emotion in emotions]
        render_video(path, segments, fps=FPS, size=(480, 360), seed=seed)
        frames = clip_frames(path, 100_000)
    return frames, [(i * _EMOTION_S, emotion) for i, emotion in enumerate(emotions)]


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


def change_delays(measurement: LiveMeasurement, labels: list[str | None]) -> list[float | None]:
    """Return the seconds from each true change to the new label, None if it is not followed.

    Args:
        labels: Shown in each frame with a face, None while uncertain.
    """
    delays: list[float | None] = []
    ends = [start for start, _ in measurement.changes[2:]]
    for (start, emotion), end in zip(measurement.changes[1:], [*ends, np.inf], strict=True):
        hits = (
            time_s - start
            for time_s, label in zip(measurement.times, labels, strict=True)
            if start - 1e-9 <= time_s < end - 1e-9 and label == emotion
        )
        delays.append(next(hits, None))
    return delays


def stability(clips: Sequence[tuple[LiveMeasurement, list[str | None]]]) -> dict[str, Any]:
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
        starts = [start - 1e-9 for start, _ in measurement.changes]
        for time_s, label in zip(measurement.times, labels, strict=True):
            correct += label == measurement.changes[bisect.bisect(starts, time_s) - 1][1]
        delays += [d for d in change_delays(measurement, labels) if d is not None]
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
    clips: Sequence[LiveMeasurement], configs: dict[str, dict[str, Any]], classes: list[str]
) -> dict[str, Any]:
    """Evaluate every smoothing config on the same probabilities of clips with known emotions.

    Several clips are used because the median delay depends on which changes are followed.
    """
    results = {}
    for name, smoothing in configs.items():
        labels = [smoothed_labels(clip, smoothing, classes) for clip in clips]
        results[name] = stability(list(zip(clips, labels, strict=True)))
    unsmoothed = results.get("none", {}).get("switches_per_min")
    for result in results.values():
        rate = result["switches_per_min"]
        result["fewer_switches"] = round(unsmoothed / rate, 2) if unsmoothed and rate else None
    return {"frames": sum(clip.frames for clip in clips), "clips": len(clips), "smoothing": results}


def _shown(results: Sequence[FrameResult], classes: list[str]) -> list[str | None]:
    """Return the label of the first face of each frame with a face."""
    labels = [result.faces[0].label for result in results if result.faces]
    return [None if label is None else classes[label] for label in labels]


def measure_synthetic(
    seed: int, make_pipeline: Callable[[str], Pipeline]
) -> tuple[list[LiveMeasurement], dict[str, Any]]:
    """Run ``classify.when=always`` and ``auto`` over synthetic clips with known emotions.

    Returns:
        The probabilities of ``always``, and the agreement of ``auto`` with it.
    """
    clips, total = [], Agreement()
    delays: dict[str, list[float | None]] = {"always": [], "auto": []}
    for index in range(NUM_CLIPS):
        frames, changes = synthetic_clip(seed + index)
        results = {}
        for when, own_delays in delays.items():
            pipeline = make_pipeline(when)
            results[when] = [pipeline(frame) for frame in frames]
            clip = LiveMeasurement.of(changes, results[when])
            own_delays += change_delays(clip, _shown(results[when], pipeline.classes))
        clips.append(LiveMeasurement.of(changes, results["always"]))
        total += Agreement.of(results["always"], results["auto"])
        print(f"  clip {index + 1}/{NUM_CLIPS}: {len(frames)} frames", flush=True)
    increase = delay_increase_ms(delays["always"], delays["auto"])
    return clips, {**total.to_dict(), "delay_increase_ms_median": increase}


def schedule_agreement(
    frames: list[Frame], make_pipeline: Callable[[str], Pipeline]
) -> dict[str, Any]:
    """Return the agreement of ``classify.when=auto`` with ``always`` on the frames of a clip."""
    always, auto = (
        [pipeline(frame) for frame in frames] for pipeline in map(make_pipeline, ("always", "auto"))
    )
    return Agreement.of(always, auto).to_dict()
