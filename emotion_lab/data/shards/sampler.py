"""The order in which a stream is learnt: shuffled within a few shards at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from emotion_lab.data.shards.store import ShardStore
from emotion_lab.data.splits import ConcatImageStore
from emotion_lab.data.torch_dataset import ResumableRandomSampler
from emotion_lab.data.types import Split


def _parts(store: Any) -> list[ShardStore] | None:
    """Return the streams a store is made of, None where any part of it is none."""
    stores = store.stores if isinstance(store, ConcatImageStore) else [store]
    return list(stores) if all(isinstance(part, ShardStore) for part in stores) else None


class ShardSampler(ResumableRandomSampler):
    """As :class:`ResumableRandomSampler`, a few shards at a time.

    An epoch goes through groups of ``mix`` shards, drawn anew each epoch; the images of a group
    come in random order. Where one group holds all shards, the order is that of
    :class:`ResumableRandomSampler`.

    Args:
        split: A split whose images are in streams.
        mix: Shards in a group.
        args: Of :class:`ResumableRandomSampler`, after the size.
    """

    def __init__(self, split: Split, mix: int, *args: Any) -> None:
        super().__init__(len(split), *args)
        parts = _parts(split.store)
        assert parts is not None
        numbers, first = [], 0
        for part in parts:
            numbers.append(part.index["shard"].astype(np.int64) + first)
            first += len(part.shards)
        self.mix = mix
        self.shard = np.concatenate(numbers)[split.indices]
        self._files = [(part.place, shard) for part in parts for shard in part.shards]
        self._remote = any(part.place.remote for part in parts)

    def groups(self, epoch: int) -> np.ndarray:
        """Return int64 (shards,): the group of each shard in ``epoch``."""
        generator = np.random.default_rng((self.seed, epoch, 1))
        return generator.permutation(len(self._files)) // self.mix

    def drawn(self, epoch: int) -> np.ndarray:
        """Return the positions of ``epoch`` for all processes together, int64 (N,)."""
        order = super().drawn(epoch)
        return order[np.argsort(self.groups(epoch)[self.shard[order]], kind="stable")]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if not self._remote:
            yield from super().__iter__()
            return
        groups = self.groups(self.epoch)
        begun = -1
        for batch in super().__iter__():
            group = int(groups[self.shard[batch[-1][1]]])
            if group >= begun:
                # This group and the one after it: the next is here when it is needed.
                for number in np.flatnonzero((groups >= max(group, begun)) & (groups <= group + 1)):
                    place, shard = self._files[number]
                    place.ahead([shard])
                begun = group + 2
            yield batch


def stream_sampler(split: Split, cfg: dict[str, Any], *args: Any) -> ResumableRandomSampler | None:
    """Return the sampler of a split that is read from a stream, None for any other.

    Args:
        split: The training split.
        cfg: The ``data`` group.
        args: Of :class:`ResumableRandomSampler`, after the size.
    """
    if _parts(split.store) is None:
        return None
    return ShardSampler(split, cfg["shuffle_buffer_shards"], *args)
