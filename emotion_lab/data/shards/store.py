"""A stream as it is read: tar shards in the WebDataset layout, and an index of every image.

    stream.json          classes, licence, fingerprints, files and their sizes; written last
    train/000000.tar     <number>.cls and <number>.png (or .jpg, ...), images in random order
    train/index.npy      one row an image, in the order of the data that was converted
    train/names.bin      the sample names, one behind the other

The index says where in which shard an image lies, so any image is one read, and any order can be
read again: seeds, resuming and the share of each process need nothing of the shards.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.data.images import to_array
from emotion_lab.data.shards.storage import Storage
from emotion_lab.data.types import Split

#: Raise it when the layout changes meaning.
FORMAT = 1

#: Row of the index: shard, place and bytes of the image in it, label, content hash, and where the
#: name ends in ``names.bin``.
INDEX = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("label", "<u4"),
        ("digest", "V16"),
        ("name", "<u8"),
    ]
)

_OPEN_SHARDS = 64


class ShardNames(Sequence):
    """Sample names, read when asked for.

    Args:
        ends: uint64 (N,), where each name ends in ``text``.
        text: uint8, all names one behind the other, UTF-8.
    """

    def __init__(self, ends: np.ndarray, text: np.ndarray) -> None:
        self.ends, self.text = ends, text

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")


class ShardStore:
    """The images of one split.

    Args:
        place: Where the shards are.
        shards: (name, bytes) of each.
        index: ``INDEX`` (N,).
        digest_of: What the content hashes are of: ``file`` (the bytes) or ``pixels``.
        decoded_bytes: Expected bytes of all images once decoded.
    """

    def __init__(
        self,
        place: Storage,
        shards: list[tuple[str, int]],
        index: np.ndarray,
        digest_of: str,
        decoded_bytes: int,
    ) -> None:
        self.place, self.shards, self.index = place, shards, index
        self.digest_of, self.decoded_bytes = digest_of, decoded_bytes
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_process": -1}

    def __len__(self) -> int:
        return len(self.index)

    def _file(self, shard: int) -> Any:
        """Return an open shard, this process's own: a place in a file is shared across a fork."""
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        path = self.place.file(*self.shards[shard])
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed when it is its turn
        except OSError as error:
            raise UserError(f"Cannot open {path}: {error.strerror}.") from None
        self._open[shard] = file
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return file

    def _bad(self, index: int, why: str) -> UserError:
        shard = f"{self.place.name}/{self.shards[int(self.index['shard'][index])][0]}"
        return UserError(
            f"image {index} of {shard} {why}: the stream is damaged; copy that file again, or "
            "convert the data once more."
        )

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file.

        Raises:
            UserError: If its shard is missing or damaged.
        """
        row = self.index[index]
        try:
            file = self._file(int(row["shard"]))
            file.seek(int(row["offset"]))
            data = file.read(int(row["size"]))
        except OSError as error:
            raise self._bad(index, f"cannot be read ({error.strerror})") from None
        if self.digest_of == "file":
            self._check(index, data)
        return data

    def _check(self, index: int, data: bytes) -> None:
        if hashlib.blake2b(data, digest_size=16).digest() != self.digest(index):
            raise self._bad(index, "is not what was written")

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 (H, W, C), C = 1 or 3.

        Raises:
            UserError: If its shard is missing or damaged.
        """
        data = self.encoded(index)
        if self.digest_of == "pixels":
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise self._bad(index, "is not what was written")
            grey = image.ndim == 2
            image = image[:, :, None] if grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            self._check(index, image.tobytes())
            return image
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return to_array(picture)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise what they like
            reason = " ".join(str(error).split()) or type(error).__name__
            raise self._bad(index, f"cannot be decoded ({reason})") from None

    def digest(self, index: int) -> bytes:
        """Return the content hash of the image in the data that was converted, 16 bytes."""
        return self.index["digest"][index].tobytes()

    def size_hint(self) -> int:
        """Return the expected bytes of all images once decoded."""
        return self.decoded_bytes


def open_split(place: Storage, entry: dict[str, Any]) -> Split:
    """Open a split of a stream: its index is mapped into memory, its shards stay closed.

    Args:
        place: Where the stream is.
        entry: What ``stream.json`` says of the split.

    Raises:
        UserError: If a file is missing or damaged.
    """
    paths = {}
    for key in ("index", "names"):
        written = entry[key]
        path = paths[key] = place.file(written["file"], written["bytes"])
        if file_hash(path) != written["sha256"]:
            raise UserError(f"{path} was changed: copy it again, or convert the data once more.")
    shards = [(shard["file"], shard["bytes"]) for shard in entry["shards"]]
    if not place.remote:
        for name, size in shards:
            place.file(name, size)
    # Plain views of the maps: every access to a memmap object costs microseconds.
    index = np.asarray(np.load(paths["index"], mmap_mode="r"))
    text = np.asarray(np.memmap(paths["names"], np.uint8, "r"))
    if index.dtype != INDEX or len(index) != entry["n"]:
        raise UserError(f"{paths['index']} is of another version: convert the data once more.")
    store = ShardStore(place, shards, index, entry["digest_of"], entry["decoded_bytes"])
    return Split(
        store,
        np.arange(len(index), dtype=np.int64),
        index["label"].astype(np.int64),
        ShardNames(index["name"], text),
    )
