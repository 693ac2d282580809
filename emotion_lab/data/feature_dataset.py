"""Cached features of a frozen backbone, which replace the images of the first epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from emotion_lab.data.samplers import BatchKeys
from emotion_lab.data.torch_dataset import Batch, SplitDataset


@dataclass
class CachedFeatures:
    """The features of train and val.

    Attributes:
        num_epochs: The first epochs of a run, which are trained on features.
        values: Split -> float32 (V, N, ...), V views of each image; filled before the first epoch.
    """

    num_epochs: int
    values: dict[str, Tensor] = field(default_factory=dict)


class FeatureDataset(Dataset):
    """Batches of cached features in the first epochs, and of images in the others.

    Epoch e uses view e modulo V of each image.

    Args:
        images: The images.
        cached: The features.
        split: ``train`` or ``val``.
    """

    def __init__(self, images: SplitDataset, cached: CachedFeatures, split: str) -> None:
        self.images, self.cached, self.split = images, cached, split

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: BatchKeys) -> Batch:
        """Return the batch of (epoch, position) ``keys``."""
        epoch = keys[0][0]
        if epoch >= self.cached.num_epochs:
            return self.images.__getitems__(keys)
        views = self.cached.values[self.split]
        positions = np.asarray([position for _, position in keys], dtype=np.int64)
        features = views[epoch % len(views)][positions]
        return self.images.batch(features, positions, epoch)._replace(are_features=True)
