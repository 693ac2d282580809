"""Helpers of the data tests: a small config, data modules, image folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from emotion_lab.config.compose import defaults
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.samplers import ResumableRandomSampler
from emotion_lab.data.torch_dataset import Batch

#: The config of data=synthetic with 80 images of 24x24 pixels.
BASE: dict[str, Any] = defaults("data", "synthetic")
BASE |= {"n": 80, "size": 24, "batch_size": 16, "cache": "auto"}


def make_data(
    augment: str = "none", splits: tuple[str, ...] = ("train", "val"), **cfg: Any
) -> EmotionData:
    """Return a data module of ``BASE`` for a 32-pixel grey network."""
    data = EmotionData({**BASE, **cfg}, splits, 0, augment)
    data.prepare_for(32, 1)
    return data


def batches_equal(first: Iterable[Batch], second: Iterable[Batch]) -> bool:
    """Return whether images, labels and positions of all batches are equal."""
    pairs = list(zip(first, second, strict=True))
    return bool(pairs) and all(
        torch.equal(a, b) for x, y in pairs for a, b in zip(x[:3], y[:3], strict=True)
    )


def all_positions(sampler: ResumableRandomSampler) -> list[int]:
    """Return the positions of all batches, in order."""
    return [position for batch in sampler for _, position in batch]


#: Usage of each row of :func:`write_fer2013`.
USAGES = ["Training"] * 14 + ["PublicTest"] * 7 + ["PrivateTest"] * 7


def write_fer2013(path: Path) -> Path:
    """Write a FER2013 CSV of 28 random images, row i of class i % 7."""
    rng = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for row, usage in enumerate(USAGES):
        lines.append(f"{row % 7},{' '.join(map(str, rng.integers(0, 256, 2304)))},{usage}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_images(
    root: Path, splits: Iterable[str], classes: Iterable[str], n: int, size: int
) -> Path:
    """Write ``n`` random grey images of size x size pixels for each class of each split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root
