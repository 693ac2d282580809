"""Test-time augmentation: several views of each image, probabilities averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F

from emotion_lab.core.errors import unknown

#: Side of a ``tencrop`` crop, as a fraction of the image side (44 of 48 pixels for FER2013).
CROP = 44 / 48


def _none(images: Tensor) -> Iterator[Tensor]:
    yield images


def _flip(images: Tensor) -> Iterator[Tensor]:
    yield images
    yield images.flip(3)


def _tencrop(images: Tensor) -> Iterator[Tensor]:
    """Yield crops of the corners and the centre and their mirror images, resized to full size.

    Source: Krizhevsky et al. 2012.
    """
    size = images.shape[3]
    side = round(size * CROP)
    margin = size - side
    middle = margin // 2
    for top, left in ((0, 0), (0, margin), (margin, 0), (margin, margin), (middle, middle)):
        crop = images[:, :, top : top + side, left : left + side].float()
        crop = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False)
        yield from _flip(crop)


#: Name -> function from images (B, C, S, S) to views of the same shape.
VIEWS: dict[str, Callable[[Tensor], Iterator[Tensor]]] = {
    "none": _none,
    "flip": _flip,
    "tencrop": _tencrop,
}


def views(name: str) -> Callable[[Tensor], Iterator[Tensor]]:
    """Return the function that yields the views of a batch."""
    if name not in VIEWS:
        raise unknown("tta", name, VIEWS, "Set it with tta=<name>.")
    return VIEWS[name]
