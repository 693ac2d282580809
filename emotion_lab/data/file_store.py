"""Image store of files on disk."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import read_image

#: Files per task of a thread pool.
CHUNK_SIZE = 128
_NUM_SIZE_SAMPLES = 64


def file_digest(data: bytes) -> bytes:
    """Return the blake2b-16 hash of the content of a file."""
    return hashlib.blake2b(data, digest_size=16).digest()


def thread_pool() -> ThreadPoolExecutor:
    """Return a thread pool for reading files."""
    return ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 4))


class FileStore:
    """Image files, decoded on access, with content hashes of 16 bytes (None: hashed on access)."""

    def __init__(self, paths: list[str], digests: list[bytes] | None = None) -> None:
        self.paths = paths
        self._digests: list[bytes | None] = list(digests) if digests else [None] * len(paths)
        self._size_hint: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    def digest(self, index: int) -> bytes:
        """Return the blake2b-16 hash of the bytes of file ``index``."""
        digest = self._digests[index]
        if digest is None:
            try:
                digest = file_digest(Path(self.paths[index]).read_bytes())
            except OSError as error:
                raise UserError(f"Cannot read {self.paths[index]}: {error.strerror}.") from error
            self._digests[index] = digest
        return digest

    def compute_digests(self) -> None:
        """Hash all files that have no digest yet, in parallel."""
        with thread_pool() as pool:
            list(pool.map(self.digest, range(len(self)), chunksize=CHUNK_SIZE))

    def size_hint(self) -> int:
        """Return the expected bytes of all decoded images, estimated from up to 64 headers."""
        if self._size_hint is None:
            sizes = []
            num_samples = min(len(self), _NUM_SIZE_SAMPLES)
            for index in np.linspace(0, len(self) - 1, num_samples).astype(int):
                try:
                    with Path(self.paths[index]).open("rb") as stream, Image.open(stream) as image:
                        grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
                        sizes.append(image.width * image.height * (1 if grey else 3))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    continue
            self._size_hint = int(np.mean(sizes) * len(self)) if sizes else 0
        return self._size_hint
