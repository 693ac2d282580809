"""One pass over every image: what all later questions are answered from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dct

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import track
from emotion_lab.data.build import load_data
from emotion_lab.data.images import quick_check
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset

#: Side of the small grey picture that hashes and correlations are taken from; phash's own.
SMALL = 32
#: Bits of a perceptual hash.
BITS = 64
#: Channels may differ by so many grey levels in a colour file that shows a grey picture.
GREY_TOLERANCE = 4
#: Pictures hashed at once.
_BLOCK = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read as an image.

    Attributes:
        path: As sample names are: relative to the data where it is a file.
        split: Where it would belong.
        reason: In the reader's words.
        index: Its number among the images, or None where the loader left it out already.
    """

    path: str
    split: str
    reason: str
    index: int | None = None


@dataclass
class ImageStats:
    """What was seen of N images, those of all splits one behind the other.

    Attributes:
        source: The data, every split it has.
        splits: Names of those splits, in order.
        split: int64 (N,), positions in ``splits``.
        position: int64 (N,), positions inside the split.
        label: int64 (N,), positions in ``source.classes``.
        names: N sample names, unique.
        digests: N content hashes, 16 bytes each.
        width, height, channels: int64 (N,), pixels; 0 where the image cannot be read.
        brightness: float32 (N,), mean grey level 0..255; NaN where it cannot be read.
        contrast: float32 (N,), standard deviation of the grey levels; NaN likewise.
        grey: bool (N,), a colour file that shows a grey picture.
        small: uint8 (N, 32, 32), the grey picture.
        hashes: bool (N, 64), perceptual hash.
        mirrored: bool (N, 64), perceptual hash of the mirror image.
        unreadable: What could not be read, left out by the loader or found here.
    """

    source: LoadedDataset
    splits: list[str]
    split: np.ndarray
    position: np.ndarray
    label: np.ndarray
    names: list[str]
    digests: list[bytes]
    width: np.ndarray
    height: np.ndarray
    channels: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    grey: np.ndarray
    small: np.ndarray
    hashes: np.ndarray
    mirrored: np.ndarray
    unreadable: list[Unreadable]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.source.classes

    @property
    def readable(self) -> np.ndarray:
        """Which images could be read, bool (N,)."""
        return self.width > 0

    def split_of(self, i: int) -> str:
        """Return the name of the split of image ``i``."""
        return self.splits[int(self.split[i])]

    def label_of(self, i: int) -> str:
        """Return the class name of image ``i``."""
        return self.classes[int(self.label[i])]

    def image(self, i: int) -> np.ndarray:
        """Return image ``i`` as it was read, uint8 (H, W, C).

        Raises:
            UserError: If it cannot be read.
        """
        return self.source.splits[self.split_of(i)].image(int(self.position[i]))


def open_all_splits(cfg: dict) -> LoadedDataset:
    """Open every split the data has, as it lies there; unreadable files are left out and listed.

    Where the data has no val split none is cut, unless ``data.folds`` asks for one.

    Args:
        cfg: The ``data`` group as a plain dict.

    Raises:
        UserError: If the data is missing or bad, or a split is empty.
    """
    cfg = {**cfg, "on_decode_error": "skip"}
    # Asked for no split, a loader tells which there are.
    found = DATASETS.get(str(cfg["name"]))(cfg, ()).found or list(SPLITS)
    if cfg.get("folds") is not None:
        found = [*found, "val"]
    return load_data(cfg, tuple(name for name in SPLITS if name in found), carve=False)


def _left_out(source: LoadedDataset, cfg: dict) -> list[Unreadable]:
    """Return what the loader skipped, with its split and the reason."""
    if not source.skipped:
        return []
    cfg = {**cfg, "on_decode_error": "skip"}
    result = []
    for split in source.found:
        for path in DATASETS.get(str(cfg["name"]))(cfg, (split,)).skipped:
            try:
                name = Path(path).relative_to(source.location).as_posix()
            except ValueError:
                name = path
            result.append(Unreadable(name, split, quick_check(path) or "cannot be read"))
    return result


def grey_of(image: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W) of a grey or RGB image (H, W, C)."""
    return image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def perceptual_hashes(small: np.ndarray) -> np.ndarray:
    """Return the DCT hash of each small picture, bit for bit ImageHash's ``phash``.

    The 8 x 8 lowest frequencies, each above their median or not (Zauner 2010, "Implementation and
    Benchmarking of Perceptual Image Hash Functions"). All pictures at once: called one by one the
    library would take half of the audit's time.

    Args:
        small: uint8 (N, 32, 32), grey, resized by Lanczos.

    Returns:
        bool (N, 64).
    """
    result = np.zeros((len(small), BITS), bool)
    for start in range(0, len(small), _BLOCK):
        block = small[start : start + _BLOCK].astype(np.float64)
        low = dct(dct(block, axis=1), axis=2)[:, :8, :8].reshape(-1, BITS)
        result[start : start + _BLOCK] = low > np.median(low, axis=1, keepdims=True)
    return result


def scan_images(source: LoadedDataset, cfg: dict) -> ImageStats:
    """Read every image once.

    Args:
        source: As :func:`open_all_splits` returns it.
        cfg: The ``data`` group, to find the splits of files that the loader left out.

    Returns:
        One row for each image of each split.
    """
    splits = list(source.splits)
    parts = [source.splits[name] for name in splits]
    n = sum(len(part) for part in parts)
    sizes = np.zeros((3, n), np.int64)
    light = np.full((2, n), np.nan, np.float32)
    grey = np.zeros(n, bool)
    small = np.zeros((n, SMALL, SMALL), np.uint8)
    unreadable = _left_out(source, cfg)
    where = [(name, part, p) for name, part in source.splits.items() for p in range(len(part))]
    for i, (name, part, p) in enumerate(track(where, "looking at the images", n)):
        try:
            image = part.image(p)
        except UserError as error:
            unreadable.append(Unreadable(str(part.names[p]), name, str(error), i))
            continue
        sizes[:, i] = image.shape[1], image.shape[0], image.shape[2]
        if image.shape[2] == 3:
            spread = image.max(2).astype(np.int16) - image.min(2)
            grey[i] = spread.max() <= GREY_TOLERANCE
        shades = grey_of(image)
        light[:, i] = [value.item() for value in cv2.meanStdDev(shades)]
        small[i] = Image.fromarray(shades).resize((SMALL, SMALL), Image.Resampling.LANCZOS)
    return ImageStats(
        source=replace(source),
        splits=splits,
        split=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        position=np.concatenate([np.arange(len(part)) for part in parts]),
        label=np.concatenate([part.labels for part in parts]),
        names=[str(name) for part in parts for name in part.names],
        digests=[digest for part in parts for digest in part.digests()],
        width=sizes[0],
        height=sizes[1],
        channels=sizes[2],
        brightness=light[0],
        contrast=light[1],
        grey=grey,
        small=small,
        hashes=perceptual_hashes(small),
        mirrored=perceptual_hashes(small[:, :, ::-1]),
        unreadable=unreadable,
    )
