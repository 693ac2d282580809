"""Image preprocessing (shared by training and inference) and training augmentation.

Training, evaluation and live inference use the same deterministic :class:`Resize`. Only this
module imports albumentations.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import unknown

# Disable the version check that albumentations sends over the network when imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@dataclass(frozen=True)
class Resize:
    """Deterministic transform to the input size and channels of the network.

    Attributes:
        image_size: S, the height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
    """

    image_size: int
    channels: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return uint8 (S, S, channels) from uint8 (H, W, 1) grey or (H, W, 3) RGB.

        Downscaling averages areas, upscaling is bilinear; the aspect ratio is not preserved.
        """
        size = self.image_size
        height, width = image.shape[:2]
        if image.shape[2] == 3 and self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if (height, width) != (size, size):
            shrink = height >= size and width >= size
            method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
            image = cv2.resize(image, (size, size), interpolation=method)
        if image.ndim == 2:
            image = image[:, :, None]
        if image.shape[2] == 1 and self.channels == 3:
            image = np.repeat(image, 3, axis=2)
        return np.ascontiguousarray(image)


def _light(size: int) -> list[Any]:
    import albumentations as A

    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.9, 1.1),
            translate_percent=(-0.06, 0.06),
            rotate=(-10, 10),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.7,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.3),
    ]


def _strong(size: int) -> list[Any]:
    import albumentations as A

    low, high = max(1, size // 8), max(2, size // 3)
    return [
        A.HorizontalFlip(p=0.5),
        A.RandomResizedCrop((size, size), scale=(0.8, 1.0), ratio=(0.9, 1.1), p=0.3),
        A.Affine(
            scale=(0.85, 1.15),
            translate_percent=(-0.1, 0.1),
            rotate=(-15, 15),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.8,
        ),
        A.Perspective(scale=(0.02, 0.06), border_mode=cv2.BORDER_REFLECT_101, p=0.2),
        A.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.3, p=0.6),
        A.GaussianBlur(blur_limit=(3, 3), p=0.1),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.1),
        A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(low, high),
            hole_width_range=(low, high),
            fill="random_uniform",
            p=0.4,
        ),
    ]


#: Preset name -> (image size -> list of albumentations transforms); the values of ``augment``.
PRESETS: dict[str, Callable[[int], list[Any]]] = {
    "none": lambda size: [],
    "light": _light,
    "strong": _strong,
}


class Augment:
    """Random training transforms, reproducible for each image and epoch.

    Args:
        name: One of :data:`PRESETS`.
        image_size: S.
        seed: Seed of the run.
    """

    def __init__(self, name: str, image_size: int, seed: int) -> None:
        if name not in PRESETS:
            raise unknown("augment", name, PRESETS, "Set it with augment=<name>.")
        transforms = PRESETS[name](image_size)
        self.seed = seed
        self.compose = None
        if transforms:
            import albumentations as A

            self.compose = A.Compose(transforms)

    def __call__(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """Return the augmented uint8 (S, S, C) image.

        The random state is a function of (seed, epoch, index). It does not depend on the number
        of workers or on whether the run was resumed.
        """
        if self.compose is None:
            return image
        key = np.random.SeedSequence((self.seed, epoch, index)).generate_state(2, np.uint64)
        generator = np.random.Generator(np.random.PCG64(int(key[0])))
        self.compose.set_random_state(generator, random.Random(int(key[1])))
        result = self.compose(image=image)["image"]
        return result if result.ndim == 3 else result[:, :, None]
