"""Distances of the perceptual hashes that find near copies of training images.

Images of train are mirrored, resized, compressed, cropped and turned; a copy is found if its hash
or that of its mirror image is close to the hash of the original. The images of val without an equal
image in train show how often other pictures are taken for copies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from emotion_lab.audits.duplicates import correlation
from emotion_lab.core.progress import track
from emotion_lab.data.build import load_data
from emotion_lab.data.contamination import short_hashes
from emotion_lab.data.perceptual_hash import (
    MAX_DISTANCE,
    MIN_CONTRAST,
    SIZE,
    close_pairs,
    perceptual_hashes,
    thumbnail,
    to_grey,
)
from emotion_lab.data.types import Split
from emotion_lab.evaluation.statistics import wilson

#: Training images that are changed.
NUM_COPIES = 1000
#: Correlation of thumbnails above which two images show the same picture; that of the audit.
MIN_CORRELATION = 0.92


def _jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert image is not None  # it was encoded just now
    return image


def _resize(grey: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if size < min(grey.shape) else cv2.INTER_LINEAR
    return cv2.resize(grey, (size, size), interpolation=method)


def _crop(grey: np.ndarray, fraction: float) -> np.ndarray:
    """Remove a fraction of each side."""
    rows, columns = (max(1, round(side * fraction)) for side in grey.shape)
    return grey[rows:-rows, columns:-columns]


def _rotate(grey: np.ndarray, degrees: float) -> np.ndarray:
    height, width = grey.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(grey, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _mirror(grey: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(grey[:, ::-1])


#: Name -> change of grey levels, uint8 (H, W).
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": _mirror,
    **{f"resized to {size} pixels": partial(_resize, size=size) for size in (24, 36, 64, 96)},
    **{f"JPEG, quality {q}": partial(_jpeg, quality=q) for q in (75, 50, 30)},
    "mirrored, 112 pixels, JPEG 80": lambda grey: _jpeg(_resize(_mirror(grey), 112), 80),
    "cropped by 4 % on each side": partial(_crop, fraction=0.04),
    "cropped by 8 % on each side": partial(_crop, fraction=0.08),
    "turned by 3 degrees": partial(_rotate, degrees=3),
    "turned by 10 degrees": partial(_rotate, degrees=10),
}


def hashes_of(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of thumbnails, uint8 (N, 32, 32), and of their mirror images."""
    return perceptual_hashes(thumbnails, SIZE), perceptual_hashes(thumbnails[:, :, ::-1], SIZE)


def copy_distances(greys: list[np.ndarray], change: Callable[..., np.ndarray]) -> np.ndarray:
    """Return the distance of each image from its changed copy in bits of 100, int64 (N,)."""
    originals = hashes_of(np.stack([thumbnail(grey) for grey in greys]))[0]
    copies = hashes_of(np.stack([thumbnail(change(grey)) for grey in greys]))
    return np.minimum(*((originals != hashes).sum(1) for hashes in copies))


def _rows(greys: list[np.ndarray]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, change in track(CHANGES.items(), "changing images", len(CHANGES)):
        distances = copy_distances(greys, change)
        found = int((distances <= MAX_DISTANCE).sum())
        rows.append(
            {
                "change": name,
                "n": len(greys),
                "median": float(np.median(distances)),
                "p99": float(np.percentile(distances, 99)),
                "max": int(distances.max()),
                "found": found / len(greys),
                "found_ci95": [round(value, 4) for value in wilson(found, len(greys))],
            }
        )
    return rows


def _thumbnails(part: Split) -> np.ndarray:
    images = (thumbnail(to_grey(part.image(i))) for i in range(len(part)))
    return np.stack(list(track(images, "thumbnails", len(part))))


def compare_others(val: Split, known: np.ndarray) -> dict[str, Any]:
    """Return how many images of ``val`` are close to a training image, and which.

    Args:
        val: Images without an equal one in train.
        known: Thumbnails of train, uint8 (M, 32, 32).

    Returns:
        ``n``; ``close``, the number within :data:`MAX_DISTANCE` of a training image;
        ``correlated``, those of them that the correlation confirms as the same picture;
        ``unconfirmed``, the others: ``image``, ``training_image`` (position), ``distance`` and
        ``correlation`` of the closest one.
    """
    thumbnails = _thumbnails(val)
    has_contrast = thumbnails.std(axis=(1, 2)) >= MIN_CONTRAST
    known_positions = np.flatnonzero(known.std(axis=(1, 2)) >= MIN_CONTRAST)
    bits = hashes_of(known[known_positions])[0]
    best: dict[int, tuple[float, int, int]] = {}
    for mirrored, hashes in enumerate(hashes_of(thumbnails)):
        for pairs in close_pairs(hashes, bits, MAX_DISTANCE):
            for i, j, distance in pairs.tolist():
                shown = thumbnails[i][:, ::-1] if mirrored else thumbnails[i]
                position = int(known_positions[j])
                value = correlation(np.ascontiguousarray(shown), known[position])
                if has_contrast[i]:
                    best[i] = max(best.get(i, (-1.0, 0, 0)), (value, position, distance))
    unconfirmed = [
        {
            "image": val.names[i],
            "training_image": position,
            "distance": distance,
            "correlation": round(value, 3),
        }
        for i, (value, position, distance) in sorted(best.items())
        if value < MIN_CORRELATION
    ]
    return {
        "n": int(has_contrast.sum()),
        "close": len(best),
        "correlated": len(best) - len(unconfirmed),
        "unconfirmed": unconfirmed,
    }


def bench(cfg: dict[str, Any]) -> dict[str, Any]:
    """Measure the distances on the train and val split of ``cfg["data"]``."""
    splits = load_data(cfg["data"], ("train", "val")).splits
    train, val = splits["train"], splits["val"]
    known = _thumbnails(train)
    usable = np.flatnonzero(known.std(axis=(1, 2)) >= MIN_CONTRAST)
    chosen = np.random.default_rng(cfg["seed"]).permutation(usable)[:NUM_COPIES]
    different = np.flatnonzero(~np.isin(short_hashes(val), short_hashes(train)))
    return {
        "bits": SIZE**2,
        "max_distance": MAX_DISTANCE,
        "min_correlation": MIN_CORRELATION,
        "copies": _rows([to_grey(train.image(int(i))) for i in chosen]),
        "others": compare_others(val.subset(different), known),
    }
