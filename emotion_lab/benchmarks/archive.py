"""Benchmark of ``predict`` over many files: photos one after the other, engines, workers."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.environment import cores
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.paths import as_list
from emotion_lab.synthetic.photo import draw_group
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import factory
from emotion_lab.video.batch.base import ENGINES, FileItem
from emotion_lab.video.batch.listing import chunks
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.sources.open import open_source, read_photo

#: Width and height of the photos and clips.
PHOTO, CLIP = (640, 480), (640, 360)
#: Different files, each of which is copied as often as needed; frames and frame rate of a clip.
_DIFFERENT, _FRAMES, _FPS = 20, 15, 15.0


def _copies(originals: Sequence[Path], count: int) -> list[FileItem]:
    """Replace files by ``count`` copies, so that each is read from the disk on its own."""
    items = []
    for number in range(count):
        original = originals[number % len(originals)]
        path = original.with_name(f"{number:05d}{original.suffix}")
        shutil.copy(original, path)
        items.append(FileItem(path.name, str(path)))
    for original in originals:
        original.unlink()
    return items


def write_photos(folder: Path, photo: Path | None, count: int, seed: int) -> list[FileItem]:
    """Write JPEG files of :data:`PHOTO`: parts of a photo, or drawn groups of one to three."""
    rng, originals = np.random.default_rng(seed), []
    image = None if photo is None else read_photo(photo)
    for number in range(min(count, _DIFFERENT)):
        if image is None:
            emotions = [str(name) for name in rng.choice(EMOTIONS, 1 + number % 3)]
            part = draw_group(emotions, PHOTO[1], seed=seed + number)
        else:
            height, width = image.shape[:2]
            share = rng.uniform(0.6, 1)
            h, w = round(share * height), round(share * width)
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            part = image[top : top + h, left : left + w]
        part = cv2.resize(part, PHOTO, interpolation=cv2.INTER_AREA)
        originals.append(folder / f"original{number}.jpg")
        cv2.imwrite(str(originals[-1]), cv2.cvtColor(part, cv2.COLOR_RGB2BGR))
    return _copies(originals, count)


def write_clips(folder: Path, clip: Path | None, count: int, seed: int) -> list[FileItem]:
    """Write clips of :data:`CLIP` and 1 s: parts of a clip, or drawn persons."""
    originals = [folder / f"original{number}.mp4" for number in range(min(count, _DIFFERENT))]
    if clip is None:
        for number, path in enumerate(originals):
            timeline = [(_FRAMES / _FPS, EMOTIONS[number % len(EMOTIONS)])]
            render_video(path, timeline, fps=_FPS, size=CLIP, seed=seed + number)
        return _copies(originals, count)
    with open_source({"source": str(clip), "max_frames": _FRAMES * len(originals)}) as source:
        images = [cv2.resize(f.image, CLIP, interpolation=cv2.INTER_AREA) for f in source]
    for number, path in enumerate(originals):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), _FPS, CLIP)
        for index in range(_FRAMES):
            image = images[(number * _FRAMES + index) % len(images)]
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        writer.release()
    return _copies(originals, count)


def _timed(results: Iterator[object], count: int) -> dict[str, float]:
    """Return files per second, and seconds to the first result, of an iterator of ``count``."""
    begin = time.perf_counter()
    next(results)
    first_s = time.perf_counter() - begin
    if (number := 1 + sum(1 for _ in results)) != count:
        raise RuntimeError(f"{number} results of {count} files")
    seconds = time.perf_counter() - begin
    row = {"files": count, "seconds": round(seconds, 2), "first_s": round(first_s, 2)}
    return {**row, "files_per_s": round(count / seconds, 2)}


def one_by_one(items: Sequence[FileItem], model: EmotionRecognizer) -> dict[str, float]:
    """Time photos one after the other: read, detect, classify, as ``predict`` does one photo."""
    folder = Path(items[0].path).parent
    pipeline = model.pipeline(stills=True, synthetic=True)
    with open_source({"source": str(folder)}) as source:
        return _timed((pipeline(frame) for frame in source), len(items))


def engines(cfg: dict[str, Any], items: Sequence[FileItem], model: EmotionRecognizer) -> list[Any]:
    """Time every engine with one worker and with one per core; print each."""
    rows: list[dict[str, Any]] = []
    for name in cfg["engines"]:
        for workers in sorted({1, cores()}):
            options = {"name": name, "workers": workers, "num_cpus": 1, "num_gpus": 0}
            engine = ENGINES.build(name, {**cfg, "engine": options})
            row = {"engine": name, "workers": workers}
            rows.append(row | _timed(engine.run(chunks(items), model), len(items)))
            print(f"  {name}, {workers}: {rows[-1]['files_per_s']:.1f} files/s", flush=True)
    return rows


def bench(cfg: dict[str, Any], save: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Run the benchmark with ``cfg["num_photos"]`` photos and ``cfg["num_clips"]`` clips.

    Args:
        save: Called with the result after each part.
    """
    # As predict: every frame of a clip is searched and classified.
    cfg = {
        **cfg,
        "tracking": {**cfg["tracking"], "detect_every": 1},
        "classify": {**cfg["classify"], "when": "always"},
        **{"save": None, "max_frames": None},
    }
    model = factory.build_recognizer(cfg)
    result: dict[str, Any] = {
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "runtime": model.classifier.runtime_name,
        "detector": model.detector.name,
    }
    kinds = {"photos": (write_photos, cfg["photo"]), "clips": (write_clips, cfg["clip"])}
    for kind, (write, original) in kinds.items():
        count, paths = cfg[f"num_{kind}"], [Path(p).expanduser() for p in as_list(original)]
        if not count:
            continue
        print(f"{kind}: {count:,} files", flush=True)
        with tempfile.TemporaryDirectory(prefix="emotion_lab_") as folder:
            items = write(Path(folder), paths[0] if paths else None, count, cfg["seed"])
            if kind == "photos":
                result["one_by_one"] = row = one_by_one(items, model)
                print(f"  one after the other: {row['files_per_s']:.1f} files/s", flush=True)
            result[kind] = engines(cfg, items, model)
        save(result)
    return result
