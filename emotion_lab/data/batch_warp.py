"""Affine warps of many small images in few OpenCV calls on the CPU.

Most of the time of ``cv2.warpAffine`` for a 48x48 image is call overhead. Images are therefore
stacked vertically with mirrored margins between them and warped by one ``cv2.remap``.
"""

from __future__ import annotations

import functools
import math
import threading

import cv2
import numpy as np

#: Maximum rows of a stack of images for one ``cv2.remap``. OpenCV accepts 32,767; float32
#: coordinates lose precision before that.
MAX_STACK_ROWS = 16384
#: Largest margin in sides of the image; images that need more are warped individually.
MAX_MARGIN_SIDES = 2

#: Multiplications per ``np.matmul`` below which OpenBLAS stays on one thread. Its threads would
#: keep spinning on the cores that OpenCV needs next.
BLAS_SINGLE_THREAD_OPS = 200_000

#: Buffers of each thread, by name: allocating memory of that size takes longer than the warp.
_buffers = threading.local()


def _buffer(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Return uninitialised memory of ``shape`` that is reused by the next call."""
    length = math.prod(shape)
    buffer = getattr(_buffers, name, None)
    if buffer is None or buffer.size < length:
        buffer = np.empty(length, dtype)
        setattr(_buffers, name, buffer)
    return buffer[:length].reshape(shape)


def area_resize(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink uint8 (n, h, w, c) to (n, size, size, c) by averaging areas.

    One call resizes all images, stacked vertically: no output pixel crosses an image border.
    """
    n, height, width, channels = images.shape
    stack = images.reshape(n * height, width, channels)
    small = cv2.resize(stack, (size, n * size), interpolation=cv2.INTER_AREA)
    return small.reshape(n, size, size, channels)


@functools.lru_cache(8)
def _grid(size: int) -> np.ndarray:
    """Return homogeneous coordinates (x, y, 1) of the output pixels, float32 (3, size * size)."""
    y, x = np.mgrid[:size, :size].reshape(2, -1)
    return np.stack([x, y, np.ones_like(x)]).astype(np.float32)


def _mirrored_indices(margin: int, side: int) -> np.ndarray:
    """Return the pixel index at -margin .. side + margin - 1 with mirrored borders, int."""
    indices = np.arange(-margin, side + margin) % (2 * side)
    return np.minimum(indices, 2 * side - 1 - indices)


def _margins(maps: np.ndarray, sides: tuple[int, int], size: int) -> np.ndarray:
    """Return how many pixels outside its image (height, width) each map samples, int (n,)."""
    last = size - 1
    corners = maps @ np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])
    over = corners - np.array([[sides[1] - 1], [sides[0] - 1]])
    return np.ceil(np.maximum(-corners, over).max((1, 2)).clip(0)).astype(int) + 1


def _warp_stack(images: np.ndarray, maps: np.ndarray, size: int, margin: int) -> np.ndarray:
    """Warp images by one ``cv2.remap``, stacked vertically with margins between them.

    The result is a buffer that the next call in this thread overwrites.
    """
    n, height, width, channels = images.shape
    padded_height, padded_width = height + 2 * margin, width + 2 * margin
    rows = _buffer("rows", (n, padded_height, width, channels), np.uint8)
    np.take(images, _mirrored_indices(margin, height), axis=1, out=rows, mode="clip")
    rows = rows.reshape(-1, width, channels)
    # remap could mirror the borders, but does it pixel by pixel.
    stack = _buffer("stack", (n * padded_height, padded_width, channels), np.uint8)
    cv2.copyMakeBorder(rows, 0, 0, margin, margin, cv2.BORDER_REFLECT, stack)
    matrices = maps.astype(np.float32)
    matrices[:, :, 2] += margin
    matrices[:, 1, 2] += np.arange(n) * padded_height
    block = max(1, BLAS_SINGLE_THREAD_OPS // (3 * size * size))

    def coordinates(axis: int, name: str) -> np.ndarray:
        values = _buffer(name, (n, size * size), np.float32)
        for k in range(0, n, block):
            np.matmul(matrices[k : k + block, axis], _grid(size), out=values[k : k + block])
        return values.reshape(-1, size)

    out = _buffer("out", (n * size, size, channels), np.uint8)
    cv2.remap(stack, coordinates(0, "x"), coordinates(1, "y"), cv2.INTER_LINEAR, out)
    return out.reshape(n, size, size, channels)


def warp(images: np.ndarray, maps: np.ndarray, out: np.ndarray) -> None:
    """Warp each image by its own matrix, with mirrored borders and bilinear interpolation.

    Args:
        images: uint8 (n, h, w, c).
        maps: float64 (n, 2, 3), from output to input pixels.
        out: uint8 (n, size, size, c), filled.
    """
    _, height, width, channels = images.shape
    size = out.shape[1]
    interpolated = np.ones(len(images), bool)
    if height == width == size:
        # Identity and flip need no interpolation.
        straight = np.abs(maps[:, 1] - [0, 1, 0]).max(1) < 1e-3
        is_same = straight & (np.abs(maps[:, 0] - [1, 0, 0]).max(1) < 1e-3)
        is_mirrored = straight & (np.abs(maps[:, 0] - [-1, 0, size - 1]).max(1) < 1e-3)
        out[is_same] = images[is_same]
        if is_mirrored.any():
            stack = images[is_mirrored].reshape(-1, width, channels)
            out[is_mirrored] = cv2.flip(stack, 1).reshape(-1, size, size, channels)
        interpolated = ~(is_same | is_mirrored)
    margins = _margins(maps, (height, width), size)
    max_margin = MAX_MARGIN_SIDES * max(height, width)
    too_tall = height + 2 * max_margin > MAX_STACK_ROWS
    single = interpolated & ((margins > max_margin) | too_tall)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for k in np.flatnonzero(single):
        warped = cv2.warpAffine(
            images[k], maps[k], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        out[k] = warped.reshape(out[k].shape)
    stacked = np.flatnonzero(interpolated & ~single)
    margin = int(margins[stacked].max(initial=1))
    step = max(1, MAX_STACK_ROWS // max(height + 2 * margin, size))
    for start in range(0, len(stacked), step):
        chunk = stacked[start : start + step]
        out[chunk] = _warp_stack(images[chunk], maps[chunk], size, margin)
