"""How fast and how steady the live pipeline is, beside the way of public projects."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from emotion_lab import checkpoint as ckpt
from emotion_lab.benchmarks.timing import in_turn, summary
from emotion_lab.data.synthetic_video import render_video
from emotion_lab.faces import build
from emotion_lab.faces.base import Frame
from emotion_lab.faces.pipeline import Pipeline
from emotion_lab.faces.sources import open_source, read_photo
from emotion_lab.labels import EMOTIONS
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.restore import restore

#: Frames, and their rate, of a photo that is moved about.
_MOVING, _FPS = 150, 30.0
#: Seconds of each emotion of the clip that smoothers are measured on, and how often it is shown.
_PART_S, _CYCLES = 2.5, 2


def seed_way(net: EmotionNet) -> Callable[[np.ndarray], int]:
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

    rates = in_turn({"seed": theirs, "ours": ours}, turns)
    slow, fast = summary(rates["seed"]), summary(rates["ours"])
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
    cfg = {"source": str(path), "paced": True, "loop": True, "max_frames": round(seconds * 30)}
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


def steadiness(
    rows: list[tuple[float, str]], shown: list[tuple[float, str | None]]
) -> dict[str, float | int | None]:
    """Return label switches a minute and the delay after a true change.

    Args:
        rows: (start in seconds, emotion) of the truth, from 0.
        shown: (seconds, label shown or None) of every frame with the face.

    A change counts as followed when the new emotion is shown before the next change; the delay is
    the time until then. ``followed`` says how many of ``changes`` were.
    """
    last, switches = None, 0
    for _, label in shown:
        if label is None:
            continue
        switches += last is not None and label != last
        last = label
    end = shown[-1][0] if shown else 0.0
    edges = [*(start for start, _ in rows[1:]), end + 1e-9]
    delays = []
    for (start, emotion), until in zip(rows[1:], edges[1:], strict=True):
        hits = [t - start for t, label in shown if start <= t < until and label == emotion]
        if hits:
            delays.append(min(hits))
    minutes = (end - shown[0][0]) / 60 if len(shown) > 1 else 0.0
    return {
        "switches_per_min": round(switches / minutes, 2) if minutes else None,
        "delay_ms_median": round(1000 * float(np.median(delays)), 1) if delays else None,
        "followed": len(delays),
        "changes": len(rows) - 1,
    }


def smoothers(
    cfg: dict[str, Any], make: Callable[[dict[str, Any]], Pipeline], choices: dict[str, Any]
) -> dict[str, Any]:
    """Measure every smoother on one drawn clip, whose truth is known.

    The classifier's own answers are the same for all: only the smoothing differs.
    """
    parts = [(_PART_S, name) for _ in range(_CYCLES) for name in EMOTIONS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.mp4"
        drawn = render_video(path, parts, fps=_FPS, size=(480, 360), seed=cfg["seed"])
        frames = clip_frames(path, 100_000)
    truth: list[tuple[float, str]] = []
    for row in drawn:
        if not truth or truth[-1][1] != row["emotion"]:
            truth.append((row["time_s"], row["emotion"]))
    results = {}
    for name, smoothing in choices.items():
        pipeline, shown = make(smoothing), []
        for frame in frames:
            result = pipeline(frame)
            if result.faces:
                label = result.faces[0].label
                shown.append((frame.time_s, None if label is None else pipeline.classes[label]))
        results[name] = steadiness(truth, shown)
        results[name]["frames_with_face"] = len(shown)
        print(f"  {name}: {results[name]}", flush=True)
    none = results.get("none", {}).get("switches_per_min")
    for found in results.values():
        rate = found["switches_per_min"]
        found["fewer_switches"] = round(none / rate, 2) if none and rate else None
    return {"frames": len(frames), "smoothing": results}


def bench(cfg: dict[str, Any], smoothing: dict[str, Any]) -> dict[str, Any]:
    """Measure; ``cfg`` is the composed ``bench`` config, ``smoothing`` every smoother's config.

    Raises:
        UserError: For a bad checkpoint, clip or photo.
    """
    net, _ = restore(ckpt.find(cfg["ckpt"]))
    seed = seed_way(net.eval())
    first = build.build_pipeline(cfg, stills=False)

    def make(own: dict[str, Any] | None = None) -> Pipeline:
        chosen = cfg["smoothing"] if own is None else own
        return Pipeline(first.detector, first.classifier, chosen, cfg["tracking"], cfg["align"])

    result: dict[str, Any] = {
        "runtime": first.classifier.runtime_name,
        "detector": first.detector.name,
    }
    for name, path, frames_of in _sources(cfg):
        print(f"{name}: {path}", flush=True)
        result[name] = compare(frames_of(), seed, make, cfg["rounds"])
    if cfg["clip"] is not None:
        print("latency: the clip, paced", flush=True)
        result["latency"] = latency(Path(cfg["clip"]), make(), cfg["seconds"])
        result["latency_p95_ms"] = result["latency"]["p95_ms"]
    print("smoothing: a drawn clip with a known truth", flush=True)
    result |= smoothers(cfg, make, smoothing)
    return result


def _sources(cfg: dict[str, Any]) -> Iterator[tuple[str, Path, Callable[[], list[Frame]]]]:
    """Yield what to compare on: the clip and the photo that were given."""
    if cfg["clip"] is not None:
        clip = Path(cfg["clip"])
        yield "one_face", clip, lambda: clip_frames(clip, 400)
    if cfg["photo"] is not None:
        photo = Path(cfg["photo"])
        yield "six_faces", photo, lambda: moving_photo(photo)
