"""Pictures that are there more than once: the same bytes, or the same picture in other bytes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np

from emotion_lab.audits.image_stats import BITS, ImageStats

#: How far, in pixels of the small picture, two crops of one picture may be shifted.
SHIFT = 2
#: Rows compared with all others at once: a block of so many times N floats.
_BLOCK = 512


@dataclass(frozen=True)
class NearDuplicate:
    """Two different files that show the same picture.

    Attributes:
        first, second: Numbers of the images, ``first`` the smaller.
        distance: Bits in which the perceptual hashes differ.
        correlation: Of the small grey pictures, -1..1, the best over small shifts.
        mirrored: Whether one is the mirror image of the other.
    """

    first: int
    second: int
    distance: int
    correlation: float
    mirrored: bool


@dataclass
class Duplicates:
    """All duplicates of a data set.

    Attributes:
        identical: Groups of byte-identical images, numbers rising.
        near: Groups of the same picture in at least two different contents. All copies of each
            content are in it.
        pairs: What the near groups are made of, between the first images of two contents.
        copies: First image of a content -> all its images.
    """

    identical: list[list[int]]
    near: list[list[int]]
    pairs: list[NearDuplicate]
    copies: dict[int, list[int]]


def contents(looked: ImageStats) -> dict[int, list[int]]:
    """Return first image -> all images of the same bytes, itself among them."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(looked.digests):
        groups[digest].append(i)
    return {members[0]: members for members in groups.values()}


def crosses(looked: ImageStats, group: list[int]) -> bool:
    """Tell whether a group has images in several splits."""
    return len(set(looked.split[group].tolist())) > 1


def conflicts(looked: ImageStats, group: list[int]) -> bool:
    """Tell whether the images of a group have different labels."""
    return len(set(looked.label[group].tolist())) > 1


def close_hashes(a: np.ndarray, b: np.ndarray, distance: int) -> np.ndarray:
    """Return the pairs i < j with at most ``distance`` bits between ``a[i]`` and ``b[j]``.

    Every pair is compared: time grows with the square of N (36,000 images: some seconds).

    Args:
        a: bool (N, 64).
        b: bool (N, 64).
        distance: Bits.

    Returns:
        int64 (P, 3): i, j, bits.
    """
    # For bits as -1 and 1 the product is 64 - 2 * bits: a matrix product counts them all.
    left, right = (np.where(bits, 1, -1).astype(np.float32) for bits in (a, b))
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(left), _BLOCK):
        # The diagonal block is computed whole; pairs below it are left out.
        product = left[start : start + _BLOCK] @ right[start:].T
        i, j = np.nonzero(product >= BITS - 2 * distance)
        upper = i < j
        i, j = i[upper], j[upper]
        bits = (BITS - product[i, j]) / 2
        found.append(np.stack([i + start, j + start, bits.astype(np.int64)], axis=1))
    return np.concatenate(found)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the normalised correlation of two small pictures, the best over small shifts.

    Two crops of one picture seldom lie exactly on each other, so the inner part of one is moved
    over the other by up to 2 pixels, and the other way round.

    Args:
        a: uint8 (32, 32).
        b: uint8 (32, 32).

    Returns:
        -1..1; 0 where one of them is constant.
    """

    def best(whole: np.ndarray, other: np.ndarray) -> float:
        inner = np.ascontiguousarray(other[SHIFT:-SHIFT, SHIFT:-SHIFT])
        scores = cv2.matchTemplate(np.ascontiguousarray(whole), inner, cv2.TM_CCOEFF_NORMED)
        # OpenCV gives 1 or infinity where a window has no contrast at all.
        usable = scores[np.isfinite(scores) & (np.abs(scores) <= 1.0001)]
        return float(usable.max(initial=-1.0))

    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return min(1.0, max(best(a, b), best(b, a)))


def near_pairs(
    looked: ImageStats, firsts: np.ndarray, distance: int, least_correlation: float
) -> list[NearDuplicate]:
    """Return the pairs of different contents that show the same picture, mirrored or not.

    The hash finds candidates; the correlation decides. Faces that fill the frame look alike to a
    hash of 64 bits: on FER2013 one in six pairs 6 bits apart shows different people, and of
    those with a correlation of 0.92 and more hardly any (looked at; see docs/audit.md).

    Args:
        looked: The images.
        firsts: int64 (F,), rising: one image of each content that is worth comparing.
        distance: Bits in which the hashes may differ.
        least_correlation: Of the small pictures.
    """
    found: dict[tuple[int, int], NearDuplicate] = {}
    for mirrored in (False, True):
        left = looked.mirrored[firsts] if mirrored else looked.hashes[firsts]
        for i, j, bits in close_hashes(left, looked.hashes[firsts], distance).tolist():
            first, second = int(firsts[i]), int(firsts[j])
            one = looked.small[first][:, ::-1] if mirrored else looked.small[first]
            value = correlation(one, looked.small[second])
            known = found.get((first, second))
            if value >= least_correlation and (known is None or value > known.correlation):
                found[first, second] = NearDuplicate(first, second, bits, value, mirrored)
    return [found[key] for key in sorted(found)]


def find_duplicates(
    looked: ImageStats, blank: np.ndarray, distance: int, least_correlation: float
) -> Duplicates:
    """Return all duplicates.

    Args:
        looked: The images.
        blank: bool (N,), images without a picture: they are identical or nothing to compare.
        distance: See :func:`near_pairs`.
        least_correlation: See :func:`near_pairs`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    copies = contents(looked)
    worth = looked.readable & ~blank
    firsts = np.array([first for first in copies if worth[first]], dtype=np.int64)
    pairs = near_pairs(looked, firsts, distance, least_correlation)
    n = len(looked)
    ends = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    near: dict[int, list[int]] = defaultdict(list)
    for first in np.unique(ends).tolist():
        near[int(component[first])] += copies[first]
    identical = [members for members in copies.values() if len(members) > 1]
    groups = sorted(sorted(members) for members in near.values())
    return Duplicates(identical, groups, pairs, copies)


def count(looked: ImageStats, duplicates: Duplicates) -> dict[str, int]:
    """Return the numbers of ``audit.json``'s ``duplicates``."""
    result = {}
    for kind, groups in (("identical", duplicates.identical), ("near", duplicates.near)):
        crossing = [group for group in groups if crosses(looked, group)]
        result[f"{kind}_groups"] = len(groups)
        result[f"{kind}_images"] = sum(map(len, groups))
        result[f"{kind}_groups_across_splits"] = len(crossing)
        result[f"{kind}_groups_with_conflicting_labels"] = sum(
            conflicts(looked, group) for group in groups
        )
        for i, a in enumerate(looked.splits):
            for b in looked.splits[i + 1 :]:
                both = {looked.splits.index(a), looked.splits.index(b)}
                result[f"{kind}_groups_{a}_{b}"] = sum(
                    both <= set(looked.split[group].tolist()) for group in crossing
                )
    return result
