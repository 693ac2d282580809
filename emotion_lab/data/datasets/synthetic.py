"""Drawn faces as a dataset: nothing to download, the truth known, as many as you like."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.types import DATASETS, SPLITS, ArrayStore, LoadedDataset, Split
from emotion_lab.synthetic.render import draw_face, sample_face

#: Images of each class in FER2013's Training split (Goodfellow et al. 2013), `EMOTIONS` order.
FER2013_COUNTS: tuple[int, ...] = (3995, 436, 4097, 7215, 4830, 3171, 4965)

#: With more images than this, drawing takes long enough to show a progress bar.
PROGRESS_FROM = 20_000


def _number(
    cfg: dict, key: str, low: float, high: float, example: object, *, whole: bool = True
) -> float:
    """Return ``cfg[key]`` when it is a number in [low, high].

    Raises:
        UserError: It is missing, not a number, not whole where it must be, or out of range.
    """
    value = cfg.get(key)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if whole else "a number"
        reach = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
        raise UserError(
            f"data.{key} must be {what} {reach}, not {value!r}. Set for instance "
            f"data.{key}={example}."
        )
    return value


def split_sizes(n: int) -> dict[str, int]:
    """Return the images of each split: 80/10/10 %, but val and test hold each class once.

    Args:
        n: Images in all, at least three times the number of classes.
    """
    held_out = max(len(EMOTIONS), round(n / 10))
    return {"train": n - 2 * held_out, "val": held_out, "test": held_out}


def class_counts(total: int) -> np.ndarray:
    """Share ``total`` images among the classes as FER2013 does, each class at least once.

    Returns:
        int64 (7,) in `EMOTIONS` order, summing to ``total`` (which is at least 7).
    """
    shares = np.array(FER2013_COUNTS, dtype=np.float64)
    # One image of each class is set aside; the rest goes by largest remainder.
    exact = np.maximum(shares / shares.sum() * total - 1, 0)
    exact *= (total - len(shares)) / max(exact.sum(), 1e-12)
    counts = np.floor(exact).astype(np.int64)
    missing = total - len(shares) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts + 1


def _draw_split(
    name: str,
    total: int,
    seed: int,
    size: int,
    channels: int,
    difficulty: float,
    progress: bool = False,
) -> Split:
    index = SPLITS.index(name)
    # Every image has its own seed, so neither the other splits nor the order of drawing matter.
    # Number 0 is the labels' stream, images start at 1.
    labels = np.repeat(np.arange(len(EMOTIONS), dtype=np.int64), class_counts(total))
    np.random.default_rng(np.random.SeedSequence([seed, index, 0])).shuffle(labels)
    images = np.empty((total, size, size, channels), dtype=np.uint8)
    positions: Iterable[int] = range(total)
    if progress:
        from rich.progress import track

        positions = track(positions, description=f"drawing {name}", total=total)
    for i in positions:
        rng = np.random.default_rng(np.random.SeedSequence([seed, index, i + 1]))
        spec = sample_face(rng, EMOTIONS[labels[i]], difficulty)
        images[i] = draw_face(spec, size, channels)
    names = [f"synthetic:{name}:{i}" for i in range(total)]
    return Split(ArrayStore(images), np.arange(total, dtype=np.int64), labels, names)


@DATASETS.register("synthetic")
def load(cfg: dict, splits: tuple[str, ...]) -> LoadedDataset:
    """Draw the splits asked for.

    Args:
        cfg: The ``data`` group as a plain dict: ``n``, ``size``, ``channels``, ``seed``,
            ``difficulty``.
        splits: Which of train, val, test to draw; the others are never made.

    Returns:
        A source whose splits depend on ``cfg`` alone, not on which of them were asked for.

    Raises:
        UserError: A value of ``cfg`` is out of range.
    """
    n = int(_number(cfg, "n", 3 * len(EMOTIONS), math.inf, 4000))
    size = int(_number(cfg, "size", 16, 4096, 48))
    seed = int(_number(cfg, "seed", 0, math.inf, 0))
    difficulty = float(_number(cfg, "difficulty", 0, 2, 1.0, whole=False))
    channels = int(_number(cfg, "channels", 1, 3, 1))
    if channels == 2:
        raise UserError("data.channels must be 1 (grey) or 3 (RGB), not 2. Set data.channels=1.")
    sizes = split_sizes(n)
    drawn = {
        name: _draw_split(name, sizes[name], seed, size, channels, difficulty, n > PROGRESS_FROM)
        for name in SPLITS
        if name in splits
    }
    note = f"{n} drawn faces of {size} x {size} pixels, seed {seed}, difficulty {difficulty:g}"
    return LoadedDataset(list(EMOTIONS), drawn, f"synthetic (n={n}, seed={seed})", [note])
