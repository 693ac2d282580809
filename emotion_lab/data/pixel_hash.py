"""Hashes of decoded images, which are equal for the same picture in any lossless format."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, cache_root
from emotion_lab.data.images import read_image

#: Bytes of a hash.
DIGEST_SIZE = 16
#: Version of :func:`pixel_digest`; increase it if the hash of an image changes.
_VERSION = 1
#: Files per task of a thread pool.
CHUNK_SIZE = 128
#: Hashes that took longer than this are written to the cache directory.
_CACHED_FROM_S = 1.0


def pixel_digest(image: np.ndarray) -> bytes:
    """Return the blake2b-16 hash of an image.

    A grey image has the same hash whether it is stored with one channel or as RGB. The hash of a
    square image is that of its bytes; other shapes are part of the hash.

    Args:
        image: uint8 (H, W, C), C = 1 (grey) or 3 (RGB).
    """
    if image.shape[2] == 3 and (image == image[:, :, :1]).all():
        image = image[:, :, :1]
    height, width = image.shape[:2]
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_SIZE)
    if height != width:
        digest.update(f"{height}x{width}".encode())
    return digest.digest()


def file_digest(data: bytes) -> bytes:
    """Return the blake2b-16 hash of the content of a file."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


def thread_pool() -> ThreadPoolExecutor:
    """Return a thread pool for reading files."""
    return ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4))


def _decoded_digest(path: str, fallback: bytes) -> bytes:
    """Return the pixel hash of a file, or ``fallback`` if it cannot be decoded."""
    try:
        return pixel_digest(read_image(path))
    except UserError:
        return fallback


def decoded_digests(paths: list[str], file_digests: list[bytes]) -> list[bytes]:
    """Return the pixel hash of every file; the files are decoded in parallel.

    The hashes are kept in the cache directory, under the hash of all contents: the same files are
    decoded once.

    Args:
        paths: N image files.
        file_digests: Hash of the content of each.
    """

    def compute() -> bytes:
        with thread_pool() as pool:
            # A file that cannot be decoded keeps the hash of its bytes: it is found as unreadable.
            return b"".join(pool.map(_decoded_digest, paths, file_digests, chunksize=CHUNK_SIZE))

    name = f"pixel_hashes/{file_digest(b''.join(file_digests)).hex()}-{_VERSION}"
    data = cached_hashes(name, DIGEST_SIZE * len(paths), compute)
    return [data[i : i + DIGEST_SIZE] for i in range(0, len(data), DIGEST_SIZE)]


def cached_hashes(name: str, size: int, compute: Callable[[], bytes]) -> bytes:
    """Return ``size`` bytes of hashes from the cache directory, computed if they are not there.

    Hashes that take less than a second are not kept.

    Args:
        name: Folder and name in the cache directory; the same name means the same hashes.
        size: Number of bytes.
        compute: Returns the hashes.
    """
    cache = cache_root() / f"{name}.bin"
    with contextlib.suppress(OSError):
        data = cache.read_bytes()
        if len(data) == size:
            return data
    start = time.perf_counter()
    data = compute()
    if time.perf_counter() - start > _CACHED_FROM_S:
        # Without a cache the images are decoded again at the next start.
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(cache, data)
    return data
