"""Splits as batches: a dataset that fetches whole batches, and a sampler that can resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Augment, Resize
from emotion_lab.data.types import ArrayStore, Split


class Batch(NamedTuple):
    """What a loader yields.

    Attributes:
        images: uint8 (B, C, S, S).
        labels: int64 (B,).
        positions: int64 (B,), positions in the split.
        soft: float32 (B, K) to learn instead of ``labels``, or None.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    soft: Tensor | None = None


class SplitDataset(Dataset):
    """A split, fitted to the network's input, decoded on demand or kept in memory.

    Args:
        split: What to read.
        fit: The deterministic transform.
        augment: Random transforms, or None.
        keep: Whether to hold all images decoded in memory.
        skip_errors: Leave unreadable files out of their batch instead of raising.
        raw: Whoever takes the batches fits the images itself: where all images in memory have one
            shape, hand them out as they are (``augment=device``).
    """

    def __init__(
        self,
        split: Split,
        fit: Resize,
        augment: Augment | None = None,
        keep: bool = False,
        skip_errors: bool = False,
        raw: bool = False,
    ) -> None:
        self.split = split
        self.fit = fit
        self.augment = augment
        self.skip_errors = skip_errors
        self.raw = raw
        #: Names of the images that could not be read while all were decoded.
        self.skipped: list[str] = []
        self._kept = self._hold() if keep else None
        one_shape = isinstance(self._kept, np.ndarray)
        fitted = one_shape and self._kept.shape[1:] == self._shape
        #: Whether a batch is cut from one array, without a step for each image.
        self._at_once = augment is None and one_shape and (fitted or raw)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.fit.image_size, self.fit.image_size, self.fit.channels

    def _hold(self) -> np.ndarray | list[np.ndarray | None]:
        """Decode all images: one array (N, H, W, C) where they have one shape, else a list."""
        if not len(self):
            return []
        if (whole := self._in_store()) is not None:
            return whole
        first = self._shrunk(0)
        if first is None:
            return [None, *(self._shrunk(i) for i in range(1, len(self)))]
        held = np.empty((len(self), *first.shape), np.uint8)
        held[0] = first
        for i in range(1, len(self)):
            image = self._shrunk(i)
            if image is None or image.shape != first.shape:
                rest = [self._shrunk(j) for j in range(i + 1, len(self))]
                return [*held[:i], image, *rest]
            held[i] = image
        return held

    def _in_store(self) -> np.ndarray | None:
        """Return the images as they lie in the store, where they need no fitting and no order."""
        indices = self.split.indices
        store, begin = self.split.store, int(indices[0])
        fits = isinstance(store, ArrayStore) and store.images.shape[1:] == self._shape
        if not fits or not np.array_equal(indices, np.arange(begin, begin + len(indices))):
            return None
        # FER2013 lies in a mapped file: a copy would cost its 66 MB a second time.
        return np.asarray(store.images)[begin : begin + len(indices)]

    def _shrunk(self, position: int) -> np.ndarray | None:
        """Return the image, fitted now if that makes it smaller; None if it is to be skipped."""
        try:
            image = self.split.image(position)
        except UserError:
            if not self.skip_errors:
                raise
            self.skipped.append(str(self.split.names[position]))
            return None
        if self.fit.channels == 1 and image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
        return self.fit(image) if np.prod(self._shape) <= image.size else image

    def __len__(self) -> int:
        return len(self.split)

    def image(self, position: int, epoch: int = 0) -> np.ndarray:
        """Return uint8 (S, S, C), augmented when this dataset augments."""
        raw = self._kept[position] if self._kept is not None else None
        image = self.fit(self.split.image(position) if raw is None else raw)
        return self.augment(image, epoch, position) if self.augment else image

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Return the batch of (epoch, position) ``keys``."""
        if self._at_once:
            assert isinstance(self._kept, np.ndarray)
            positions = np.asarray([position for _, position in keys], dtype=np.int64)
            return self._batch(self._kept[positions], positions)
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
            raise UserError("no image of a whole batch can be read: run with data.on_decode_error=raise")
        return self._batch(np.stack(images), np.asarray(kept, dtype=np.int64))

    def _batch(self, images: np.ndarray, positions: np.ndarray) -> Batch:
        return Batch(
            torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))),
            torch.from_numpy(self.split.labels[positions]),
            torch.from_numpy(positions),
            None if self.split.soft is None else torch.from_numpy(self.split.soft[positions]),
        )


class ResumableRandomSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position), a pure function of (seed, epoch), that can start in mid-epoch.

    Args:
        size: N, images in the split.
        batch_size: Images in a batch of one process.
        seed: The run's seed.
        weights: float (N,) sampling weights for drawing with replacement, or None to shuffle.
        rank: This process.
        world: Number of processes; each takes every ``world``-th image of the same order.

    A step is ``batch_size * world`` images of the order; which these are does not depend on how
    many processes share them. A last step of a single image is dropped (batch norm needs two),
    unless it is the only one.
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

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size * self.world)
        return max(1, full + (rest > 1))

    def set_epoch(self, epoch: int) -> None:
        """Begin ``epoch``; the batches of the same epoch go on where they were."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def drawn(self, epoch: int) -> np.ndarray:
        """Return the positions of ``epoch`` for all processes together, int64 (N,)."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.probability is None:
            return generator.permutation(self.size)
        return generator.choice(self.size, self.size, p=self.probability)

    def order(self, epoch: int) -> np.ndarray:
        """Return this process's positions of ``epoch``, int64."""
        drawn = self.drawn(epoch)[: len(self) * self.batch_size * self.world]
        own = drawn[self.rank :: self.world]
        # All processes take part in the last step, with two images at least (batch norm): where
        # too few are left, the first of the epoch come again.
        last = len(own) - (len(self) - 1) * self.batch_size
        missing = min(2, self.batch_size) - last if self.world > 1 else 0
        return np.concatenate([own, drawn[: max(0, missing)]])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = self.order(epoch)
        for batch in range(self.start, len(self)):
            part = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, int(position)) for position in part]


class SequentialDistributedSampler(Sampler[list[tuple[int, int]]]):
    """All positions in order, once; process ``rank`` of ``world`` takes every ``world``-th.

    All processes have the same number of batches, for each batch is an exchange between them; a
    last batch may hold one image more than ``batch_size``.

    Raises:
        UserError: If there are fewer images than processes.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if 0 < size < world:
            raise UserError(f"{size} images cannot be shared by {world} processes: use fewer.")
        self.positions = range(rank, size, world)
        self.batch_size = batch_size
        self.batches = -(-(size // world) // batch_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.batches):
            start = batch * self.batch_size
            end = start + self.batch_size if batch + 1 < self.batches else len(self.positions)
            yield [(0, p) for p in self.positions[start:end]]


def _same(batch: Batch) -> Batch:
    return batch


def make_loader(
    dataset: SplitDataset,
    sampler: ResumableRandomSampler | SequentialDistributedSampler,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Return the loader of a split: the sampler says which images make a batch."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_same,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
