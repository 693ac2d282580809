"""Sampler that shuffles within a buffer of a few shards at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from emotion_lab.data.samplers import BatchKeys, ResumableRandomSampler
from emotion_lab.data.shards.store import ShardStore
from emotion_lab.data.splits import ConcatImageStore
from emotion_lab.data.types import ImageStore, Split


def shard_stores(store: ImageStore) -> list[ShardStore]:
    """Return the shard stores of a store; empty if any part of it is another store."""
    stores = store.stores if isinstance(store, ConcatImageStore) else [store]
    matching = [part for part in stores if isinstance(part, ShardStore)]
    return matching if len(matching) == len(stores) else []


class ShardSampler(ResumableRandomSampler):
    """:class:`ResumableRandomSampler` with a shuffle buffer of a few shards.

    An epoch visits random groups of ``buffer_shards`` shards one after the other and shuffles
    the images within a group. If one group holds all shards, the order is that of
    :class:`ResumableRandomSampler`.

    Args:
        split: A split with all images in shards.
        buffer_shards: Shards in a group.
        args: Arguments of :class:`ResumableRandomSampler` after ``size``.
    """

    def __init__(self, split: Split, buffer_shards: int, *args: Any) -> None:
        super().__init__(len(split), *args)
        stores = shard_stores(split.store)
        shard_of_image, num_shards = [], 0
        for store in stores:
            shard_of_image.append(store.index["shard"].astype(np.int64) + num_shards)
            num_shards += len(store.shards)
        self.buffer_shards = buffer_shards
        #: Shard of each image, int64 (N,).
        self.shard = np.concatenate(shard_of_image)[split.indices]
        self._files = [(store.storage, shard) for store in stores for shard in store.shards]
        self._remote = any(store.storage.remote for store in stores)

    def groups(self, epoch: int) -> np.ndarray:
        """Return the group of each shard in ``epoch``, int64 (num_shards,)."""
        generator = np.random.default_rng((self.seed, epoch, 1))
        return generator.permutation(len(self._files)) // self.buffer_shards

    def global_order(self, epoch: int) -> np.ndarray:
        """Return the positions of ``epoch`` for all processes together, int64 (N,)."""
        order = super().global_order(epoch)
        return order[np.argsort(self.groups(epoch)[self.shard[order]], kind="stable")]

    def __iter__(self) -> Iterator[BatchKeys]:
        if not self._remote:
            yield from super().__iter__()
            return
        groups = self.groups(self.epoch)
        next_group = -1
        for batch in super().__iter__():
            group = int(groups[self.shard[batch[-1][1]]])
            if group >= next_group:
                # Prefetch this group and the next one.
                is_due = (groups >= max(group, next_group)) & (groups <= group + 1)
                for number in np.flatnonzero(is_due):
                    storage, shard = self._files[number]
                    storage.prefetch([shard])
                next_group = group + 2
            yield batch
