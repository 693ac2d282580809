"""Batch samplers that can resume in mid-epoch and share an epoch between processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from emotion_lab.core.errors import UserError

#: (epoch, position in the split) of each image of a batch.
BatchKeys = list[tuple[int, int]]


class ResumableRandomSampler(Sampler[BatchKeys]):
    """Random batches that depend only on (seed, epoch) and can start in mid-epoch.

    One step takes ``batch_size * world_size`` consecutive images of the epoch's order, whatever
    the number of processes. A last step of a single image is dropped (batch norm needs two),
    unless it is the only step.

    Args:
        size: N, images in the split.
        batch_size: Images in a batch of one process.
        seed: Seed of the run.
        weights: float (N,) sampling weights for drawing with replacement; None shuffles.
        rank: Rank of this process.
        world_size: Number of processes; each takes every ``world_size``-th image of the order.

    Attributes:
        epoch: Current epoch.
        start: First batch to yield in ``epoch``.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.probability = None if weights is None else weights / weights.sum()
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        full, remainder = divmod(self.size, self.batch_size * self.world_size)
        return max(1, full + (remainder > 1))

    def set_epoch(self, epoch: int) -> None:
        """Start ``epoch``. Setting the current epoch again keeps ``start``."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def global_order(self, epoch: int) -> np.ndarray:
        """Return the positions of ``epoch`` for all processes together, int64 (N,)."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.probability is None:
            return generator.permutation(self.size)
        return generator.choice(self.size, self.size, p=self.probability)

    def order(self, epoch: int) -> np.ndarray:
        """Return the positions of ``epoch`` for this process, int64."""
        order = self.global_order(epoch)[: len(self) * self.batch_size * self.world_size]
        local = order[self.rank :: self.world_size]
        # Every process takes part in the last step with at least two images (batch norm). If
        # there are too few, the first images of the epoch are repeated.
        last_batch = len(local) - (len(self) - 1) * self.batch_size
        missing = min(2, self.batch_size) - last_batch if self.world_size > 1 else 0
        return np.concatenate([local, order[: max(0, missing)]])

    def __iter__(self) -> Iterator[BatchKeys]:
        epoch = self.epoch
        order = self.order(epoch)
        for batch in range(self.start, len(self)):
            positions = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, int(position)) for position in positions]


class SequentialDistributedSampler(Sampler[BatchKeys]):
    """All positions once, in order; rank ``rank`` takes every ``world_size``-th.

    ``epoch`` is part of the keys.

    All processes yield the same number of batches, because every batch is synchronised between
    them. The last batch may therefore hold one image more than ``batch_size``.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if 0 < size < world_size:
            raise UserError(f"{size} images cannot be shared by {world_size} processes: use fewer.")
        self.epoch = 0
        self.positions = range(rank, size, world_size)
        self.batch_size = batch_size
        self.batches = -(-(size // world_size) // batch_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[BatchKeys]:
        for batch in range(self.batches):
            start = batch * self.batch_size
            end = start + self.batch_size if batch + 1 < self.batches else len(self.positions)
            yield [(self.epoch, p) for p in self.positions[start:end]]
