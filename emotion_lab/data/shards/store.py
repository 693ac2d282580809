"""Random access to images in tar shards (WebDataset layout) through an index.

    stream.json          classes, licence, fingerprints, files and their sizes; written last
    train/000000.tar     <number>.cls and <number>.png (or .jpg, ...), images in random order
    train/index.npy      one row per image, in the order of the original dataset
    train/names.bin      concatenated sample names

The index holds shard and offset of each image. Every image is one read, so shuffling, resuming
and distributed sampling work as for any other dataset.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from io import FileIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.data.images import to_array
from emotion_lab.data.pixel_hash import pixel_digest
from emotion_lab.data.shards.storage import Storage
from emotion_lab.data.types import SampleNames, Split

#: Version of the layout; increase it if the files change meaning.
FORMAT = 2
#: Versions that can be read.
FORMATS = (1, 2)

_FIELDS = [
    ("shard", "<u4"),
    ("offset", "<u8"),
    ("size", "<u4"),
    ("label", "<u4"),
    ("digest", "V16"),
    ("name", "<u8"),
]
#: Row of the index: shard, offset and bytes of the image in it, label, hash of the content, end of
#: the name in ``names.bin``, and hash of the pixels.
INDEX = np.dtype([*_FIELDS, ("pixels", "V16")])
#: Version 1 had no hash of the pixels.
_INDEX_1 = np.dtype(_FIELDS)

_MAX_OPEN_SHARDS = 64


class ShardNames(SampleNames):
    """Sample names, decoded on access: UTF-8 ``text``, uint8, and their ends in it, uint64 (N,)."""

    def __init__(self, ends: np.ndarray, text: np.ndarray) -> None:
        self.ends, self.text = ends, text

    def __len__(self) -> int:
        return len(self.ends)

    def _name(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")


class ShardStore:
    """Images of one split.

    Args:
        storage: Folder or S3 address of the stream.
        shards: (name, bytes) of each shard.
        index: ``INDEX`` (N,).
        digest_of: Input of the hashes of the content: ``file`` (encoded bytes) or ``pixels``.
        decoded_bytes: Expected bytes of all decoded images.
    """

    def __init__(
        self,
        storage: Storage,
        shards: list[tuple[str, int]],
        index: np.ndarray,
        digest_of: str,
        decoded_bytes: int,
    ) -> None:
        self.storage, self.shards, self.index = storage, shards, index
        self.digest_of, self.decoded_bytes = digest_of, decoded_bytes
        self._pixels: dict[int, bytes] = {}
        self._open_files: OrderedDict[int, FileIO] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": OrderedDict(), "_pid": -1}

    def __len__(self) -> int:
        return len(self.index)

    def _file(self, shard: int) -> FileIO:
        """Return an open shard; files are reopened after a fork, which shares file positions."""
        if self._pid != os.getpid():
            self._open_files, self._pid = OrderedDict(), os.getpid()
        if shard in self._open_files:
            self._open_files.move_to_end(shard)
            return self._open_files[shard]
        path = self.storage.file(*self.shards[shard])
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise UserError(f"Cannot open {path}: {error.strerror}.") from None
        self._open_files[shard] = file
        if len(self._open_files) > _MAX_OPEN_SHARDS:
            self._open_files.popitem(last=False)[1].close()
        return file

    def _corrupted(self, index: int, reason: str) -> UserError:
        shard = f"{self.storage.name}/{self.shards[int(self.index['shard'][index])][0]}"
        return UserError(
            f"image {index} of {shard} {reason}: the stream is damaged; copy that file again, or "
            "shard the data again."
        )

    def _read_encoded(self, index: int) -> bytes:
        row = self.index[index]
        try:
            file = self._file(int(row["shard"]))
            file.seek(int(row["offset"]))
            data = file.read(int(row["size"]))
        except OSError as error:
            raise self._corrupted(index, f"cannot be read ({error.strerror})") from None
        if self.digest_of == "file":
            self._verify(index, data)
        return data

    def _verify(self, index: int, data: bytes) -> None:
        if hashlib.blake2b(data, digest_size=16).digest() != self.file_digest(index):
            raise self._corrupted(index, "has changed since it was written")

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 (H, W, C), C = 1 or 3."""
        data = self._read_encoded(index)
        if self.digest_of == "pixels":
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise self._corrupted(index, "has changed since it was written")
            is_grey = image.ndim == 2
            image = image[:, :, None] if is_grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            self._verify(index, image.tobytes())
            return image
        try:
            with Image.open(io.BytesIO(data)) as pil_image:
                return to_array(pil_image)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise arbitrary exceptions
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._corrupted(index, f"cannot be decoded ({reason})") from None

    def digest(self, index: int) -> bytes:
        """Return the hash of the pixels of image ``index``; version 1 decodes the image for it."""
        if "pixels" in (self.index.dtype.names or ()):
            return self.index["pixels"][index].tobytes()
        if index not in self._pixels:
            self._pixels[index] = pixel_digest(self[index])
        return self._pixels[index]

    def file_digest(self, index: int) -> bytes:
        """Return the hash of the content of image ``index`` in the original dataset, 16 bytes."""
        return self.index["digest"][index].tobytes()

    def size_hint(self) -> int:
        """Return the expected bytes of all decoded images."""
        return self.decoded_bytes


def open_split(storage: Storage, entry: dict[str, Any]) -> Split:
    """Open the split of an ``entry`` in ``stream.json``; its index is memory-mapped."""
    paths = {}
    for key in ("index", "names"):
        written = entry[key]
        path = paths[key] = storage.file(written["file"], written["bytes"])
        if file_hash(path) != written["sha256"]:
            raise UserError(f"{path} was changed: copy it again, or shard the data again.")
    shards = [(shard["file"], shard["bytes"]) for shard in entry["shards"]]
    if not storage.remote:
        for name, size in shards:
            storage.file(name, size)
    # Plain array views: each access to a memmap object takes microseconds.
    index = np.asarray(np.load(paths["index"], mmap_mode="r"))
    text = np.asarray(np.memmap(paths["names"], np.uint8, "r"))
    if index.dtype not in (INDEX, _INDEX_1) or len(index) != entry["n"]:
        raise UserError(f"{paths['index']} is of another version: shard the data again.")
    store = ShardStore(storage, shards, index, entry["digest_of"], entry["decoded_bytes"])
    return Split(
        store,
        np.arange(len(index), dtype=np.int64),
        index["label"].astype(np.int64),
        ShardNames(index["name"], text),
    )
