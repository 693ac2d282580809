"""Synthetic faces; no download, exact labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.core.labels import COORDINATES, EMOTIONS
from emotion_lab.core.progress import track
from emotion_lab.data.types import DATASETS, SPLITS, ArrayStore, LoadedDataset, Split
from emotion_lab.synthetic.persons import sample_face_of, sample_person
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face

#: Images of each class in the Training split of FER2013 (Goodfellow et al. 2013), in ``EMOTIONS``
#: order.
FER2013_COUNTS: tuple[int, ...] = (3995, 436, 4097, 7215, 4830, 3171, 4965)


def split_sizes(n: int) -> dict[str, int]:
    """Return the images of each split: 80/10/10 %, val and test at least one of each class.

    Args:
        n: Total number of images, at least three times the number of classes.
    """
    held_out = max(len(EMOTIONS), round(n / 10))
    return {"train": n - 2 * held_out, "val": held_out, "test": held_out}


def class_counts(total: int) -> np.ndarray:
    """Distribute ``total`` images over the classes as in FER2013, at least one for each class.

    Returns:
        int64 (7,) in ``EMOTIONS`` order, summing to ``total`` (which is at least 7).
    """
    reference = np.array(FER2013_COUNTS, dtype=np.float64)
    # One image of each class, then the largest remainder method.
    exact = np.maximum(reference / reference.sum() * total - 1, 0)
    exact *= (total - len(reference)) / max(exact.sum(), 1e-12)
    counts = np.floor(exact).astype(np.int64)
    unassigned = total - len(reference) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:unassigned]] += 1
    return counts + 1


def _sample_strengths(
    labels: np.ndarray, strengths: Sequence[float], seed: tuple[int, int]
) -> np.ndarray:
    """Sample the strength of each expression, float64 (N,); 0 for a neutral face."""
    rng = np.random.default_rng(np.random.SeedSequence([*seed, 0, 0, 1]))
    values = rng.uniform(strengths[0], strengths[1], len(labels))
    return np.where(labels == EMOTIONS.index("neutral"), 0.0, values)


def _quantities(labels: np.ndarray, strength: np.ndarray) -> dict[str, np.ndarray]:
    """Return valence and arousal, the coordinates of the emotion by the strength, and intensity."""
    coordinates = np.array([COORDINATES[name] for name in EMOTIONS])[labels] * strength[:, None]
    values = {"valence": coordinates[:, 0], "arousal": coordinates[:, 1], "intensity": strength}
    return {name: column.astype(np.float32) for name, column in values.items()}


def _draw_split(
    name: str,
    total: int,
    seed: int,
    size: int,
    channels: int,
    difficulty: float,
    persons: int = 0,
    strengths: Sequence[float] | None = None,
) -> Split:
    index = SPLITS.index(name)
    # Each image has its own seed and is independent of other splits and the drawing order.
    # Seed 0 is used for the labels, images start at 1.
    labels = np.repeat(np.arange(len(EMOTIONS), dtype=np.int64), class_counts(total))
    np.random.default_rng(np.random.SeedSequence([seed, index, 0])).shuffle(labels)
    images = np.empty((total, size, size, channels), dtype=np.uint8)
    people = [
        sample_person(np.random.default_rng(np.random.SeedSequence([seed, index, 0, person])))
        for person in range(persons)
    ]
    # Dealt class by class: everyone has about the same number of images of each class.
    owner = np.empty(total, np.int64)
    owner[np.argsort(labels, kind="stable")] = np.arange(total) % max(persons, 1)
    strength = None if strengths is None else _sample_strengths(labels, strengths, (seed, index))
    for i in track(range(total), f"drawing {name}", total):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index, i + 1]))
        intensity = None if strength is None else float(strength[i])
        arguments = (rng, EMOTIONS[labels[i]], difficulty, intensity)
        spec = sample_face_of(people[owner[i]], *arguments) if people else sample_face(*arguments)
        images[i] = draw_face(spec, size, channels)
    names = [f"synthetic:{name}:{i}" for i in range(total)]
    groups = [f"{name}{person}-{people[person].resting}" for person in owner] if people else None
    indices = np.arange(total, dtype=np.int64)
    quantities = {} if strength is None else _quantities(labels, strength)
    store = ArrayStore(images)
    return Split(store, indices, labels, names, groups=groups, quantities=quantities)


@DATASETS.register("synthetic")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Draw the requested splits.

    Args:
        cfg: The ``data`` group as a plain dict: ``n``, ``size``, ``channels``, ``seed``,
            ``difficulty``, ``persons`` (in every split others; they set ``Split.groups``),
            ``strengths`` (sets ``Split.quantities``).
        splits: The splits to draw.

    Returns:
        Splits that depend on ``cfg`` only, not on which of them were requested.
    """
    n, size, seed, difficulty = cfg["n"], cfg["size"], cfg["seed"], cfg["difficulty"]
    sizes = split_sizes(n)
    # Checkpoints of earlier versions have neither.
    total, strengths = cfg.get("persons", 0), cfg.get("strengths")
    persons = {name: max(1, round(total * sizes[name] / n)) if total else 0 for name in SPLITS}
    arguments = (seed, size, cfg["channels"], difficulty)
    drawn = {
        name: _draw_split(name, sizes[name], *arguments, persons[name], strengths)
        for name in SPLITS
        if name in splits
    }
    note = f"{n} synthetic faces of {size} x {size} pixels, seed {seed}, difficulty {difficulty:g}"
    return LoadedDataset(list(EMOTIONS), drawn, f"synthetic (n={n}, seed={seed})", [note])
