"""Augmentation of whole batches where the network is, each image with draws of its own.

One warp (``torch.nn.functional.grid_sample``) does flip, rotation, scale and translation and brings
the batch to the size to train at; what the ranges mean is what they mean to albumentations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _between(low: float, high: float, n: int) -> Tensor:
    return low + (high - low) * torch.rand(n)


class DeviceAugment:
    """``augment=device``: random transforms of a batch, drawn per image.

    All randomness comes from torch's CPU generator, which training seeds at every step: the
    outcome is the same on any device and in a resumed run.

    Args:
        cfg: The ``augment`` group: ``flip``, ``warp`` (probability), ``scale`` (low, high),
            ``translate`` (share of the size), ``rotate`` (degrees), ``light`` (probability),
            ``brightness`` and ``contrast`` (shares), ``erase`` (probability), ``erase_size``
            (low, high, shares of the side) and ``sizes``.
        image_size: S, what the network is given in the end.
        channels: C, 1 or 3.
    """

    def __init__(self, cfg: dict[str, Any], image_size: int, channels: int) -> None:
        self.cfg = cfg
        self.image_size, self.channels = image_size, channels
        self.sizes = [(float(at), int(size)) for at, size in cfg["sizes"] or []]

    def size(self, progress: float) -> int:
        """Return the side in pixels to train at after ``progress`` (0..1) of the epochs."""
        # A hair of tolerance: epoch 3 of 10 is 0.3, whichever way the division rounds.
        begun = [size for at, size in self.sizes if at <= progress + 1e-9]
        return begun[-1] if begun else self.image_size

    def matrices(self, n: int) -> Tensor:
        """Draw n maps from output to input coordinates (-1..1, x then y), float32 (n, 2, 3)."""
        cfg = self.cfg
        warp = (torch.rand(n) < cfg["warp"]).float()
        angle = torch.deg2rad(_between(-cfg["rotate"], cfg["rotate"], n)) * warp
        scale = 1 + (_between(*cfg["scale"], n) - 1) * warp
        # A shift of the picture by a share of its side is twice that share in -1..1.
        shift = 2 * torch.stack([_between(-cfg["translate"], cfg["translate"], n) for _ in "xy"])
        shift = shift * warp
        mirror = 1 - 2 * (torch.rand(n) < cfg["flip"]).float()
        return affine(angle, scale, shift, mirror)

    def warp(self, images: Tensor, size: int, matrices: Tensor) -> Tensor:
        """Return float32 (B, c, size, size) from uint8 or float (B, c, h, w)."""
        images = images.float()
        if size < min(images.shape[2:]):
            # The warp samples points: without this, shrinking would alias.
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        shape = [len(images), images.shape[1], size, size]
        grid = F.affine_grid(matrices.to(images.device), shape, align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def relight(self, images: Tensor) -> Tensor:
        """Change contrast (a factor) and brightness (a share of 255), then clip to 0..255."""
        n, cfg = len(images), self.cfg
        light = (torch.rand(n) < cfg["light"]).float()
        factor = 1 + _between(-cfg["contrast"], cfg["contrast"], n) * light
        offset = 255 * _between(-cfg["brightness"], cfg["brightness"], n) * light
        pair = torch.stack([factor, offset]).to(images.device)[:, :, None, None, None]
        return torch.addcmul(pair[1], images, pair[0]).clamp_(0, 255)

    def erase(self, images: Tensor) -> Tensor:
        """Paint over one rectangle of some images with an even grey (arXiv:1708.04896)."""
        n, size = len(images), images.shape[-1]
        chosen = torch.rand(n) < self.cfg["erase"]
        sides = _between(*self.cfg["erase_size"], 2 * n).view(2, n)
        corner = torch.rand(2, n) * (1 - sides)
        value = torch.rand(n) * 255
        sides = torch.where(chosen, sides, 0.0)
        box = torch.stack([*corner, *(corner + sides)]).to(images.device)[:, :, None]
        at = (torch.arange(size, device=images.device) + 0.5) / size
        rows = (at >= box[0]) & (at < box[2])
        columns = (at >= box[1]) & (at < box[3])
        hole = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(hole, value.to(images.device)[:, None, None, None], images)

    def __call__(self, images: Tensor, progress: float = 1.0) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 (B, c, h, w); one channel is repeated where the network wants three.
            progress: Share of the epochs that are over.

        Returns:
            float32 (B, C, s, s), 0..255; s is :meth:`size` of ``progress``.
        """
        images = self.warp(images, self.size(progress), self.matrices(len(images)))
        images = self.relight(images)
        if self.cfg["erase"]:
            images = self.erase(images)
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images


def affine(angle: Tensor, scale: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Return the sampling matrices of known transforms, float32 (n, 2, 3).

    Args:
        angle: (n,) radians, clockwise as seen.
        scale: (n,) above 1 enlarges the picture.
        shift: (2, n) x (right) and y (down), in units of half the side.
        mirror: (n,) -1 flips left and right before anything else.
    """
    # The grid asks where an output pixel comes from, so this is the inverse transform:
    # shift back, turn back, shrink back, then mirror.
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    x = torch.stack([cosine, sine, -(cosine * shift[0] + sine * shift[1])], 1)
    y = torch.stack([-sine, cosine, -(-sine * shift[0] + cosine * shift[1])], 1)
    return torch.stack([x * mirror[:, None], y], 1)
