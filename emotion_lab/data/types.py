"""What a dataset is here: stores of images, splits of them, and the source that holds both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from emotion_lab.core.registry import Registry

#: Split names, in the order they are shown.
SPLITS: tuple[str, ...] = ("train", "val", "test")


class ImageStore(Protocol):
    """Images by index. Implementations must be picklable (DataLoader workers)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 (H, W, C), C = 1 (grey) or 3 (RGB)."""
        ...

    def digest(self, index: int) -> bytes:
        """Return a 16-byte content hash; equal for byte-identical images."""
        ...

    def size_hint(self) -> int:
        """Return the expected bytes of all images once decoded."""
        ...


class ArrayStore:
    """Images of one size in one uint8 array (N, H, W, C), in memory or memory-mapped."""

    def __init__(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"expected uint8 (N, H, W, C), got {images.dtype} {images.shape}")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def digest(self, index: int) -> bytes:
        import hashlib

        return hashlib.blake2b(self.images[index].tobytes(), digest_size=16).digest()

    def size_hint(self) -> int:
        return int(self.images.nbytes)


@dataclass
class Split:
    """One split of a dataset.

    Attributes:
        store: Where the images are.
        indices: int64 (N,), positions in ``store``.
        labels: int64 (N,), positions in the source's ``classes``.
        names: N sample names for people: a path, or ``file:row``.
        soft: float32 (N, K) to learn instead of ``labels``, rows sum to 1, or None.
        opinions: Name of a label set -> int64 (N,), -1 where it has no label. Evaluation reports
            every one of them beside ``labels``.
        votes: int64 (N, K), how many people saw each class, or None.
    """

    store: ImageStore
    indices: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    soft: np.ndarray | None = None
    opinions: dict[str, np.ndarray] = field(default_factory=dict)
    votes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, position: int) -> np.ndarray:
        """Return the image at ``position`` of this split, uint8 (H, W, C)."""
        return self.store[int(self.indices[position])]

    def digests(self) -> list[bytes]:
        """Return the content hash of every image of this split, in order."""
        return [self.store.digest(int(index)) for index in self.indices]

    def subset(self, positions: np.ndarray) -> Split:
        """Return the split made of ``positions`` (int, in order)."""
        positions = np.asarray(positions, dtype=np.int64)
        return Split(
            self.store,
            self.indices[positions],
            self.labels[positions],
            [self.names[p] for p in positions],
            None if self.soft is None else self.soft[positions],
            {name: labels[positions] for name, labels in self.opinions.items()},
            None if self.votes is None else self.votes[positions],
        )


@dataclass
class LoadedDataset:
    """What a dataset module returns.

    Attributes:
        classes: Class names; the position is the label.
        splits: The splits that were asked for and exist.
        location: The path or description that error messages name.
        notes: Lines worth printing (what was skipped, merged, made).
        skipped: Paths of the files that ``on_decode_error: skip`` left out.
        found: Every split the data holds, asked for or not; empty when the loader cannot say.
        folders: Class name -> what the data calls it; empty where it has no names of its own.
    """

    classes: list[str]
    splits: dict[str, Split]
    location: str
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    folders: dict[str, list[str]] = field(default_factory=dict)


#: ``load(cfg, splits) -> Source``; ``cfg`` is the plain dict of the ``data`` group.
#: A loader opens only the splits named: that is how the test split stays closed.
DATASETS: Registry[Callable[..., LoadedDataset]] = Registry("data", "emotion_lab.data.datasets")
