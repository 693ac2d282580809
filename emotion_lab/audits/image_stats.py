"""Compute per-image statistics and hashes in one pass; all audit checks use this table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import track
from emotion_lab.data.build import load_data
from emotion_lab.data.images import check_file
from emotion_lab.data.perceptual_hash import THUMBNAIL_SIDE, perceptual_hashes, thumbnail, to_grey
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset

#: Maximum difference of the channels of a grey image stored as RGB, in grey levels.
GREY_TOLERANCE = 4


@dataclass(frozen=True)
class UnreadableFile:
    """A file that cannot be decoded as an image.

    Attributes:
        path: Sample name: the path relative to the data for a file.
        reason: Message of the decoder.
        index: Image index, or None if the loader skipped the file.
    """

    path: str
    split: str
    reason: str
    index: int | None = None


@dataclass
class ImageStats:
    """Statistics of the N images of all splits, concatenated.

    Attributes:
        split: int64 (N,), positions in ``splits``.
        position: int64 (N,), positions within the split.
        label: int64 (N,), positions in ``source.classes``.
        names: N unique sample names.
        digests: N content hashes of 16 bytes.
        width, height, channels: int64 (N,), pixels; 0 if unreadable.
        brightness: float32 (N,), mean grey level 0..255; NaN if unreadable.
        contrast: float32 (N,), standard deviation of the grey levels; NaN if unreadable.
        grey: bool (N,), grey image stored as RGB.
        thumbnails: uint8 (N, 32, 32), grey.
        hashes: bool (N, 64), perceptual hash.
        mirrored_hashes: bool (N, 64), perceptual hash of the mirrored image.
        unreadable: Unreadable files, skipped by the loader or found in this pass.
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
    thumbnails: np.ndarray
    hashes: np.ndarray
    mirrored_hashes: np.ndarray
    unreadable: list[UnreadableFile]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.source.classes

    @property
    def readable(self) -> np.ndarray:
        """Mask of the readable images, bool (N,)."""
        return self.width > 0

    def split_name(self, i: int) -> str:
        """Return the split of image ``i``."""
        return self.splits[int(self.split[i])]

    def class_name(self, i: int) -> str:
        """Return the class of image ``i``."""
        return self.classes[int(self.label[i])]

    def image(self, i: int) -> np.ndarray:
        """Decode image ``i``, uint8 (H, W, C).

        Raises:
            UserError: If it is unreadable.
        """
        return self.source.splits[self.split_name(i)].image(int(self.position[i]))


def open_all_splits(cfg: dict) -> LoadedDataset:
    """Open every split of the data; unreadable files are skipped and listed.

    No val split is cut from train, unless ``data.folds`` requests one.
    """
    cfg = {**cfg, "on_decode_error": "skip"}
    # A loader called without splits lists the available ones.
    splits = DATASETS.build(str(cfg["name"]), cfg, ()).available_splits or list(SPLITS)
    if cfg.get("folds") is not None:
        splits = [*splits, "val"]
    return load_data(cfg, tuple(name for name in SPLITS if name in splits), carve=False)


def _skipped_files(source: LoadedDataset, cfg: dict) -> list[UnreadableFile]:
    """Return the files skipped by the loader, with split and reason."""
    if not source.skipped:
        return []
    cfg = {**cfg, "on_decode_error": "skip"}
    files = []
    for split in source.available_splits:
        for path in DATASETS.build(str(cfg["name"]), cfg, (split,)).skipped:
            try:
                name = Path(path).relative_to(source.location).as_posix()
            except ValueError:
                name = path
            files.append(UnreadableFile(name, split, check_file(path) or "unreadable"))
    return files


def scan_images(source: LoadedDataset, cfg: dict) -> ImageStats:
    """Read every image once; ``cfg`` is the ``data`` group, to find the splits of skipped files."""
    parts = list(source.splits.values())
    n = sum(len(part) for part in parts)
    sizes = np.zeros((3, n), np.int64)
    levels = np.full((2, n), np.nan, np.float32)
    is_grey = np.zeros(n, bool)
    thumbnails = np.zeros((n, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    unreadable = _skipped_files(source, cfg)
    samples = [(name, part, p) for name, part in source.splits.items() for p in range(len(part))]
    for i, (name, part, p) in enumerate(track(samples, "reading images", n)):
        try:
            image = part.image(p)
        except UserError as error:
            unreadable.append(UnreadableFile(str(part.names[p]), name, str(error), i))
            continue
        sizes[:, i] = image.shape[1], image.shape[0], image.shape[2]
        if image.shape[2] == 3:
            channel_range = image.max(2).astype(np.int16) - image.min(2)
            is_grey[i] = channel_range.max() <= GREY_TOLERANCE
        grey = to_grey(image)
        levels[:, i] = [value.item() for value in cv2.meanStdDev(grey)]
        thumbnails[i] = thumbnail(grey)
    return ImageStats(
        source=source,
        splits=list(source.splits),
        split=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        position=np.concatenate([np.arange(len(part)) for part in parts]),
        label=np.concatenate([part.labels for part in parts]),
        names=[str(name) for part in parts for name in part.names],
        digests=[digest for part in parts for digest in part.digests()],
        width=sizes[0],
        height=sizes[1],
        channels=sizes[2],
        brightness=levels[0],
        contrast=levels[1],
        grey=is_grey,
        thumbnails=thumbnails,
        hashes=perceptual_hashes(thumbnails),
        mirrored_hashes=perceptual_hashes(thumbnails[:, :, ::-1]),
        unreadable=unreadable,
    )
