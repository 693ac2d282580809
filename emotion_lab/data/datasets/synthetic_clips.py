"""Synthetic clips of faces whose emotion changes; the truth of every frame is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.progress import track
from emotion_lab.data.datasets.synthetic import split_sizes
from emotion_lab.data.types import DATASETS, SPLITS, ArrayStore, LoadedDataset, Looks, Split
from emotion_lab.synthetic.clips import SyntheticClip, draw_clip


def _draw_split(name: str, n: int, cfg: dict[str, Any]) -> Split:
    keys = ("seconds", "size", "channels", "difficulty")

    def draw(number: int) -> SyntheticClip:
        # Each clip has its own seed and is independent of other splits.
        rng = np.random.default_rng([cfg["seed"], SPLITS.index(name), number])
        emotion = EMOTIONS[number % len(EMOTIONS)]
        return draw_clip(rng, emotion, *(cfg[key] for key in keys))

    clips = [draw(number) for number in track(range(n), f"drawing {name}", total=n)]
    images = np.concatenate([clip.images for clip in clips])
    numbers = np.repeat(np.arange(n), [len(clip.times) for clip in clips])
    groups = [f"drawn:{name}:{number}" for number in numbers]
    times = np.concatenate([clip.times for clip in clips])
    names = [f"{group}:{time_s:.3f}" for group, time_s in zip(groups, times, strict=True)]
    return Split(
        ArrayStore(images),
        np.arange(len(images), dtype=np.int64),
        np.concatenate([clip.labels for clip in clips]),
        names,
        groups=groups,
        looks=Looks(numbers, times),
    )


@DATASETS.register("synthetic_clips")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Draw the requested splits; every clip shows another person.

    Args:
        cfg: The ``data`` group as a plain dict: ``n`` (clips), ``seconds``, ``size``,
            ``channels``, ``seed``, ``difficulty``.
        splits: The splits to draw.

    Returns:
        Splits that depend on ``cfg`` only, not on which of them were requested.
    """
    sizes = split_sizes(cfg["n"])
    drawn = {name: _draw_split(name, sizes[name], cfg) for name in SPLITS if name in splits}
    note = (
        f"{cfg['n']} synthetic clips of {cfg['seconds']:g} s, one person each, seed {cfg['seed']}, "
        f"difficulty {cfg['difficulty']:g}"
    )
    location = f"synthetic clips (n={cfg['n']}, seed={cfg['seed']})"
    return LoadedDataset(list(EMOTIONS), drawn, location, [note])
