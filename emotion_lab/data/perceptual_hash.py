"""Perceptual hashes, which are similar for copies of a picture whose pixels differ.

The hash of a copy that was mirrored, resized or compressed again differs in few bits. Numbers for
FER2013 are in docs/report.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dct

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import track
from emotion_lab.data.pixel_hash import cached_hashes, file_digest, thread_pool
from emotion_lab.data.shards.store import ShardStore
from emotion_lab.data.splits import ConcatImageStore
from emotion_lab.data.types import ImageStore, Split

#: Side of the grey thumbnails that are hashed.
THUMBNAIL_SIDE = 32
#: A hash of training images has 10 x 10 bits: 64 bits do not tell faces apart that fill the frame.
SIZE = 10
#: Bytes of a packed hash of training images.
PACKED_SIZE = (SIZE**2 + 7) // 8
#: Largest distance of two near copies, in bits of 100.
MAX_DISTANCE = 8
#: Thumbnails with a smaller standard deviation have no hash: it would depend on noise only.
MIN_CONTRAST = 5.0
#: Version of :func:`split_hashes`; increase it if the hash of an image changes.
_VERSION = 1
#: Thumbnails hashed, and hashes compared with all others, at once.
_HASHED, _COMPARED = 4096, 512


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, C), as grey levels, uint8 (H, W)."""
    return image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """Return grey levels, uint8 (H, W), resized to uint8 (32, 32)."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS))


def perceptual_hashes(thumbnails: np.ndarray, size: int = 8) -> np.ndarray:
    """Return the DCT hash, bool (N, size * size), of grey thumbnails, uint8 (N, 32, 32).

    The lowest frequencies of each direction are compared with their median (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions"). With ``size`` 8 it is
    equal to ImageHash's ``phash``. Vectorised: ImageHash is called once per image.
    """
    hashes = np.zeros((len(thumbnails), size * size), bool)
    for start in range(0, len(thumbnails), _HASHED):
        block = thumbnails[start : start + _HASHED].astype(np.float64)
        low = dct(dct(block, axis=1), axis=2)[:, :size, :size].reshape(-1, size * size)
        hashes[start : start + _HASHED] = low > np.median(low, axis=1, keepdims=True)
    return hashes


def close_pairs(
    a: np.ndarray, b: np.ndarray, max_distance: int, ordered: bool = False
) -> Iterator[np.ndarray]:
    """Yield the pairs of hashes with a Hamming distance up to ``max_distance``.

    All pairs are compared, with one matrix product per block of ``a``: 36,000 hashes with each
    other take a few seconds.

    Args:
        a: bool (N, B).
        b: bool (M, B).
        max_distance: In bits.
        ordered: Only pairs i < j, in half of the time; N = M.

    Yields:
        int64 (P, 3): i in ``a``, j in ``b``, distance.
    """
    bits = a.shape[1]
    # With bits as -1 and 1 the inner product is bits - 2 * distance.
    left, right = (np.where(hashes, 1, -1).astype(np.float32) for hashes in (a, b))
    for start in range(0, len(left), _COMPARED):
        first = start if ordered else 0
        product = left[start : start + _COMPARED] @ right[first:].T
        i, j = np.nonzero(product >= bits - 2 * max_distance)
        if ordered:  # the block on the diagonal has pairs i >= j
            i, j = i[i < j], j[i < j]
        distance = (bits - product[i, j]) / 2
        yield np.stack([i + start, j + first, distance.astype(np.int64)], axis=1)


def split_hashes(part: Split) -> np.ndarray | None:
    """Return the packed hash of every image of a split and of its mirror image.

    They are kept in the cache directory: the same images are decoded once.

    Returns:
        uint8 (N, 2, 13); 0 for an image without contrast or one that cannot be decoded. None for
        a remote stream, whose images would all be downloaded.
    """
    if _is_remote(part.store):
        return None
    name = f"perceptual_hashes/{file_digest(b''.join(part.digests())).hex()}-{_VERSION}"
    row = 2 * PACKED_SIZE
    data = cached_hashes(name, row * len(part), lambda: _compute(part).tobytes())
    return np.frombuffer(data, np.uint8).reshape(-1, 2, PACKED_SIZE)


def _shards(store: ImageStore) -> list[ShardStore]:
    stores = store.stores if isinstance(store, ConcatImageStore) else [store]
    return [part for part in stores if isinstance(part, ShardStore)]


def _is_remote(store: ImageStore) -> bool:
    return any(part.storage.remote for part in _shards(store))


def _compute(part: Split) -> np.ndarray:
    def read(position: int) -> np.ndarray:
        try:
            return thumbnail(to_grey(part.image(position)))
        except UserError:  # raised again where the image is used
            return np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)

    with thread_pool() as pool:
        positions = range(len(part))
        # Threads would share the file positions of shards.
        images = map(read, positions) if _shards(part.store) else pool.map(read, positions)
        thumbnails = np.stack(list(track(images, "perceptual hashes", len(part))))
    hashes = [perceptual_hashes(t, SIZE) for t in (thumbnails, thumbnails[:, :, ::-1])]
    packed = np.packbits(np.stack(hashes, axis=1), axis=2)
    packed[thumbnails.std(axis=(1, 2)) < MIN_CONTRAST] = 0
    return packed


def is_close(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return bool (N,): whether an image or its mirror image is a near copy of a known image.

    Args:
        hashes: uint8 (N, 2, 13), see :func:`split_hashes`.
        known: uint8 (M, 13).
    """
    result, bits = np.zeros(len(hashes), bool), _unpack(known)
    for orientation in (0, 1):
        rows = np.flatnonzero(~result & hashes[:, orientation].any(1))
        for pairs in close_pairs(_unpack(hashes[rows, orientation]), bits, MAX_DISTANCE):
            result[rows[pairs[:, 0]]] = True
    return result


def _unpack(packed: np.ndarray) -> np.ndarray:
    """Return packed hashes, uint8 (N, 13), as bool (N, 100)."""
    return np.unpackbits(packed, axis=1, count=SIZE**2).astype(bool)
