"""Which images of a split a checkpoint learnt from.

The card of a checkpoint lists its training images under ``trained_on``: ``pixels``, 40 bits of the
pixel hash of each image; ``perceptual``, its perceptual hash, which finds near copies; ``unknown``,
the checkpoints and files that it started from whose images are not known; and ``near_unknown``,
those whose images are known by their pixel hashes only. The images of the checkpoints that it
started from or was taught by are included.

With 28,709 training images of FER2013, the probability that any of n other images has the pixel
hash of one of them is 28,709 n / 2^40: 0.0001 for 3,589 images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data import perceptual_hash
from emotion_lab.data.build import load_data
from emotion_lab.data.checkpoint_data import data_config
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.pixel_hash import DIGEST_SIZE
from emotion_lab.data.types import SYNTHETIC, Split

#: Bits of a pixel hash that a card lists; cards of earlier versions list 64.
_PIXEL_BITS = 2**40 - 1
_NO_PIXELS = np.zeros(0, np.int64)
_NO_HASHES = np.zeros((0, perceptual_hash.PACKED_SIZE), np.uint8)


@dataclass(frozen=True)
class SeenImages:
    """Which of N images a checkpoint learnt from.

    Attributes:
        exact: bool (N,), a training image has the same pixels.
        near: bool (N,), not ``exact``, but a training image shows the same picture.
        unknown: Names of the checkpoints and files whose images are not known.
        near_unknown: Names of those whose near copies are not known.
    """

    exact: np.ndarray
    near: np.ndarray
    unknown: list[str]
    near_unknown: list[str]

    @property
    def mask(self) -> np.ndarray:
        """Whether an image was trained on, exactly or nearly, bool (N,)."""
        return self.exact | self.near

    def subset(self, positions: np.ndarray) -> SeenImages:
        """Return the images at ``positions``, int64 (M,)."""
        parts = self.exact[positions], self.near[positions]
        return SeenImages(*parts, self.unknown, self.near_unknown)

    def summary(self) -> dict[str, Any]:
        """Return ``n`` and ``near``, the numbers of exact and near copies, and what is unknown.

        A number is None if no copy was found but the training images are not all known.
        """
        n, near = int(self.exact.sum()), int(self.near.sum())
        near_unknown = [*self.unknown, *self.near_unknown]
        return {
            "n": n if n or not self.unknown else None,
            "near": near if near or not near_unknown else None,
            "unknown": list(self.unknown),
            "near_unknown": list(self.near_unknown),
        }


@dataclass(frozen=True)
class TrainingImages:
    """The images that a checkpoint learnt from.

    Attributes:
        pixels: int64 (N,), sorted; 40 bits of each pixel hash.
        perceptual: uint8 (M, 13), the different perceptual hashes.
        unknown: Names of the checkpoints and files whose images are not known.
        near_unknown: Names of those that are known by their pixel hashes only.
    """

    pixels: np.ndarray = field(default_factory=lambda: _NO_PIXELS)
    perceptual: np.ndarray = field(default_factory=lambda: _NO_HASHES)
    unknown: list[str] = field(default_factory=list)
    near_unknown: list[str] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """Return the images as ``trained_on`` of a card."""
        return {
            "pixels": torch.from_numpy(self.pixels),
            "perceptual": torch.from_numpy(self.perceptual),
            "unknown": list(self.unknown),
            "near_unknown": list(self.near_unknown),
        }

    def seen(self, part: Split) -> SeenImages:
        """Return which images of a split are among the training images, mirrored or not."""
        exact = np.isin(short_hashes(part), self.pixels)
        near, near_unknown = np.zeros(len(part), bool), list(self.near_unknown)
        others = np.flatnonzero(~exact)
        if len(others) and len(self.perceptual):
            hashes = perceptual_hash.split_hashes(part)
            if hashes is None:
                near_unknown.append("a remote stream")
            else:
                near[others] = perceptual_hash.is_close(hashes[others], self.perceptual)
        return SeenImages(exact, near, list(self.unknown), near_unknown)


def short_hashes(part: Split) -> np.ndarray:
    """Return 40 bits of the pixel hash of every image, int64 (N,)."""
    digests = np.frombuffer(b"".join(part.digests()), "<i8").reshape(-1, DIGEST_SIZE // 8)
    return digests[:, 0].astype(np.int64) & _PIXEL_BITS


def union(parts: Sequence[TrainingImages]) -> TrainingImages:
    """Return the images of all ``parts``."""
    return TrainingImages(
        np.unique(np.concatenate([_NO_PIXELS, *(part.pixels for part in parts)])),
        np.unique(np.concatenate([_NO_HASHES, *(part.perceptual for part in parts)]), axis=0),
        list(dict.fromkeys(name for part in parts for name in part.unknown)),
        list(dict.fromkeys(name for part in parts for name in part.near_unknown)),
    )


def of_split(train: Split) -> TrainingImages:
    """Return the images of a training split; the first call for a dataset decodes all of them."""
    pixels, hashes = np.unique(short_hashes(train)), perceptual_hash.split_hashes(train)
    if hashes is None:
        return TrainingImages(pixels, near_unknown=["a remote stream"])
    plain = np.unique(hashes[:, 0], axis=0)
    return TrainingImages(pixels, plain[plain.any(1)])


def of_card(card: dict[str, Any], data_cfg: dict[str, Any] | None = None) -> TrainingImages:
    """Return the training images of a checkpoint, or of all members of an ensemble.

    The data of a checkpoint of an earlier version, whose card does not list them, is opened again;
    its images are known only if its fingerprint is that of the training run.

    Args:
        card: Of the checkpoint.
        data_cfg: A ``data`` group whose path is tried before that of the card.
    """
    return union([_of_member(member, data_cfg) for member in card.get("members") or [card]])


def _of_member(card: dict[str, Any], data_cfg: dict[str, Any] | None) -> TrainingImages:
    saved = card.get("trained_on")
    if saved is not None:
        pixels = np.unique(saved["pixels"].numpy() & _PIXEL_BITS)
        if "perceptual" not in saved:  # of an earlier version
            names = [ckpt.describe(card)]
            return TrainingImages(pixels, unknown=list(saved["unknown"]), near_unknown=names)
        hashes = saved["perceptual"].numpy()
        return TrainingImages(pixels, hashes, list(saved["unknown"]), list(saved["near_unknown"]))
    own = card["config"]["data"]
    locations = [own.get("path")]
    if data_cfg is not None and data_cfg["name"] == own["name"] not in SYNTHETIC:
        locations.insert(0, data_cfg.get("path"))
    for location in dict.fromkeys(locations):
        train = _reopened(card, location)
        if train is not None:
            return of_split(train)
    return TrainingImages(unknown=[ckpt.describe(card)])


def _reopened(card: dict[str, Any], location: str | None) -> Split | None:
    """Return train of a training run if the data at ``location`` still is what it trained on."""
    expected = card.get("fingerprints", {}).get("train", {}).get("hash")
    try:
        cfg = {**data_config({"name": "checkpoint"}, card), "path": location, "download": False}
        source = load_data(cfg, ("train",))
    except UserError:
        return None
    train = source.splits["train"]
    digest_of = cfg.get("digest_of", "pixels")
    return train if fingerprint(train, source.classes, digest_of)["hash"] == expected else None


def of_weights(path: str | Path, data_cfg: dict[str, Any] | None = None) -> TrainingImages:
    """Return the training images of ``model.weights``; those of other programs are not known."""
    try:
        card = ckpt.read(find_checkpoint(path))[ckpt.CARD]
    except UserError:
        return TrainingImages(unknown=[Path(path).name])
    return of_card(card, data_cfg)


def count_text(summary: dict[str, Any], total: int, what: str = "images") -> str | None:
    """Return how many images are copies of training images; None for none or unknown.

    For instance ``12 of 3,589 images and near copies of 30 more``.

    Args:
        summary: Of :meth:`SeenImages.summary`; those of earlier versions lack ``near``.
        total: Number of images of the split.
        what: Name of the images.
    """
    n, near = summary["n"] or 0, summary.get("near") or 0
    if not n and not near:
        return None
    text = f"{n:,} of {total:,} {what}" if n else f"near copies of {near:,} of {total:,} {what}"
    if n and near:
        text += f" and near copies of {near:,} more"
    return f"at least {text}" if summary["unknown"] or summary.get("near_unknown") else text


def unknown_text(summary: dict[str, Any]) -> str | None:
    """Return why copies may be missing in the result of :meth:`SeenImages.summary`, or None."""
    if summary["unknown"]:
        return f"no list of images in {', '.join(summary['unknown'])}"
    if summary.get("near_unknown"):
        return f"no perceptual hashes for near copies in {', '.join(summary['near_unknown'])}"
    return None


def warning(summary: dict[str, Any], total: int) -> str | None:
    """Return a warning about copies of training images, see :func:`count_text`; None without."""
    count, unknown = count_text(summary, total), unknown_text(summary)
    if count is not None:
        return f"{count} are in the training data" + (f" ({unknown})" if unknown else "")
    if unknown is None:
        return None
    kind = "" if summary["unknown"] else "near copies of "
    return f"it is unknown whether {kind}these images were trained on: {unknown}"
