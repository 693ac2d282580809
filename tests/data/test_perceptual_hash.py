"""Perceptual hashes: near copies are close, other pictures are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from emotion_lab.config import compose
from emotion_lab.data import contamination, perceptual_hash, pixel_hash
from emotion_lab.data.build import load_data
from emotion_lab.data.perceptual_hash import PACKED_SIZE, close_pairs, split_hashes
from emotion_lab.data.types import ArrayStore, Split
from tests.audits.test_audit import texture


class Images:
    """A store of images (H, W, C) of different sizes."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def digest(self, index: int) -> bytes:
        return pixel_hash.pixel_digest(self.images[index])

    def size_hint(self) -> int:
        return sum(image.nbytes for image in self.images)


def as_split(images: list[np.ndarray]) -> Split:
    n = len(images)
    return Split(Images(images), np.arange(n), np.zeros(n, np.int64), [str(i) for i in range(n)])


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after JPEG compression, as RGB."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image[:, :, 0]).resize((size, size)))[:, :, None]


def mirror(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


COPIES: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda image: mirror(image),
    lambda image: jpeg(image, 75),
    lambda image: jpeg(image, 50),
    lambda image: resize(image, 96),
    lambda image: resize(image, 36),
    lambda image: jpeg(resize(mirror(image), 112), 80),
    lambda image: resize(jpeg(image, 75), 64),
]


def check_planted(train: Split, others: Split) -> None:
    """20 copies of training images are flagged, 1,000 other images are not."""
    images = contamination.of_split(train)
    planted = [COPIES[i % len(COPIES)](train.image(37 * i)) for i in range(20)]
    shown = as_split([*planted, *(others.image(i) for i in range(1000))])
    seen = images.seen(shown)
    assert seen.near[:20].all() and not seen.exact.any()
    assert np.flatnonzero(seen.near[20:]).tolist() == []
    assert seen.summary() == {"n": 0, "near": 20, "unknown": [], "near_unknown": []}
    # An exact copy is no near copy.
    exact = images.seen(train.subset(np.arange(30)))
    assert exact.exact.all() and not exact.near.any()


def test_planted_copies_are_found() -> None:
    train = as_split([texture(seed, 48)[:, :, None] for seed in range(800)])
    check_planted(train, as_split([texture(seed, 48)[:, :, None] for seed in range(800, 1800)]))


@pytest.mark.fer2013
def test_planted_copies_are_found_in_fer2013(fer2013_csv: Path) -> None:
    """The 1,000 others are images of PublicTest that correlate least with those of Training."""
    cfg = {**compose.defaults("data", "fer2013"), "path": str(fer2013_csv)}
    splits = load_data(cfg, ("train", "val")).splits
    train, val = (small(splits[name]) for name in ("train", "val"))
    mirrored = train.reshape(-1, 16, 16)[:, :, ::-1].reshape(len(train), -1)
    highest = np.maximum((val @ train.T).max(1), (val @ mirrored.T).max(1))
    highest[~val.any(1)] = 1  # images without contrast
    check_planted(splits["train"], splits["val"].subset(np.argsort(highest)[:1000]))


def small(part: Split) -> np.ndarray:
    """Return the images as 16 x 16 pixels with mean 0 and norm 1 (0: blank), float32 (N, 256)."""
    size, area = (16, 16), cv2.INTER_AREA
    images = [cv2.resize(part.image(i), size, interpolation=area) for i in range(len(part))]
    pixels = np.stack(images).reshape(len(part), -1).astype(np.float32)
    pixels -= pixels.mean(1, keepdims=True)
    pixels[pixels.std(1) < 5] = 0
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


@pytest.mark.parametrize("distance", [0, 6, 20])
@pytest.mark.parametrize("ordered", [False, True])
def test_close_pairs_match_brute_force(distance: int, ordered: bool) -> None:
    rng = np.random.default_rng(1)
    base = rng.random((60, 64)) < 0.5
    a = np.concatenate([base, base ^ (rng.random((60, 64)) < 0.08)] * 6)  # more than one block
    b = a ^ (rng.random(a.shape) < 0.01)
    pairs = np.concatenate(list(close_pairs(a, b, distance, ordered)))
    bits = (a[:, None] != b[None]).sum(2)
    i, j = np.nonzero(bits <= distance)
    expected = {(x, y, int(bits[x, y])) for x, y in zip(i, j, strict=True) if x < y or not ordered}
    assert len(pairs) == len(expected)
    assert {tuple(row) for row in pairs.tolist()} == expected


def test_images_without_contrast_have_no_hash() -> None:
    blank = [np.full((48, 48, 1), level, np.uint8) for level in (0, 90, 91)]
    part = as_split(blank)
    hashes = split_hashes(part)
    assert hashes is not None and hashes.shape == (3, 2, PACKED_SIZE) and not hashes.any()
    images = contamination.of_split(part.subset(np.array([0, 1])))
    assert len(images.perceptual) == 0
    seen = images.seen(part)
    assert seen.exact.tolist() == [True, True, False] and not seen.near.any()


def test_hashes_are_kept_in_the_cache_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(pixel_hash, "_CACHED_FROM_S", 0.0)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    part = Split(ArrayStore(images), np.arange(3), np.zeros(3, np.int64), ["a", "b", "c"])
    first = split_hashes(part)
    assert len(list((tmp_path / "perceptual_hashes").iterdir())) == 1
    monkeypatch.setattr(perceptual_hash, "_compute", lambda part: pytest.fail("computed again"))
    assert np.array_equal(split_hashes(part), first)


def test_images_of_a_remote_stream_are_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    part = as_split([np.zeros((48, 48, 1), np.uint8)])
    monkeypatch.setattr(perceptual_hash, "_is_remote", lambda store: True)
    images = contamination.of_split(part)
    assert images.near_unknown == ["a remote stream"] and len(images.pixels) == 1
    other: Any = as_split([np.ones((48, 48, 1), np.uint8)])
    assert images.seen(other).summary()["near"] is None
