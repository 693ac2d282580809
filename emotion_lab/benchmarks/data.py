"""How fast images come: the plain way against ours, and how cost grows with the work."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.benchmarks import baseline
from emotion_lab.core.timing import calls, in_turn, peak_of, summary
from emotion_lab.data.batch_augment import BatchAugment
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import Split
from emotion_lab.models.base import InputSpec, input_spec

#: Reads a folder the way training does without memory to spare, and forgets every image.
_READER = """
import sys
from emotion_lab.config import precheck, plain
from omegaconf import OmegaConf
cfg = precheck("train", ["data=image_folder", "data.path=" + sys.argv[1], "data.cache=none"])
cfg = plain(OmegaConf.masked_copy(cfg, ["data"]))["data"]
from emotion_lab.data.datamodule import EmotionData
data = EmotionData(cfg, ("train",))
data.prepare_for(48, 1)
for batch in data.train_dataloader():
    pass
"""


def ours(data: EmotionData, augment: BatchAugment | None, device: str) -> Iterator[int]:
    """Bring every augmented batch to the device; yield the number of images after each epoch."""
    epoch = 0
    batches = data.train_dataloader()
    while True:
        count = 0
        data.begin_epoch(epoch)
        for batch in batches:
            images = batch.images.to(device, non_blocking=True)
            images = augment(images) if augment is not None else images
            count += len(images)
        if device == "cuda":
            torch.cuda.synchronize()
        epoch += 1
        yield count


def prepared(cfg: dict[str, Any], spec: InputSpec) -> EmotionData:
    """Return the data module with ``images`` training images, as training would make it."""
    data = EmotionData(cfg["data"], ("train",), cfg["seed"], cfg["augment"]["name"])
    part = data.split("train")
    # Fewer images than asked for are taken several times over.
    data.source.splits["train"] = part.subset(np.resize(np.arange(len(part)), cfg["images"]))
    data.prepare_for(spec.image_size, spec.channels)
    data.dataset("train")
    return data


def augmenter(cfg: dict[str, Any], spec: InputSpec) -> BatchAugment | None:
    """Return ``augment=device`` where that is chosen."""
    if cfg["augment"]["name"] != "device":
        return None
    return BatchAugment(cfg["augment"], spec.image_size, spec.channels)


def epoch_times(cfg: dict[str, Any], spec: InputSpec, device: str) -> list[dict[str, float]]:
    """Return the seconds that the images of one epoch take, for each of ``sizes``."""
    rows = []
    for n in cfg["sizes"]:
        one = ours(prepared({**cfg, "images": n}, spec), augmenter(cfg, spec), device)
        next(one)
        begin = time.perf_counter()
        next(one)
        seconds = time.perf_counter() - begin
        rows.append(
            {"n": n, "seconds": round(seconds, 4), "us_per_image": round(seconds / n * 1e6)}
        )
    return rows


def folder_memory(part: Split, classes: list[str], count: int) -> list[dict[str, float]]:
    """Return the peak memory of reading a folder and one ten times as large, without a cache."""
    rows = []
    for times in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            # Large enough that keeping them would show: 50 kB each, decoded.
            baseline.write_folder(part, classes, count * times, Path(folder) / "train", side=224)
            peak = peak_of(["-c", _READER, folder])
        rows.append({"images": count * times, "peak_memory_mib": peak})
    return rows


def bench(cfg: dict[str, Any], device: str) -> dict[str, Any]:
    """Measure; ``cfg`` is the composed ``bench`` config."""
    spec = input_spec(cfg["model"])
    data = prepared(cfg, spec)
    batch_size = cfg["data"]["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        baseline.write_folder(data.split("train"), data.classes, cfg["images"], Path(folder))
        files = baseline.loader(Path(folder), spec, batch_size, cfg["workers"])
        rates = in_turn(
            {
                "plain": calls(baseline.read(files, device)),
                "ours": calls(ours(data, augmenter(cfg, spec), device)),
            },
            cfg["rounds"],
        )
    slow, fast = summary(rates["plain"]), summary(rates["ours"])
    return {
        "plain_images_per_s": slow["median"],
        "ours_images_per_s": fast["median"],
        "ratio": round(fast["median"] / slow["median"], 2),
        "rounds": {"plain": slow, "ours": fast},
        "epoch": epoch_times(cfg, spec, device),
        "folder": folder_memory(data.split("train"), data.classes, cfg["folder"]),
    }
