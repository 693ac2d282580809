"""Groups of images that belong together, such as those of one person (``data.group``).

All images of a group are in one split or fold, so that nobody is in train and in val.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from emotion_lab.core.errors import UserError
from emotion_lab.data.types import Split


def set_groups(splits: dict[str, Split], pattern: str, location: str) -> None:
    """Set ``Split.groups`` from the sample names, unless the dataset has set it.

    Args:
        splits: Opened splits.
        pattern: Regular expression that is searched in each name. The group is what its first
            bracket matches, or the whole match without brackets.
        location: Of the data, for the error message.
    """
    expression = re.compile(pattern)
    number = min(1, expression.groups)
    for split in splits.values():
        if split.groups is not None:
            continue
        matches = [expression.search(name) for name in split.names]
        groups = [None if match is None else match[number] for match in matches]
        for name, group in zip(split.names, groups, strict=True):
            if group is None:
                raise UserError(
                    f"data.group={pattern} matches nothing in {name} ({location}). Set a regular "
                    "expression whose first bracket is the person, for instance "
                    r"'data.group=(p\d+)_'."
                )
        split.groups = [str(group) for group in groups]


def check_apart(splits: dict[str, Split]) -> None:
    """Refuse data whose own train and val splits have a group in common."""
    if "train" not in splits or "val" not in splits:
        return
    train, val = splits["train"], splits["val"]
    if train.groups is None or val.groups is None:
        return
    first = dict(zip(reversed(train.groups), reversed(train.names), strict=True))
    for group, name in zip(val.groups, val.names, strict=True):
        if group in first:
            raise UserError(
                f"'{group}' (data.group) is in train ({first[group]}) and in val ({name}): move "
                "the files, or set data.folds=5, which pools both and divides them by group."
            )


def group_numbers(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return the groups as numbers from 0, int64 (N,)."""
    return np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1).astype(np.int64)


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the finest groups, int64 (N,), that no group of either argument crosses.

    Two persons with an identical image become one group, because the image must not be in train
    and val.

    Args:
        first, second: Group numbers from 0, int64 (N,).
    """
    offset = int(first.max(initial=-1)) + 1
    size = offset + int(second.max(initial=-1)) + 1
    edges = coo_matrix((np.ones(len(first)), (first, second + offset)), shape=(size, size))
    return connected_components(edges, directed=False)[1][first].astype(np.int64)


def divide(labels: np.ndarray, groups: np.ndarray, shares: list[float], seed: int) -> np.ndarray:
    """Divide the images into parts of given sizes, every group in one part.

    The greedy assignment of scikit-learn's ``StratifiedGroupKFold``, here for parts of different
    sizes: groups with the most uneven classes first, each to the part for which the classes are
    then spread most evenly.

    Args:
        labels: int64 (N,).
        groups: int64 (N,).
        shares: Share of the images of each part, summing to 1.
        seed: Order of groups that are equally uneven.

    Returns:
        The part of each image, int64 (N,).
    """
    inverse = group_numbers(groups)
    counts = np.zeros((int(inverse.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (inverse, labels), 1)
    counts = counts[:, counts.any(0)]
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].std(1), kind="stable")]
    target = np.outer(shares, counts.sum(0))
    filled = np.zeros_like(target)
    part_of = np.zeros(len(counts), np.int64)
    for group in order:
        spread = []
        for part in range(len(shares)):
            after = filled.copy()
            after[part] += counts[group]
            spread.append((float((after / target).std(0).mean().round(9)), filled[part].sum()))
        part_of[group] = min(range(len(shares)), key=spread.__getitem__)
        filled[part_of[group]] += counts[group]
    return part_of[inverse]
