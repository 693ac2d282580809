"""Splits as batches: a dataset that fetches whole batches, and a sampler that can resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from emotion_lab.data.base import Split
from emotion_lab.data.transforms import Augment, Fit
from emotion_lab.errors import UserError


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: uint8 (B, C, S, S).
        labels: int64 (B,).
        positions: int64 (B,), positions in the split.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor


class SplitDataset(Dataset):
    """A split, fitted to the network's input, decoded on demand or kept in memory.

    Args:
        split: What to read.
        fit: The deterministic transform.
        augment: Random transforms, or None.
        keep: Whether to hold all images decoded in memory.
        skip_errors: Leave unreadable files out of their batch instead of raising.
    """

    def __init__(
        self,
        split: Split,
        fit: Fit,
        augment: Augment | None = None,
        keep: bool = False,
        skip_errors: bool = False,
    ) -> None:
        self.split = split
        self.fit = fit
        self.augment = augment
        self.skip_errors = skip_errors
        self._kept = [self._shrunk(i) for i in range(len(split))] if keep else None

    def _shrunk(self, position: int) -> np.ndarray | None:
        """Return the image, fitted now if that makes it smaller; None if it is to be skipped."""
        try:
            image = self.split.image(position)
        except UserError:
            if not self.skip_errors:
                raise
            return None
        fitted = self.fit.image_size**2 * self.fit.channels
        return self.fit(image) if fitted <= image.size else image

    def __len__(self) -> int:
        return len(self.split)

    def image(self, position: int, epoch: int = 0) -> np.ndarray:
        """Return uint8 (S, S, C), augmented when this dataset augments."""
        raw = self._kept[position] if self._kept is not None else None
        image = self.fit(self.split.image(position) if raw is None else raw)
        return self.augment(image, epoch, position) if self.augment else image

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Return the batch of (epoch, position) ``keys``."""
        images, kept = [], []
        for epoch, position in keys:
            try:
                images.append(self.image(position, epoch))
            except UserError:
                if not self.skip_errors:
                    raise
                continue
            kept.append(position)
        if not images:
            raise UserError("no image of a whole batch can be read: run with data.on_error=raise")
        stacked = np.stack(images).transpose(0, 3, 1, 2)
        positions = np.asarray(kept, dtype=np.int64)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(stacked)),
            torch.from_numpy(self.split.labels[positions]),
            torch.from_numpy(positions),
        )


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position), a pure function of (seed, epoch), that can start in mid-epoch.

    Args:
        size: N, images in the split.
        batch_size: Images in a batch of one process.
        seed: The run's seed.
        weights: float (N,) sampling weights for drawing with replacement, or None to shuffle.
        rank: This process.
        world: Number of processes; each takes every ``world``-th image of the same order.

    A last batch of a single image is dropped (batch norm needs two), unless it is the only one.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.probability = None if weights is None else weights / weights.sum()
        self.rank, self.world = rank, world
        self.epoch, self.start = 0, 0

    def _share(self) -> int:
        return -(-self.size // self.world)

    def __len__(self) -> int:
        full, rest = divmod(self._share(), self.batch_size)
        return max(1, full + (rest > 1))

    def set_epoch(self, epoch: int) -> None:
        """Begin ``epoch``; the batches of the same epoch go on where they were."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def order(self, epoch: int) -> np.ndarray:
        """Return this process's positions of ``epoch``, int64."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.probability is None:
            order = generator.permutation(self.size)
        else:
            order = generator.choice(self.size, self.size, p=self.probability)
        # Every process takes the same number of steps: the order wraps round.
        return np.resize(order, self._share() * self.world)[self.rank :: self.world]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = self.order(epoch)
        for batch in range(self.start, len(self)):
            part = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, int(position)) for position in part]


class InOrderSampler(Sampler[list[tuple[int, int]]]):
    """All positions in order, once; process ``rank`` of ``world`` takes every ``world``-th."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.positions = range(rank, size, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.positions), self.batch_size):
            yield [(0, p) for p in self.positions[start : start + self.batch_size]]


def _same(batch: Batch) -> Batch:
    return batch


def make_loader(
    dataset: SplitDataset, sampler: EpochSampler | InOrderSampler, workers: int
) -> DataLoader:
    """Return the loader of a split: the sampler says which images make a batch."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_same,
        persistent_workers=workers > 0,
    )
