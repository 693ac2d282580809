"""Test-time augmentation: several views of each image, probabilities averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn import functional as F

from emotion_lab.core.errors import unknown

#: Share of the side that a crop of ``tencrop`` keeps (44 of FER2013's 48 pixels).
CROP = 44 / 48


def _none(images: Tensor) -> Iterator[Tensor]:
    yield images


def _flip(images: Tensor) -> Iterator[Tensor]:
    yield images
    yield images.flip(3)


def _tencrop(images: Tensor) -> Iterator[Tensor]:
    """Four corners and the centre, each mirrored too (Krizhevsky et al. 2012), at full size."""
    size = images.shape[3]
    side = round(size * CROP)
    rest = size - side
    for top, left in ((0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)):
        crop = images[:, :, top : top + side, left : left + side].float()
        crop = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False)
        yield from _flip(crop)


#: Name -> (images (B, C, S, S)) -> views of that shape.
VIEWS: dict[str, Callable[[Tensor], Iterator[Tensor]]] = {
    "none": _none,
    "flip": _flip,
    "tencrop": _tencrop,
}


def views(name: str) -> Callable[[Tensor], Iterator[Tensor]]:
    """Return the function that makes the views of a batch.

    Raises:
        UserError: For an unknown name.
    """
    if name not in VIEWS:
        raise unknown("tta", name, VIEWS, "Set it with tta=<name>.")
    return VIEWS[name]
