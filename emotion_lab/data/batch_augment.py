"""Augmentation of whole batches on the device of the network, with random draws per image.

One affine warp does flip, rotation, scale and translation and resizes to the training size:
``torch.nn.functional.grid_sample`` on an accelerator, OpenCV on the CPU. The ranges have the
same meaning as in albumentations.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from emotion_lab.data.batch_warp import area_resize, warp


def _scale_to(draws: Any, low: float, high: float) -> Any:
    """Map draws from [0, 1) to [low, high)."""
    return low + (high - low) * draws


def _to_device_of(images: Tensor, draws: Tensor) -> Tensor:
    return draws.to(images.device, non_blocking=True)


class BatchAugment:
    """Random transforms of a batch, drawn per image (``augment=device``).

    All random numbers come from torch's CPU generator, which training seeds at every step.
    Results are therefore equal on every device and in a resumed run.

    Args:
        cfg: The ``augment`` group: ``flip_p``, ``affine_p`` (probabilities), ``scale`` (low, high),
            ``translate`` (fraction of the side), ``degrees``, ``color_jitter_p`` (probability),
            ``brightness`` and ``contrast`` (fractions), ``erase_p`` (probability), ``erase_size``
            (low, high, fractions of the side) and ``progressive_resize``, a list of
            (progress, side in pixels).
        image_size: S, final input size of the network.
        channels: C, 1 or 3.
    """

    def __init__(self, cfg: dict[str, Any], image_size: int, channels: int) -> None:
        self.cfg = cfg
        self.image_size, self.channels = image_size, channels
        self.sizes = [(float(at), int(size)) for at, size in cfg["progressive_resize"] or []]

    def size_at(self, progress: float) -> int:
        """Return the side in pixels to train at after ``progress`` (0..1) of the epochs."""
        # Tolerance for floating-point rounding of epoch / max_epochs.
        reached = [size for at, size in self.sizes if at <= progress + 1e-9]
        return reached[-1] if reached else self.image_size

    def sample_affine(self, n: int) -> Tensor:
        """Draw n maps from output to input coordinates (-1..1, x then y), float32 (n, 2, 3)."""
        cfg = self.cfg
        draws = torch.rand(6, n).numpy()
        applied = draws[0] < cfg["affine_p"]
        angle = np.radians(_scale_to(draws[1], -cfg["degrees"], cfg["degrees"]) * applied)
        scale = 1 + (_scale_to(draws[2], *cfg["scale"]) - 1) * applied
        # A shift by a fraction of the side is twice that fraction in -1..1 coordinates.
        shift = 2 * _scale_to(draws[3:5], -cfg["translate"], cfg["translate"]) * applied
        mirror = 1 - 2 * (draws[5] < cfg["flip_p"]).astype(np.float32)
        return torch.from_numpy(affine_matrices(angle, scale, shift, mirror))

    def sample_jitter(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n contrast factors and brightness offsets (in grey levels), float32 (n,) each."""
        cfg = self.cfg
        draws = torch.rand(3, n).numpy()
        applied = draws[0] < cfg["color_jitter_p"]
        factor = 1 + _scale_to(draws[1], -cfg["contrast"], cfg["contrast"]) * applied
        offset = 255 * _scale_to(draws[2], -cfg["brightness"], cfg["brightness"]) * applied
        return torch.from_numpy(factor), torch.from_numpy(offset)

    def sample_boxes(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n rectangles for random erasing (Zhong et al. 2017, arXiv:1708.04896).

        They are top, left, bottom and right as fractions of the side, (4, n), empty for images
        that are not erased; the second value is the fill value in grey levels, (n,).
        """
        applied = torch.rand(n) < self.cfg["erase_p"]
        sides = _scale_to(torch.rand(2, n), *self.cfg["erase_size"])
        corner = torch.rand(2, n) * (1 - sides)
        value = torch.rand(n) * 255
        sides = torch.where(applied, sides, 0.0)
        return torch.stack([*corner, *(corner + sides)]), value

    def warp(self, images: Tensor, size: int, matrices: Tensor) -> Tensor:
        """Return float32 (B, c, size, size) from uint8 or float (B, c, h, w)."""
        images = images.float()
        if size < min(images.shape[2:]):
            # grid_sample reads single points, so shrinking without this step would alias.
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        shape = [len(images), images.shape[1], size, size]
        grid = F.affine_grid(_to_device_of(images, matrices), shape, align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def jitter(self, images: Tensor) -> Tensor:
        """Change contrast and brightness of float (B, c, s, s), then clip to 0..255."""
        jitter = _to_device_of(images, torch.stack(self.sample_jitter(len(images))))
        factor, offset = jitter[:, :, None, None, None]
        return torch.addcmul(offset, images, factor).clamp_(0, 255)

    def erase(self, images: Tensor) -> Tensor:
        """Fill one rectangle of some images of float (B, c, s, s) with a constant grey level."""
        boxes, values = self.sample_boxes(len(images))
        boxes, size = _to_device_of(images, boxes)[:, :, None], images.shape[-1]
        centres = (torch.arange(size, device=images.device) + 0.5) / size
        rows = (centres >= boxes[0]) & (centres < boxes[2])
        columns = (centres >= boxes[1]) & (centres < boxes[3])
        erased = (rows[:, :, None] & columns[:, None, :])[:, None]
        return torch.where(erased, _to_device_of(images, values)[:, None, None, None], images)

    def _augment_with_opencv(self, images: Tensor, size: int) -> Tensor:
        """Augment uint8 images on the CPU, with the same draws as on an accelerator.

        OpenCV warps 8-bit images many times faster on a CPU than ``grid_sample`` warps floats.
        """
        n = len(images)
        arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        matrices = self.sample_affine(n)
        # numpy, because torch would wake all its threads for these few numbers.
        factor, offset = (values.numpy() for values in self.sample_jitter(n))
        if size < min(arrays.shape[1:3]):
            arrays = area_resize(arrays, size)
        pixel_matrices = _to_pixels(matrices, arrays.shape[1:3], size)
        out = np.empty((n, size, size, arrays.shape[3]), np.uint8)
        warp(arrays, pixel_matrices, out)
        changed = np.flatnonzero((factor != 1) | (offset != 0))
        tables = np.arange(256, dtype=np.float32) * factor[changed, None] + offset[changed, None]
        tables = tables.round().clip(0, 255).astype(np.uint8)
        for k, table in zip(changed.tolist(), tables, strict=True):
            cv2.LUT(out[k], table, out[k])
        if self.cfg["erase_p"]:
            boxes, values = (values.numpy() for values in self.sample_boxes(n))
            # Pixels whose centre is inside the box, as in erase().
            for k, box in enumerate(np.ceil(boxes * size - 0.5).astype(int).T):
                out[k, box[0] : box[2], box[1] : box[3]] = round(float(values[k]))
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def __call__(self, images: Tensor, progress: float = 1.0) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 (B, c, h, w); one channel is repeated for a network with three.
            progress: Fraction of the epochs that are finished, 0..1.

        Returns:
            (B, C, s, s), 0..255, float32 on an accelerator and uint8 on the CPU; s is
            :meth:`size_at` of ``progress``. The draws are the same on every device.
        """
        size = self.size_at(progress)
        if images.device.type == "cpu" and images.dtype == torch.uint8:
            images = self._augment_with_opencv(images, size)
        else:
            images = self.jitter(self.warp(images, size, self.sample_affine(len(images))))
            if self.cfg["erase_p"]:
                images = self.erase(images)
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images


def _to_pixels(matrices: Tensor, source: tuple[int, ...], size: int) -> np.ndarray:
    """Convert :func:`affine_matrices` to pixels, float64 (n, 2, 3); ``source`` is (h, w)."""
    maps = matrices.numpy().astype(np.float64)
    sides = np.array([source[1], source[0]], np.float64)[:, None]
    # Centres are half a pixel in: x = ((u + 1) * side - 1) / 2 and u = (2 x' + 1) / size - 1.
    maps[:, :, 2] += 1 + maps[:, :, :2].sum(2) * (1 / size - 1)
    maps[:, :, :2] *= sides / size
    maps[:, :, 2:] *= sides / 2
    maps[:, :, 2] -= 0.5
    return maps


def affine_matrices(
    angle: np.ndarray, scale: np.ndarray, shift: np.ndarray, mirror: np.ndarray
) -> np.ndarray:
    """Return the sampling matrices of given transforms, float32 (n, 2, 3).

    Args:
        angle: (n,) radians, clockwise.
        scale: (n,) above 1 enlarges the image.
        shift: (2, n) x (right) and y (down), in units of half the side.
        mirror: (n,) -1 flips left and right before the other transforms.
    """
    # affine_grid maps output to input, so this is the inverse transform: shift back, rotate
    # back, shrink back, then mirror.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    x = np.stack([cosine, sine, -(cosine * shift[0] + sine * shift[1])], 1)
    y = np.stack([-sine, cosine, sine * shift[0] - cosine * shift[1]], 1)
    return np.stack([x * mirror[:, None], y], 1).astype(np.float32)
