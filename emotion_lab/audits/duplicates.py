"""Exact duplicates by content hash, near duplicates by perceptual hash and correlation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.data.perceptual_hash import close_pairs

#: Maximum shift between two crops of one picture, in thumbnail pixels.
MAX_SHIFT = 2


@dataclass(frozen=True)
class NearDuplicate:
    """Two files with different content that show the same picture.

    Attributes:
        first, second: Image indices, ``first`` < ``second``.
        distance: Hamming distance of the perceptual hashes, in bits.
        correlation: Of the thumbnails, -1..1, maximum over small shifts.
        mirrored: Whether one is the mirror image of the other.
    """

    first: int
    second: int
    distance: int
    correlation: float
    mirrored: bool


@dataclass
class Duplicates:
    """All duplicates of a dataset.

    Attributes:
        identical: Groups of image indices with equal content, ascending.
        near: Groups of image indices with the same picture in at least two different contents,
            including all copies of each content.
        pairs: The near duplicates, between the first images of two contents.
        copies: First image of a content -> all images with this content.
    """

    identical: list[list[int]]
    near: list[list[int]]
    pairs: list[NearDuplicate]
    copies: dict[int, list[int]]


def group_by_content(stats: ImageStats) -> dict[int, list[int]]:
    """Return first image -> all images with equal content, including itself."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(stats.digests):
        groups[digest].append(i)
    return {members[0]: members for members in groups.values()}


def crosses_splits(stats: ImageStats, group: list[int]) -> bool:
    """Return whether a group has images in more than one split."""
    return len(set(stats.split[group].tolist())) > 1


def has_conflicting_labels(stats: ImageStats, group: list[int]) -> bool:
    """Return whether the images of a group have different labels."""
    return len(set(stats.label[group].tolist())) > 1


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the normalised correlation (-1..1) of two thumbnails, maximum over small shifts.

    The inner part of each is matched with the other at shifts of up to 2 pixels, because two crops
    of one picture are rarely aligned. The correlation with a constant image is 0.
    """

    def match(outer: np.ndarray, other: np.ndarray) -> float:
        inner = np.ascontiguousarray(other[MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT])
        scores = cv2.matchTemplate(np.ascontiguousarray(outer), inner, cv2.TM_CCOEFF_NORMED)
        # OpenCV returns 1 or infinity for a window without contrast.
        valid = scores[np.isfinite(scores) & (np.abs(scores) <= 1.0001)]
        return float(valid.max(initial=-1.0))

    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return min(1.0, max(match(a, b), match(b, a)))


def near_pairs(
    stats: ImageStats, indices: np.ndarray, max_distance: int, min_correlation: float
) -> list[NearDuplicate]:
    """Return the pairs of different contents that show the same picture, mirrored or not.

    The hash selects candidates, the correlation confirms them. A 64-bit hash is not specific for
    faces that fill the frame: on FER2013, one in six pairs with a distance of 6 shows different
    people, but hardly any with a correlation of at least 0.92 (manual check, see docs/audit.md).
    ``indices``, int64 (M,), are ascending: one image of each content.
    """
    pairs: dict[tuple[int, int], NearDuplicate] = {}
    for mirrored in (False, True):
        hashes = stats.mirrored_hashes if mirrored else stats.hashes
        blocks = close_pairs(hashes[indices], stats.hashes[indices], max_distance, ordered=True)
        for i, j, distance in (pair for block in blocks for pair in block.tolist()):
            first, second = int(indices[i]), int(indices[j])
            thumbnail = stats.thumbnails[first]
            value = correlation(
                thumbnail[:, ::-1] if mirrored else thumbnail, stats.thumbnails[second]
            )
            other = pairs.get((first, second))
            if value >= min_correlation and (other is None or value > other.correlation):
                pairs[first, second] = NearDuplicate(first, second, distance, value, mirrored)
    return [pairs[key] for key in sorted(pairs)]


def find_duplicates(
    stats: ImageStats, blank: np.ndarray, max_distance: int, min_correlation: float
) -> Duplicates:
    """Return all duplicates; ``blank`` images, bool (N,), have no near duplicates."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    copies = group_by_content(stats)
    comparable = stats.readable & ~blank
    indices = np.array([first for first in copies if comparable[first]], dtype=np.int64)
    pairs = near_pairs(stats, indices, max_distance, min_correlation)
    n = len(stats)
    edges = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    near: dict[int, list[int]] = defaultdict(list)
    for first in np.unique(edges).tolist():
        near[int(component[first])] += copies[first]
    identical = [members for members in copies.values() if len(members) > 1]
    groups = sorted(sorted(members) for members in near.values())
    return Duplicates(identical, groups, pairs, copies)


def count_duplicates(stats: ImageStats, duplicates: Duplicates) -> dict[str, int]:
    """Return ``duplicates`` of ``audit.json``."""
    counts = {}
    for kind, groups in (("identical", duplicates.identical), ("near", duplicates.near)):
        crossing = [group for group in groups if crosses_splits(stats, group)]
        counts[f"{kind}_groups"] = len(groups)
        counts[f"{kind}_images"] = sum(map(len, groups))
        counts[f"{kind}_groups_across_splits"] = len(crossing)
        counts[f"{kind}_groups_with_conflicting_labels"] = sum(
            has_conflicting_labels(stats, group) for group in groups
        )
        for i, a in enumerate(stats.splits):
            for j, b in enumerate(stats.splits[i + 1 :], start=i + 1):
                counts[f"{kind}_groups_{a}_{b}"] = sum(
                    {i, j} <= set(stats.split[group].tolist()) for group in crossing
                )
    return counts
