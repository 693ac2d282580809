"""Augmentation of whole batches where the network is, each image with draws of its own.

One warp does flip, rotation, scale and translation and brings the image to the size to train at:
``torch.nn.functional.grid_sample`` on an accelerator, OpenCV on the CPU. What the ranges mean is
what they mean to albumentations.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emotion_lab.data.batch_warp import shrunk, warp


def _spread(draws: Any, low: float, high: float) -> Any:
    """Bring draws of 0..1 to low..high."""
    return low + (high - low) * draws


def _beside(images: Tensor, draws: Tensor) -> Tensor:
    """Bring draws to where the images are, without waiting for what is under way there."""
    return draws.to(images.device, non_blocking=True)


class BatchAugment:
    """``augment=device``: random transforms of a batch, drawn per image.

    All randomness comes from torch's CPU generator, which training seeds at every step: the
    outcome is the same on any device and in a resumed run.

    Args:
        cfg: The ``augment`` group: ``flip_p``, ``affine_p`` (probabilities), ``scale`` (low, high),
            ``translate`` (share of the size), ``degrees``, ``color_jitter_p`` (probability),
            ``brightness`` and ``contrast`` (shares), ``erase_p`` (probability), ``erase_size``
            (low, high, shares of the side) and ``progressive_resize``.
        image_size: S, what the network is given in the end.
        channels: C, 1 or 3.
    """

    def __init__(self, cfg: dict[str, Any], image_size: int, channels: int) -> None:
        self.cfg = cfg
        self.image_size, self.channels = image_size, channels
        self.sizes = [(float(at), int(size)) for at, size in cfg["progressive_resize"] or []]

    def size(self, progress: float) -> int:
        """Return the side in pixels to train at after ``progress`` (0..1) of the epochs."""
        # A hair of tolerance: epoch 3 of 10 is 0.3, whichever way the division rounds.
        begun = [size for at, size in self.sizes if at <= progress + 1e-9]
        return begun[-1] if begun else self.image_size

    def matrices(self, n: int) -> Tensor:
        """Draw n maps from output to input coordinates (-1..1, x then y), float32 (n, 2, 3)."""
        cfg = self.cfg
        draws = torch.rand(6, n).numpy()
        moved = draws[0] < cfg["affine_p"]
        angle = np.radians(_spread(draws[1], -cfg["degrees"], cfg["degrees"]) * moved)
        scale = 1 + (_spread(draws[2], *cfg["scale"]) - 1) * moved
        # A shift of the picture by a share of its side is twice that share in -1..1.
        shift = 2 * _spread(draws[3:5], -cfg["translate"], cfg["translate"]) * moved
        mirror = 1 - 2 * (draws[5] < cfg["flip_p"]).astype(np.float32)
        return torch.from_numpy(affine(angle, scale, shift, mirror))

    def warp(self, images: Tensor, size: int, matrices: Tensor) -> Tensor:
        """Return float32 (B, c, size, size) from uint8 or float (B, c, h, w)."""
        images = images.float()
        if size < min(images.shape[2:]):
            # The warp samples points: without this, shrinking would alias.
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        shape = [len(images), images.shape[1], size, size]
        grid = F.affine_grid(_beside(images, matrices), shape, align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def lights(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n factors (contrast) and offsets (brightness, in grey levels), each float32 (n,)."""
        cfg = self.cfg
        draws = torch.rand(3, n).numpy()
        light = draws[0] < cfg["color_jitter_p"]
        factor = 1 + _spread(draws[1], -cfg["contrast"], cfg["contrast"]) * light
        offset = 255 * _spread(draws[2], -cfg["brightness"], cfg["brightness"]) * light
        return torch.from_numpy(factor), torch.from_numpy(offset)

    def holes(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n rectangles to paint over (arXiv:1708.04896).

        Returns:
            Top, left, bottom and right as shares of the side, (4, n), empty where there is none;
            and the grey levels to fill them with, (n,).
        """
        chosen = torch.rand(n) < self.cfg["erase_p"]
        sides = _spread(torch.rand(2, n), *self.cfg["erase_size"])
        corner = torch.rand(2, n) * (1 - sides)
        value = torch.rand(n) * 255
        sides = torch.where(chosen, sides, 0.0)
        return torch.stack([*corner, *(corner + sides)]), value

    def relight(self, images: Tensor) -> Tensor:
        """Change contrast and brightness of float (B, c, s, s), then clip to 0..255."""
        pair = _beside(images, torch.stack(self.lights(len(images))))[:, :, None, None, None]
        return torch.addcmul(pair[1], images, pair[0]).clamp_(0, 255)

    def erase(self, images: Tensor) -> Tensor:
        """Paint over one rectangle of some images of float (B, c, s, s) with an even grey."""
        box, value = self.holes(len(images))
        box, size = _beside(images, box)[:, :, None], images.shape[-1]
        at = (torch.arange(size, device=images.device) + 0.5) / size
        rows = (at >= box[0]) & (at < box[2])
        columns = (at >= box[1]) & (at < box[3])
        hole = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(hole, _beside(images, value)[:, None, None, None], images)

    def _by_opencv(self, images: Tensor, size: int) -> Tensor:
        """Do the same to uint8 images on the CPU, with the same draws.

        OpenCV's warp of 8-bit images is many times faster there than ``grid_sample`` of floats.
        """
        n = len(images)
        pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
        matrices = self.matrices(n)
        # numpy: torch would wake all its threads for these few numbers.
        factor, offset = (part.numpy() for part in self.lights(n))
        boxes, values = (part.numpy() for part in self.holes(n)) if self.cfg["erase_p"] else ([], [])
        if size < min(pictures.shape[1:3]):
            pictures = shrunk(pictures, size)
        maps = _pixels(matrices, pictures.shape[1:3], size)
        out = np.empty((n, size, size, pictures.shape[3]), np.uint8)
        warp(pictures, maps, out)
        lit = np.flatnonzero((factor != 1) | (offset != 0))
        tables = np.arange(256, dtype=np.float32) * factor[lit, None] + offset[lit, None]
        tables = tables.round().clip(0, 255).astype(np.uint8)
        for k, table in zip(lit.tolist(), tables, strict=True):
            picture = out[k]
            cv2.LUT(picture, table, picture)
        if len(boxes):
            # Pixels whose centre lies in the box, as in erase().
            for k, box in enumerate(np.ceil(boxes * size - 0.5).astype(int).T):
                out[k, box[0] : box[2], box[1] : box[3]] = round(float(values[k]))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def __call__(self, images: Tensor, progress: float = 1.0) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 (B, c, h, w); one channel is repeated where the network wants three.
            progress: Share of the epochs that are over.

        Returns:
            (B, C, s, s), 0..255, float32 on an accelerator and uint8 on the CPU; s is :meth:`size`
            of ``progress``. The draws are the same on every device.
        """
        size = self.size(progress)
        if images.device.type == "cpu" and images.dtype == torch.uint8:
            images = self._by_opencv(images, size)
        else:
            images = self.warp(images, size, self.matrices(len(images)))
            images = self.relight(images)
            if self.cfg["erase_p"]:
                images = self.erase(images)
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images


def _pixels(matrices: Tensor, source: tuple[int, int], size: int) -> np.ndarray:
    """Bring sampling matrices from -1..1 coordinates to pixels, float64 (n, 2, 3).

    Args:
        matrices: (n, 2, 3) of :func:`affine`.
        source: Height and width of the image that is sampled.
        size: Side of the output.
    """
    maps = matrices.numpy().astype(np.float64)
    sides = np.array([source[1], source[0]], np.float64)[:, None]
    # Centres lie half a pixel in: x = ((u + 1) * side - 1) / 2 and u = (2 x' + 1) / size - 1.
    maps[:, :, 2] += 1 + maps[:, :, :2].sum(2) * (1 / size - 1)
    maps[:, :, :2] *= sides / size
    maps[:, :, 2:] *= sides / 2
    maps[:, :, 2] -= 0.5
    return maps


def affine(
    angle: np.ndarray, scale: np.ndarray, shift: np.ndarray, mirror: np.ndarray
) -> np.ndarray:
    """Return the sampling matrices of known transforms, float32 (n, 2, 3).

    Args:
        angle: (n,) radians, clockwise as seen.
        scale: (n,) above 1 enlarges the picture.
        shift: (2, n) x (right) and y (down), in units of half the side.
        mirror: (n,) -1 flips left and right before anything else.
    """
    # The grid asks where an output pixel comes from, so this is the inverse transform:
    # shift back, turn back, shrink back, then mirror.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    x = np.stack([cosine, sine, -(cosine * shift[0] + sine * shift[1])], 1)
    y = np.stack([-sine, cosine, sine * shift[0] - cosine * shift[1]], 1)
    return np.stack([x * mirror[:, None], y], 1).astype(np.float32)
