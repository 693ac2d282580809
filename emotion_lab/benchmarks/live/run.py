"""Runs the parts of the live benchmark one after the other; each is saved as soon as it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emotion_lab.benchmarks import baseline
from emotion_lab.benchmarks.live import process, speed
from emotion_lab.benchmarks.live.frames import SOURCES, clip_frames, moving_photo
from emotion_lab.benchmarks.live.peer import compare_peer
from emotion_lab.benchmarks.live.stability import (
    compare_smoothing,
    measure_synthetic,
    schedule_agreement,
)
from emotion_lab.core.paths import as_list, find_checkpoint
from emotion_lab.models.load import restore
from emotion_lab.video import factory
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Frame

#: Frames of a clip that are decoded in advance.
MAX_FRAMES = 400


class LiveBenchmark:
    """The parts of the benchmark, which share detector and classifier.

    Args:
        cfg: The config of ``bench``.
        save: Called with the result after each part.

    Attributes:
        result: All results so far, builtins only.
    """

    def __init__(self, cfg: dict[str, Any], save: Callable[[dict[str, Any]], object]) -> None:
        self.cfg, self._save = cfg, save
        self.first = factory.build_pipeline(cfg, stills=False, synthetic=True)
        self.result: dict[str, Any] = {
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "runtime": self.first.classifier.runtime_name,
            "runtime_notes": list(self.first.classifier.notes),
            "detector": self.first.detector.name,
            "classify": cfg["classify"],
            "agreement": {},
        }

    def save(self, **parts: Any) -> None:
        """Add parts to the result and save it."""
        self.result |= parts
        self._save(self.result)

    def pipeline(self, when: str | None = None, kind: type[Pipeline] = Pipeline) -> Pipeline:
        """Return a pipeline without tracks; ``when`` replaces ``classify.when``."""
        cfg = self.cfg
        classify = {**cfg["classify"], "when": when or cfg["classify"]["when"]}
        settings = (cfg["smoothing"], cfg["tracking"], cfg["align"])
        return kind(self.first.detector, self.first.classifier, *settings, classify=classify)

    def time(self, name: str, path: Path, frames: list[Frame]) -> None:
        """Measure speed, the stages and the cost of single outputs on one source."""
        net, _ = restore(find_checkpoint(self.cfg["ckpt"]))
        reference = baseline.live_pipeline(net.eval())

        def keep(part: dict[str, Any]) -> None:
            self.save(**{name: part})

        rounds = self.cfg["rounds"]
        row = speed.compare(frames, reference, self.pipeline, rounds, keep)
        is_clip = SOURCES[name] == "clip"
        decode = speed.decode_ms(path, MAX_FRAMES) if is_clip else None
        overlay = Overlay({"timeline_s": 30.0}, self.first.classes)
        row["ours_ms_per_frame"] = speed.stage_ms(frames, self.pipeline(), overlay, decode)
        plain = lambda: self.pipeline(kind=speed.PlainPipeline)  # noqa: E731
        row["outputs"] = speed.outputs_cost(frames, self.pipeline, plain, rounds)
        keep(row)

    def sources(self) -> None:
        """Measure every clip and the photo; speed on the first clip and on the photo."""
        cfg = self.cfg
        paths = [("one_face", Path(path).expanduser()) for path in as_list(cfg["clip"])]
        if cfg["photo"] is not None:
            paths.append(("six_faces", Path(cfg["photo"]).expanduser()))
        for name, path in paths:
            is_clip = SOURCES[name] == "clip"
            print(f"{SOURCES[name]}: {path}", flush=True)
            frames = clip_frames(path, MAX_FRAMES) if is_clip else moving_photo(path)
            if name not in self.result:
                self.time(name, path, frames)
            agreement = {path.name: schedule_agreement(frames, self.pipeline)}
            self.save(agreement=self.result["agreement"] | agreement)
            if cfg["peer"] and path.name not in self.result.get("peer", {}):
                print(f"peer: {cfg['peer']}", flush=True)
                row = {path.name: compare_peer(frames, self.pipeline, cfg)}
                self.save(peer=self.result.get("peer", {}) | row)

    def command(self, clip: Path) -> None:
        """Measure first frame, latency in real time and memory on a clip."""
        cfg = self.cfg
        print("first frame: the command live in a process of its own", flush=True)
        self.save(first_frame=process.first_frame(cfg, clip, cfg["rounds"]))
        print("latency: the clip at its own frame rate", flush=True)
        latency = speed.latency(clip, self.pipeline(), cfg["seconds"])
        self.save(latency=latency, latency_p95_ms=latency["p95_ms"])
        if cfg["memory_frames"]:
            print(f"memory: {cfg['memory_frames']:,} frames of the command live", flush=True)
            self.save(memory=process.memory(cfg, clip, cfg["memory_frames"]))

    def smoothing(self, methods: dict[str, Any]) -> None:
        """Measure agreement and smoothing on synthetic clips with known emotions."""
        print("smoothing: synthetic clips with known emotions", flush=True)
        drawn, agreement = measure_synthetic(self.cfg["seed"], self.pipeline)
        self.save(agreement=self.result["agreement"] | {"synthetic": agreement})
        self.save(**compare_smoothing(drawn, methods, self.first.classes))


def bench(
    cfg: dict[str, Any], smoothing: dict[str, Any], save: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        smoothing: Name of every method -> its config.
        save: Called with the result after each part.
    """
    benchmark = LiveBenchmark(cfg, save)
    benchmark.sources()
    if clips := as_list(cfg["clip"]):
        benchmark.command(Path(clips[0]).expanduser())
    benchmark.smoothing(smoothing)
    return benchmark.result
