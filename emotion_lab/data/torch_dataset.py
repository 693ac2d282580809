"""A torch dataset that returns whole batches of a split, and its DataLoader."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from emotion_lab.data.ferplus import draw_labels
from emotion_lab.data.samplers import (
    BatchKeys,
    ResumableRandomSampler,
    SequentialDistributedSampler,
)
from emotion_lab.data.transforms import Augment, Resize
from emotion_lab.data.types import ArrayStore, Split


class Batch(NamedTuple):
    """One batch of a loader.

    Attributes:
        images: uint8 (B, C, S, S); see ``keep_grey`` of :class:`SplitDataset`. For temporal models
            float32 (B, T, K + 1), see :class:`~emotion_lab.data.window_dataset.WindowDataset`. Or
            the cached features of these images, float32 (B, ...), see :mod:`.feature_dataset`.
        labels: int64 (B,).
        positions: int64 (B,), positions in the split.
        soft: float32 (B, K) target probabilities used instead of ``labels``, or None.
        are_features: Whether ``images`` holds features.
    """

    images: Tensor
    labels: Tensor
    positions: Tensor
    soft: Tensor | None = None
    are_features: bool = False


class SplitDataset(Dataset):
    """Batches of a split at the input size of the network.

    Args:
        split: The split to read.
        resize: Deterministic transform to the input size.
        augment: Random transforms, or None.
        in_memory: Decode all images now and keep them.
        keep_grey: Return one channel for a batch of grey images; the caller repeats it for a
            network with three (``augment=device``, which then augments and transfers a third).
        label_seed: Draw the labels of an epoch from ``split.soft``, by (label_seed, epoch,
            position); None: ``split.soft`` is the target.
    """

    def __init__(
        self,
        split: Split,
        resize: Resize,
        augment: Augment | None = None,
        in_memory: bool = False,
        keep_grey: bool = False,
        label_seed: int | None = None,
    ) -> None:
        self.split = split
        self.resize = resize
        self.augment = augment
        self.keep_grey = keep_grey
        self.label_seed = label_seed
        self._images = self._decode_all() if in_memory else None
        #: All images in one array, if a batch can be indexed from it without per-image work.
        self._array: np.ndarray | None = None
        images = self._images
        if augment is None and isinstance(images, np.ndarray) and len(images):
            resize = self._resize_of(images[0])
            shape = (resize.image_size, resize.image_size, resize.channels)
            self._array = images if images.shape[1:] == shape else None

    @property
    def _input_shape(self) -> tuple[int, int, int]:
        return self.resize.image_size, self.resize.image_size, self.resize.channels

    def _resize_of(self, image: np.ndarray) -> Resize:
        """Return the transform of an image (H, W, 1 or 3), whatever the cache holds of it."""
        is_kept = self.keep_grey and image.shape[2] == 1
        return replace(self.resize, channels=1) if is_kept else self.resize

    def _decode_all(self) -> np.ndarray | list[np.ndarray]:
        """Return all images: one array (N, H, W, C) if they have one shape, else a list."""
        if not len(self):
            return []
        if (view := self._store_view()) is not None:
            return view
        first = self._decode(0)
        # One array is filled directly: stacking a list would need twice the memory.
        images = np.empty((len(self), *first.shape), np.uint8)
        images[0] = first
        for i in range(1, len(self)):
            image = self._decode(i)
            if image.shape != first.shape:
                return [*images[:i], image, *(self._decode(j) for j in range(i + 1, len(self)))]
            images[i] = image
        return images

    def _store_view(self) -> np.ndarray | None:
        """Return a view of the store's array if no resizing or reordering is needed."""
        indices = self.split.indices
        store, start = self.split.store, int(indices[0])
        if not isinstance(store, ArrayStore) or store.images.shape[1:] != self._input_shape:
            return None
        if not np.array_equal(indices, np.arange(start, start + len(indices))):
            return None
        # FER2013 is a memory-mapped file: a copy would take another 66 MB.
        return np.asarray(store.images)[start : start + len(indices)]

    def _decode(self, position: int) -> np.ndarray:
        """Return an image, resized if that makes it smaller."""
        image = self.split.image(position)
        if self.resize.channels == 1 and image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
        resize = self._resize_of(image)
        return resize(image) if resize.image_size**2 * resize.channels <= image.size else image

    def __len__(self) -> int:
        return len(self.split)

    def image(self, position: int, epoch: int = 0) -> np.ndarray:
        """Return uint8 (S, S, C), augmented for ``epoch`` if this dataset augments."""
        image = self._images[position] if self._images is not None else None
        image = self.split.image(position) if image is None else image
        image = self._resize_of(image)(image)
        return self.augment(image, epoch, position) if self.augment else image

    def __getitems__(self, keys: BatchKeys) -> Batch:
        """Return the batch of (epoch, position) ``keys``."""
        positions = np.asarray([position for _, position in keys], dtype=np.int64)
        if self._array is not None:
            return self._image_batch(self._array[positions], positions, keys[0][0])
        images = [self.image(position, epoch) for epoch, position in keys]
        if len({image.shape for image in images}) > 1:  # grey images in a batch with colour
            images = [np.broadcast_to(image, self._input_shape) for image in images]
        return self._image_batch(np.stack(images), positions, keys[0][0])

    def _image_batch(self, images: np.ndarray, positions: np.ndarray, epoch: int) -> Batch:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return self.batch(torch.from_numpy(channels_first), positions, epoch)

    def batch(self, images: Tensor, positions: np.ndarray, epoch: int) -> Batch:
        """Return a batch: images, positions int64 (B,), and their labels in ``epoch``."""
        labels, soft = self.split.labels[positions], self.split.soft
        soft = None if soft is None else soft[positions]
        if self.label_seed is not None and soft is not None:
            # The samplers use (seed, epoch) and (seed, epoch, 1).
            generator = np.random.default_rng((self.label_seed, epoch, 2))
            labels, soft = draw_labels(soft, generator.random(len(self))[positions]), None
        return Batch(
            images,
            torch.from_numpy(labels),
            torch.from_numpy(positions),
            None if soft is None else torch.from_numpy(soft),
        )


def _identity(batch: Any) -> Any:
    return batch


def make_loader(
    dataset: Dataset,
    sampler: ResumableRandomSampler | SequentialDistributedSampler,
    num_workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Return a DataLoader of the batches that ``sampler`` yields."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_identity,  # the dataset returns whole batches
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )
