"""Image stores, splits and the dataset registry."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np

from emotion_lab.core.file_names import is_system_name
from emotion_lab.core.labels import class_key, class_number
from emotion_lab.core.registry import Registry
from emotion_lab.data.pixel_hash import pixel_digest

#: Datasets that are drawn: they have no path.
SYNTHETIC = ("synthetic", "synthetic_clips")
#: Split names, in display order.
SPLITS: tuple[str, ...] = ("train", "val", "test")


def excluded_classes(cfg: dict[str, Any]) -> list[str]:
    """Return ``data.exclude`` as a list; a single name may be given without brackets.

    Numbers are replaced by the classes of ``data.label_scheme``, if that is set.
    """
    names = cfg.get("exclude") or []
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    scheme = cfg.get("label_scheme")
    return [class_key(name, scheme) if class_number(name) is not None else name for name in names]


def data_path(cfg: dict[str, Any]) -> tuple[str, str]:
    """Return the location of the data and the setting it comes from."""
    if cfg.get("path"):
        return str(cfg["path"]), "data.path"
    if os.environ.get("EMOTION_LAB_DATA"):
        return os.environ["EMOTION_LAB_DATA"], "$EMOTION_LAB_DATA"
    return "data", "the default"


def subfolders(parent: Path) -> list[Path]:
    """Return the folders in ``parent`` without hidden folders and those of the system, sorted."""
    with os.scandir(parent) as entries:
        names = [e.name for e in entries if e.is_dir() and not is_system_name(e.name)]
    return [parent / name for name in sorted(names)]


class ImageStore(Protocol):
    """Images by index. Implementations must be picklable (DataLoader workers)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index`` as uint8 (H, W, C), C = 1 (grey) or 3 (RGB)."""
        ...

    def digest(self, index: int) -> bytes:
        """Return a 16-byte hash of the pixels, see :func:`pixel_hash.pixel_digest`."""
        ...

    def size_hint(self) -> int:
        """Return the expected bytes of all decoded images."""
        ...


class SampleNames(Sequence[str]):
    """Sample names that are computed on access; subclasses implement ``_name`` and ``__len__``."""

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._name(index % len(self))

    def _name(self, index: int) -> str:
        raise NotImplementedError


class ArrayStore:
    """Images of equal size in one uint8 array (N, H, W, C), in memory or memory-mapped."""

    def __init__(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"expected uint8 (N, H, W, C), got {images.dtype} {images.shape}")
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def digest(self, index: int) -> bytes:
        """Return the hash of the pixels of image ``index``."""
        return pixel_digest(self.images[index])

    def size_hint(self) -> int:
        """Return the bytes of the array."""
        return int(self.images.nbytes)


@dataclass
class Looks:
    """Order of the images of a split in time, for images that are cut from clips.

    The images of a track follow one another, in order of time.

    Attributes:
        tracks: int64 (N,), number of the track (one face in one clip).
        times: float64 (N,), seconds in the clip.
        episodes: int64 (N,), number of the annotated episode; None where none are annotated.
    """

    tracks: np.ndarray
    times: np.ndarray
    episodes: np.ndarray | None = None

    def followed_by(self, other: Looks) -> Looks:
        """Return these looks and those of other clips."""
        tracks = np.concatenate([self.tracks, other.tracks + self.tracks.max() + 1])
        episodes = None
        if self.episodes is not None and other.episodes is not None:
            episodes = np.concatenate([self.episodes, other.episodes + self.episodes.max() + 1])
        return Looks(tracks, np.concatenate([self.times, other.times]), episodes)

    def subset(self, positions: np.ndarray) -> Looks:
        """Return the images at ``positions``, int64 (M,)."""
        episodes = None if self.episodes is None else self.episodes[positions]
        return Looks(self.tracks[positions], self.times[positions], episodes)


@dataclass
class Split:
    """One split of a dataset.

    Attributes:
        store: The images.
        indices: int64 (N,), positions in ``store``.
        labels: int64 (N,), positions in ``LoadedDataset.classes``.
        names: N sample names: a path, or ``file:row``.
        soft: float32 (N, K) target probabilities used instead of ``labels``; rows sum to 1.
        label_sets: Name of a label set -> int64 (N,), -1 for unlabelled images. Evaluation also
            scores each of these sets.
        votes: int64 (N, K), annotator votes of each class.
        groups: N names of groups, such as persons, if ``data.group`` is set; of images of clips
            the clips.
        quantities: ``valence``, ``arousal`` or ``intensity`` -> annotated values, float32 (N,),
            NaN where an image has none.
        looks: Track and time of each image, for images of clips.
    """

    store: ImageStore
    indices: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    soft: np.ndarray | None = None
    label_sets: dict[str, np.ndarray] = field(default_factory=dict)
    votes: np.ndarray | None = None
    groups: Sequence[str] | None = None
    quantities: dict[str, np.ndarray] = field(default_factory=dict)
    looks: Looks | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, position: int) -> np.ndarray:
        """Return the image at ``position`` of this split, uint8 (H, W, C)."""
        return self.store[int(self.indices[position])]

    def digests(self, of: str = "pixels") -> list[bytes]:
        """Return the hash of every image of this split, in order.

        Args:
            of: ``pixels``, or ``file`` for the bytes of image files; images that are not files
                have the hash of their pixels. See ``data.digest_of``.
        """
        digest = self.store.digest
        if of == "file":
            digest = getattr(self.store, "file_digest", digest)
        return [digest(int(index)) for index in self.indices]

    def subset(self, positions: np.ndarray) -> Split:
        """Return the images at ``positions`` (int (M,)) as a new split, in that order."""
        positions = np.asarray(positions, dtype=np.int64)
        return Split(
            self.store,
            self.indices[positions],
            self.labels[positions],
            [self.names[p] for p in positions],
            None if self.soft is None else self.soft[positions],
            {name: labels[positions] for name, labels in self.label_sets.items()},
            None if self.votes is None else self.votes[positions],
            None if self.groups is None else [self.groups[p] for p in positions],
            {name: values[positions] for name, values in self.quantities.items()},
            None if self.looks is None else self.looks.subset(positions),
        )


@dataclass
class LoadedDataset:
    """Class names and opened splits of a dataset.

    Attributes:
        classes: Class names; the position is the label.
        splits: The requested splits that exist.
        location: Path or description for error messages.
        notes: Lines to print (skipped, merged or generated data).
        skipped: Paths of the files skipped by ``data.on_decode_error=skip``.
        available_splits: Every split of the dataset, opened or not; empty if unknown.
        class_folders: Class name -> folder names of the class; empty without class folders.
        rows: Split -> rows of the file, int64 (N,), for every split of a FER2013 file; else empty.
    """

    classes: list[str]
    splits: dict[str, Split]
    location: str
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    available_splits: list[str] = field(default_factory=list)
    class_folders: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)


#: ``load(cfg, splits) -> LoadedDataset``; ``cfg`` is the ``data`` group as a plain dict.
#: A loader opens only the requested splits, so that the test split stays closed.
#: Those of the second package need the face detectors, which import this module.
DATASETS: Registry[Callable[..., LoadedDataset]] = Registry(
    "data", "emotion_lab.data.datasets", "emotion_lab.video.datasets"
)
