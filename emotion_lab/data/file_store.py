"""Image store of files on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import read_image
from emotion_lab.data.pixel_hash import CHUNK_SIZE, decoded_digests, file_digest, thread_pool

_NUM_SIZE_SAMPLES = 64


class FileStore:
    """Image files, decoded on access.

    Args:
        paths: N files.
        file_digests: Hash of the content of each file; None: computed on first access.
    """

    def __init__(self, paths: list[str], file_digests: list[bytes] | None = None) -> None:
        self.paths = paths
        self._file_digests = file_digests
        self._digests: list[bytes] | None = None
        self._size_hint: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])

    def digest(self, index: int) -> bytes:
        """Return the hash of the pixels of image ``index``; the first call decodes all files."""
        if self._digests is None:
            self._digests = decoded_digests(self.paths, self._all_file_digests())
        return self._digests[index]

    def file_digest(self, index: int) -> bytes:
        """Return the hash of the bytes of file ``index``."""
        return self._all_file_digests()[index]

    def unreadable(self) -> list[int]:
        """Return the positions of the files that cannot be decoded; all files are decoded once."""
        files = self._all_file_digests()
        return [i for i in range(len(self)) if self.digest(i) == files[i]]

    def _all_file_digests(self) -> list[bytes]:
        """Return the hash of the bytes of every file."""
        if self._file_digests is None:
            with thread_pool() as pool:
                self._file_digests = list(pool.map(_hash_file, self.paths, chunksize=CHUNK_SIZE))
        return self._file_digests

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


def _hash_file(path: str) -> bytes:
    try:
        return file_digest(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
