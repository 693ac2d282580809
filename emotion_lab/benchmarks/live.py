"""How fast and how steady the live pipeline is, beside the way of public projects."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.timing import in_turn, summary
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.load import restore
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import factory
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.smoothing.base import TrackSmoother
from emotion_lab.video.sources.open import open_source, read_photo
from emotion_lab.video.types import Frame

#: What is compared on, as bench.json and as people call it.
PARTS = {"one_face": "clip", "six_faces": "photo"}
#: Frames, and their rate, of a photo that is moved about.
_MOVING, _FPS = 150, 30.0
#: Clips that smoothers are measured on, each of another person.
CLIPS = 4
#: Seconds of each emotion of such a clip, and how often it is shown.
_PART_S, _CYCLES = 2.5, 2


def baseline_pipeline(net: EmotionNet) -> Callable[[np.ndarray], int]:
    """Return what public projects do with a frame; it says how many faces it found.

    Haar cascade on the whole frame, every face by itself through eager float32 PyTorch.
    """
    finder = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    size, channels = net.spec.image_size, net.spec.channels

    @torch.inference_mode()
    def look(image: np.ndarray) -> int:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        boxes = finder.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)
        for x, y, width, height in boxes:
            part = grey if channels == 1 else image
            face = cv2.resize(part[y : y + height, x : x + width], (size, size))
            tensor = torch.from_numpy(face.reshape(size, size, channels)).permute(2, 0, 1)
            int(net(tensor[None]).softmax(1).argmax(1))
        return len(boxes)

    return look


def clip_frames(path: Path, limit: int) -> list[Frame]:
    """Decode a clip; reading it is no part of what is compared."""
    with open_source({"source": str(path), "max_frames": limit}) as source:
        return list(source)


def moving_photo(path: Path) -> list[Frame]:
    """Return a photo as a clip: it drifts in circles by up to 3 % of its width."""
    image = read_photo(path)
    scale = 960 / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    frames = []
    for index in range(_MOVING):
        angle = 2 * np.pi * index / 60
        shift = 0.015 * width * np.array([np.cos(angle), np.sin(angle)])
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames.append(Frame(moved, index, index / _FPS, time.time(), path.name))
    return frames


def compare(
    frames: list[Frame], seed: Callable[[np.ndarray], int], make: Callable[[], Pipeline], turns: int
) -> dict[str, Any]:
    """Run both ways over the same decoded frames, in turn."""
    faces = {"seed": 0, "ours": 0}
    stages: dict[str, float] = {}

    def theirs() -> int:
        faces["seed"] = sum(seed(frame.image) for frame in frames)
        return len(frames)

    def ours() -> int:
        pipeline, count = make(), 0
        stages.clear()
        for frame in frames:
            frame.wall = time.time()
            result = pipeline(frame)
            count += len(result.faces)
            for name, ms in result.stages_ms.items():
                stages[name] = stages.get(name, 0.0) + ms / len(frames)
        faces["ours"] = count
        return len(frames)

    rates = in_turn({"plain": theirs, "ours": ours}, turns, unit="frames")
    slow, fast = summary(rates["plain"]), summary(rates["ours"])
    n = len(frames)
    return {
        "frames": n,
        "size": [frames[0].image.shape[1], frames[0].image.shape[0]],
        "seed_fps": slow["median"],
        "ours_fps": fast["median"],
        "ratio": round(fast["median"] / slow["median"], 2),
        "seed_faces": round(faces["seed"] / n, 3),
        "ours_faces": round(faces["ours"] / n, 3),
        "rounds": {"seed": slow, "ours": fast},
        "ours_ms_per_frame": {name: round(ms, 3) for name, ms in stages.items()},
    }


def latency(path: Path, pipeline: Pipeline, seconds: float) -> dict[str, Any]:
    """Play a clip at 30 frames a second as if it were a camera; from capture to label.

    Frames that newer ones overtake are counted as dropped, not as late.
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
    """What the pipeline saw in a clip whose truth is known, frame by frame where there was a face.

    Attributes:
        rows: (start in seconds, emotion) of the truth, from 0.
        frames: Number of frames of the clip.
        times: Seconds.
        ids: The track's; another one is another face.
        raw: float32 (K,), the classifier's own answer.
    """

    rows: list[tuple[float, str]]
    frames: int
    times: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)


def watch(seed: int, pipeline: Pipeline) -> LiveMeasurement:
    """Draw a clip of a person who shows every emotion in turn, and watch it.

    Args:
        seed: Of the person.
        pipeline: Knows no face yet; how it smooths makes no difference.
    """
    emotions = [*EMOTIONS] * _CYCLES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.mp4"
        render_video(path, [(_PART_S, e) for e in emotions], fps=_FPS, size=(480, 360), seed=seed)
        frames = clip_frames(path, 100_000)
    seen = LiveMeasurement(
        [(i * _PART_S, emotion) for i, emotion in enumerate(emotions)], len(frames)
    )
    for frame in frames:
        faces = pipeline(frame).faces
        if faces:
            seen.times.append(frame.time_s)
            seen.ids.append(faces[0].id)
            seen.raw.append(faces[0].probabilities)
    return seen


def labels(
    seen: LiveMeasurement, smoothing: dict[str, Any], classes: list[str]
) -> list[str | None]:
    """Return the label shown in each frame, as the pipeline would with that smoothing."""
    calm: dict[int, TrackSmoother] = {}
    shown = []
    for time_s, face, raw in zip(seen.times, seen.ids, seen.raw, strict=True):
        if face not in calm:
            calm[face] = TrackSmoother(smoothing, len(classes))
        _, label = calm[face].update(raw, time_s)
        shown.append(None if label is None else classes[label])
    return shown


def steadiness(clips: list[tuple[LiveMeasurement, list[str | None]]]) -> dict[str, Any]:
    """Return label switches a minute and the delay after a true change, over all clips.

    Args:
        clips: Each with the label shown in each of its frames, None while uncertain.

    A change counts as followed when the new emotion is shown before the next change; the delay is
    the time until then. ``followed`` says how many of ``changes`` were, ``right`` in what share of
    the frames the true emotion was shown. ``flicker_per_min`` leaves out of the switches one for
    every change that was followed: they are no flicker.
    """
    switches, right, count, seconds = 0, 0, 0, 0.0
    delays: list[float] = []
    for seen, shown in clips:
        told = [label for label in shown if label is not None]
        switches += sum(label != last for last, label in itertools.pairwise(told))
        starts = [start for start, _ in seen.rows]
        for (start, emotion), until in zip(seen.rows, [*starts[1:], np.inf], strict=True):
            part = [
                (time_s, label == emotion)
                for time_s, label in zip(seen.times, shown, strict=True)
                if start - 1e-9 <= time_s < until - 1e-9
            ]
            hits = [time_s - start for time_s, hit in part if hit]
            right += len(hits)
            if hits and start > 0:
                delays.append(hits[0])
        count += len(shown)
        seconds += seen.times[-1] - seen.times[0] if seen.times else 0.0
    flicker = max(0, switches - len(delays))
    return {
        "switches_per_min": round(60 * switches / seconds, 2) if seconds else None,
        "flicker_per_min": round(60 * flicker / seconds, 2) if seconds else None,
        "delay_ms_median": round(1000 * float(np.median(delays)), 1) if delays else None,
        "followed": len(delays),
        "changes": sum(len(seen.rows) - 1 for seen, _ in clips),
        "right": round(right / count, 3) if count else None,
        "frames_with_face": count,
    }


def smoothers(
    seed: int, make: Callable[[], Pipeline], choices: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Measure every smoother on drawn clips, whose truth is known.

    Faces are found and classified once; every smoother is given the same answers of the network.
    One clip is not enough: which of its changes are followed at all decides over the median delay.
    """
    clips = []
    for index in range(CLIPS):
        pipeline = make()
        clips.append(watch(seed + index, pipeline))
        print(f"  clip {index + 1}/{CLIPS}: {clips[-1].frames} frames", flush=True)
    results = {}
    for name, smoothing in choices.items():
        shown = [labels(seen, smoothing, pipeline.classes) for seen in clips]
        results[name] = steadiness(list(zip(clips, shown, strict=True)))
    none = results.get("none", {}).get("switches_per_min")
    for found in results.values():
        rate = found["switches_per_min"]
        found["fewer_switches"] = round(none / rate, 2) if none and rate else None
    return {
        "frames": sum(seen.frames for seen in clips),
        "clips": len(clips),
        "smoothing": results,
    }


def bench(cfg: dict[str, Any], smoothing: dict[str, Any]) -> dict[str, Any]:
    """Measure; ``cfg`` is the composed ``bench`` config, ``smoothing`` every smoother's config.

    Raises:
        UserError: For a bad checkpoint, clip or photo.
    """
    net, _ = restore(ckpt.find(cfg["ckpt"]))
    seed = baseline_pipeline(net.eval())
    first = factory.build_pipeline(cfg, stills=False)

    def make() -> Pipeline:
        smooth, track = cfg["smoothing"], cfg["tracking"]
        return Pipeline(first.detector, first.classifier, smooth, track, cfg["align"])

    result: dict[str, Any] = {
        "runtime": first.classifier.runtime_name,
        "detector": first.detector.name,
    }
    for name, path, frames_of in _sources(cfg):
        print(f"{PARTS[name]}: {path}", flush=True)
        result[name] = compare(frames_of(), seed, make, cfg["rounds"])
    if cfg["clip"] is not None:
        print("latency: the clip, paced", flush=True)
        result["latency"] = latency(Path(cfg["clip"]), make(), cfg["seconds"])
        result["latency_p95_ms"] = result["latency"]["p95_ms"]
    print("smoothing: drawn clips with a known truth", flush=True)
    result |= smoothers(cfg["seed"], make, smoothing)
    return result


def _sources(cfg: dict[str, Any]) -> Iterator[tuple[str, Path, Callable[[], list[Frame]]]]:
    """Yield what to compare on: the clip and the photo that were given."""
    if cfg["clip"] is not None:
        clip = Path(cfg["clip"])
        yield "one_face", clip, lambda: clip_frames(clip, 400)
    if cfg["photo"] is not None:
        photo = Path(cfg["photo"])
        yield "six_faces", photo, lambda: moving_photo(photo)
