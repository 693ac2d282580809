"""Which images of a split a checkpoint learnt from.

The card of a checkpoint lists its training images under ``trained_on``: ``pixels``, the first 8
bytes of the pixel hash of each image, and ``unknown``, the checkpoints and files that it started
from whose images are not known. The images of the checkpoints that it started from or was taught by
are included.
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
from emotion_lab.data.build import load_data
from emotion_lab.data.checkpoint_data import data_config
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.pixel_hash import DIGEST_SIZE
from emotion_lab.data.types import Split

_NO_IMAGES = np.zeros(0, np.int64)


@dataclass(frozen=True)
class TrainingImages:
    """The images that a checkpoint learnt from.

    Attributes:
        pixels: int64 (N,), sorted; the first 8 bytes of each pixel hash.
        unknown: Names of the checkpoints and files whose images are not known.
    """

    pixels: np.ndarray = field(default_factory=lambda: _NO_IMAGES)
    unknown: list[str] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """Return the images as ``trained_on`` of a card."""
        return {"pixels": torch.from_numpy(self.pixels), "unknown": list(self.unknown)}

    def seen(self, part: Split) -> np.ndarray:
        """Return bool (N,): which images of a split are among the training images."""
        return np.isin(short_hashes(part), self.pixels)

    def summary(self, seen: np.ndarray) -> dict[str, Any]:
        """Return ``n``, the number of images that were trained on, and ``unknown``.

        ``n`` is None if none was found but the training images are not all known.
        """
        count = int(seen.sum())
        return {"n": count if count or not self.unknown else None, "unknown": list(self.unknown)}


def short_hashes(part: Split) -> np.ndarray:
    """Return the first 8 bytes of the pixel hash of every image, int64 (N,)."""
    digests = np.frombuffer(b"".join(part.digests()), "<i8").reshape(-1, DIGEST_SIZE // 8)
    return digests[:, 0].astype(np.int64)


def union(parts: Sequence[TrainingImages]) -> TrainingImages:
    """Return the images of all ``parts``."""
    pixels = np.unique(np.concatenate([_NO_IMAGES, *(part.pixels for part in parts)]))
    return TrainingImages(pixels, list(dict.fromkeys(n for part in parts for n in part.unknown)))


def of_split(train: Split) -> TrainingImages:
    """Return the images of a training split."""
    return TrainingImages(np.unique(short_hashes(train)))


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
        return TrainingImages(saved["pixels"].numpy(), list(saved["unknown"]))
    own = card["config"]["data"]
    locations = [own.get("path")]
    if data_cfg is not None and data_cfg["name"] == own["name"] != "synthetic":
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


def warning(summary: dict[str, Any], total: int, what: str = "images") -> str | None:
    """Return a warning about the result of :meth:`TrainingImages.summary`; None if there is none.

    Args:
        summary: For ``total`` images.
        total: Number of images of the split.
        what: Name of the images.
    """
    count, unknown = summary["n"], ", ".join(summary["unknown"])
    if count:
        at_least = "at least " if unknown else ""
        return f"{at_least}{count:,} of {total:,} {what} are in the training data"
    if unknown:
        return f"it is unknown whether these {what} were trained on: no list of images in {unknown}"
    return None
