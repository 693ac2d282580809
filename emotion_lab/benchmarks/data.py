"""Benchmark of data loading: baseline against ours, and how time and memory scale."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from emotion_lab.benchmarks import baseline
from emotion_lab.core.timing import calls, peak_memory_mib, summary, time_interleaved
from emotion_lab.data.batch_augment import BatchAugment
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import Split
from emotion_lab.models.base import InputSpec, input_spec

#: Iterates over an image folder once with ``data.cache=none``, so no image stays in memory.
_READER = """
import sys
from emotion_lab.config import compose
overrides = ["data=image_folder", "data.path=" + sys.argv[1], "data.cache=none"]
cfg = compose.precheck("train", overrides)
from emotion_lab.data.datamodule import EmotionData
data = EmotionData(compose.to_container(cfg.data), ("train",))
data.prepare_for(48, 1)
for batch in data.train_dataloader():
    pass
"""


def load_epochs(data: EmotionData, augment: BatchAugment | None, device: str) -> Iterator[int]:
    """Copy every augmented batch to the device; yield the number of images after each epoch."""
    batches = data.train_dataloader()
    for epoch in itertools.count():
        count = 0
        data.set_epoch(epoch)
        for batch in batches:
            images = batch.images.to(device, non_blocking=True)
            images = augment(images) if augment is not None else images
            count += len(images)
        if device == "cuda":
            torch.cuda.synchronize()
        yield count


def build_data(cfg: dict[str, Any], spec: InputSpec) -> EmotionData:
    """Return the data module of a training run with ``images`` training images."""
    data = EmotionData(cfg["data"], ("train",), cfg["seed"], cfg["augment"]["name"])
    data.set_split_size("train", cfg["images"])
    data.prepare_for(spec.image_size, spec.channels)
    data.dataset("train")
    return data


def build_augment(cfg: dict[str, Any], spec: InputSpec) -> BatchAugment | None:
    """Return the batch augmentation of ``augment=device``, None for other presets."""
    if cfg["augment"]["name"] != "device":
        return None
    return BatchAugment(cfg["augment"], spec.image_size, spec.channels)


def epoch_times(cfg: dict[str, Any], spec: InputSpec, device: str) -> list[dict[str, float]]:
    """Return the seconds of loading one epoch, for each number of images in ``sizes``."""
    rows = []
    for n in cfg["sizes"]:
        augment = build_augment(cfg, spec)
        epochs = load_epochs(build_data({**cfg, "images": n}, spec), augment, device)
        next(epochs)
        start = time.perf_counter()
        next(epochs)
        seconds = time.perf_counter() - start
        rows.append(
            {"n": n, "seconds": round(seconds, 4), "us_per_image": round(seconds / n * 1e6)}
        )
    return rows


def folder_memory(split: Split, classes: list[str], count: int) -> list[dict[str, float]]:
    """Return the peak memory of reading ``count`` and 10 x ``count`` files without a cache."""
    rows = []
    for n in (count, 10 * count):
        with tempfile.TemporaryDirectory() as folder:
            # 50 kB each when decoded, so that images kept in memory would show.
            baseline.write_folder(split, classes, n, Path(folder) / "train", side=224)
            rows.append({"images": n, "peak_memory_mib": peak_memory_mib(["-c", _READER, folder])})
    return rows


def bench(cfg: dict[str, Any], device: str) -> dict[str, Any]:
    """Run the benchmark; ``cfg`` is the composed ``bench`` config."""
    spec = input_spec(cfg["model"])
    data = build_data(cfg, spec)
    batch_size = cfg["data"]["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        baseline.write_folder(data.split("train"), data.classes, cfg["images"], Path(folder))
        files = baseline.loader(Path(folder), spec, batch_size, cfg["workers"])
        rates = time_interleaved(
            {
                "baseline": calls(baseline.load_epochs(files, device)),
                "ours": calls(load_epochs(data, build_augment(cfg, spec), device)),
            },
            cfg["rounds"],
        )
    baseline_rates, our_rates = summary(rates["baseline"]), summary(rates["ours"])
    return {
        "plain_images_per_s": baseline_rates["median"],
        "ours_images_per_s": our_rates["median"],
        "ratio": round(our_rates["median"] / baseline_rates["median"], 2),
        "rounds": {"plain": baseline_rates, "ours": our_rates},
        "epoch": epoch_times(cfg, spec, device),
        "folder": folder_memory(data.split("train"), data.classes, cfg["folder"]),
    }
