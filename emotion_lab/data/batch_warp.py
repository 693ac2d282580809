"""Warps of many small pictures at once, by OpenCV on the CPU."""

from __future__ import annotations

import functools
import math
import threading

import cv2
import numpy as np

#: Rows of pictures that one ``cv2.remap`` warps; it takes 32,767 at most, and float32 coordinates
#: lose their precision before that.
TOWER = 16384
#: Margins of so many sides are not worth their memory: such a picture is warped alone.
FAR = 2

#: Multiplications of one call that OpenBLAS does not share out: its threads go on spinning after
#: that, on the cores where OpenCV's are wanted.
BLAS = 200_000

#: Buffers of each thread, by name: fresh memory of that size costs more than the warp.
_kept = threading.local()


def _buffer(name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Return memory for ``shape``, with what was left in it."""
    length = math.prod(shape)
    kept = getattr(_kept, name, None)
    if kept is None or kept.size < length:
        kept = np.empty(length, kind)
        setattr(_kept, name, kept)
    return kept[:length].reshape(shape)


def shrunk(pictures: np.ndarray, size: int) -> np.ndarray:
    """Return uint8 (n, size, size, c) of uint8 (n, h, w, c), each pixel the mean of what it covers.

    One call for all: they stand above each other, and no output pixel reaches over an edge.
    """
    n, height, width, channels = pictures.shape
    tower = pictures.reshape(n * height, width, channels)
    small = cv2.resize(tower, (size, n * size), interpolation=cv2.INTER_AREA)
    return small.reshape(n, size, size, channels)


@functools.lru_cache(8)
def _grid(size: int) -> np.ndarray:
    """Return x, y and 1 of every output pixel, float32 (3, size * size)."""
    y, x = np.mgrid[:size, :size].reshape(2, -1)
    return np.stack([x, y, np.ones_like(x)]).astype(np.float32)


def _folded(margin: int, side: int) -> np.ndarray:
    """Return which pixel stands at -margin .. side + margin - 1 when the edges are mirrors."""
    at = np.arange(-margin, side + margin) % (2 * side)
    return np.minimum(at, 2 * side - 1 - at)


def _margins(maps: np.ndarray, sides: tuple[int, int], size: int) -> np.ndarray:
    """Return how many pixels beyond its picture (height, width) each map reaches, int (n,)."""
    last = size - 1
    corners = maps @ np.array([[0, last, 0, last], [0, 0, last, last], [1, 1, 1, 1]])
    over = corners - np.array([[sides[1] - 1], [sides[0] - 1]])
    return np.ceil(np.maximum(-corners, over).max((1, 2)).clip(0)).astype(int) + 1


def _remapped(pictures: np.ndarray, maps: np.ndarray, size: int, margin: int) -> np.ndarray:
    """Warp a few by one ``cv2.remap``: one above the other, with margins between.

    Most of a call of ``cv2.warpAffine`` for 48 pixels would be the call. What is returned is
    overwritten by the thread's next call.
    """
    n, height, width, channels = pictures.shape
    tall, wide = height + 2 * margin, width + 2 * margin
    tower = _buffer("tower", (n, tall, width, channels), np.uint8)
    np.take(pictures, _folded(margin, height), axis=1, out=tower, mode="clip")
    tower = tower.reshape(-1, width, channels)
    # remap mirrors too, but pixel by pixel.
    source = _buffer("source", (n * tall, wide, channels), np.uint8)
    cv2.copyMakeBorder(tower, 0, 0, margin, margin, cv2.BORDER_REFLECT, source)
    rows = maps.astype(np.float32)
    rows[:, :, 2] += margin
    rows[:, 1, 2] += np.arange(n) * tall
    places = []
    for axis, name in enumerate("xy"):
        place = _buffer(name, (n, size * size), np.float32)
        for k in range(0, n, block := max(1, BLAS // (3 * size * size))):
            np.matmul(rows[k : k + block, axis], _grid(size), out=place[k : k + block])
        places.append(place.reshape(-1, size))
    out = _buffer("out", (n * size, size, channels), np.uint8)
    cv2.remap(source, *places, cv2.INTER_LINEAR, out)
    return out.reshape(n, size, size, channels)


def warp(pictures: np.ndarray, maps: np.ndarray, out: np.ndarray) -> None:
    """Warp every picture by a matrix of its own, edges mirrored, bilinear.

    Args:
        pictures: uint8 (n, h, w, c).
        maps: float64 (n, 2, 3), from output to input pixels.
        out: uint8 (n, size, size, c), filled.
    """
    n, height, width, channels = pictures.shape
    size = out.shape[1]
    left = np.ones(n, bool)
    if height == width == size:
        # What is only flipped, or not even that, need not be interpolated.
        straight = np.abs(maps[:, 1] - [0, 1, 0]).max(1) < 1e-3
        is_same = straight & (np.abs(maps[:, 0] - [1, 0, 0]).max(1) < 1e-3)
        is_mirrored = straight & (np.abs(maps[:, 0] - [-1, 0, size - 1]).max(1) < 1e-3)
        out[is_same] = pictures[is_same]
        if is_mirrored.any():
            tower = pictures[is_mirrored].reshape(-1, width, channels)
            out[is_mirrored] = cv2.flip(tower, 1).reshape(-1, size, size, channels)
        left = ~(is_same | is_mirrored)
    margins = _margins(maps, (height, width), size)
    tallest = height + 2 * FAR * max(height, width)
    far = left & ((margins > FAR * max(height, width)) | (tallest > TOWER))
    for k in np.flatnonzero(far):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        one = cv2.warpAffine(
            pictures[k], maps[k], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        out[k] = one.reshape(out[k].shape)
    rest = np.flatnonzero(left & ~far)
    margin = int(margins[rest].max(initial=1))
    step = max(1, TOWER // max(height + 2 * margin, size))
    for begin in range(0, len(rest), step):
        some = rest[begin : begin + step]
        out[some] = _remapped(pictures[some], maps[some], size, margin)
