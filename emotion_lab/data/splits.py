"""Division of splits: hold-out validation, k-fold, stratified subsampling, class exclusion.

FER2013 contains 1,516 groups of identical images. All functions keep such a group on one
side; otherwise a model would be evaluated on images it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import class_key
from emotion_lab.data.groups import divide, group_numbers, joined
from emotion_lab.data.types import ImageStore, LoadedDataset, Split


class ConcatImageStore:
    """Concatenation of image stores."""

    def __init__(self, stores: Iterable[ImageStore]) -> None:
        self.stores = list(stores)
        self._ends = np.cumsum([len(store) for store in self.stores])

    def _locate(self, index: int) -> tuple[ImageStore, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.stores[number], index - (int(self._ends[number - 1]) if number else 0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        store, inner = self._locate(index)
        return store[inner]

    def digest(self, index: int) -> bytes:
        """Return the hash of the pixels of image ``index``, 16 bytes."""
        store, inner = self._locate(index)
        return store.digest(inner)

    def file_digest(self, index: int) -> bytes:
        """Return the hash of the file of image ``index``, that of its pixels without a file."""
        store, inner = self._locate(index)
        digest: bytes = getattr(store, "file_digest", store.digest)(inner)
        return digest

    def size_hint(self) -> int:
        """Return the expected bytes of all decoded images."""
        return sum(store.size_hint() for store in self.stores)


def duplicate_groups(split: Split, digest_of: str = "pixels") -> np.ndarray:
    """Return a group number for each image, int64 (N,); identical images share one.

    Numbers follow the sorted hashes and do not depend on the order of the images. ``digest_of`` is
    that of :meth:`Split.digests`.
    """
    digests = np.array(split.digests(digest_of), dtype="S16")
    return np.unique(digests, return_inverse=True)[1].reshape(-1).astype(np.int64)


def stratified_position(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return a position in [0, 1), float64 (N,); every class is spread evenly, in random order.

    Images with a position inside a sub-interval form a stratified sample of that size: the
    fraction is equal for all classes, up to one group.

    Args:
        labels: int (N,).
        groups: int (N,); images of one group get the same position. A group with several labels
            counts as its smallest label.
        seed: Seed of the order within each class.
    """
    labels = np.asarray(labels, dtype=np.int64)
    unique, inverse = np.unique(np.asarray(groups), return_inverse=True)
    inverse = inverse.reshape(-1)
    group_label = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(group_label, inverse, labels)
    position = np.empty(len(unique), dtype=np.float64)
    for label in np.unique(group_label):
        members = np.flatnonzero(group_label == label)
        ranks = np.random.default_rng([int(seed), int(label)]).permutation(len(members))
        position[members] = (ranks + 0.5) / len(members)
    return position[inverse]


def carve_val(
    train: Split, fraction: float, seed: int, digest_of: str = "pixels"
) -> tuple[Split, Split]:
    """Split train into train and a stratified val split; both keep the order of ``train``.

    Every class with at least two different images is in both. ``fraction`` of the images are val.
    With ``data.group`` every group is in one of them.
    """
    groups = duplicate_groups(train, digest_of)
    if train.groups is not None:
        groups = joined(groups, group_numbers(train.groups))
        _check_groups(train, groups, 2, "data.val_fraction")
        in_val = divide(train.labels, groups, [1 - fraction, fraction], seed) == 1
        return train.subset(np.flatnonzero(~in_val)), train.subset(np.flatnonzero(in_val))
    position = stratified_position(train.labels, groups, seed)
    in_val = position < fraction
    for label in np.unique(train.labels):
        members = np.flatnonzero(train.labels == label)
        if len(np.unique(groups[members])) < 2:
            continue
        order = members[np.argsort(position[members], kind="stable")]
        if not in_val[members].any():
            in_val[groups == groups[order[0]]] = True
        elif in_val[members].all():
            in_val[groups == groups[order[-1]]] = False
    if in_val.all() or not in_val.any():
        raise UserError(
            f"Cannot cut a val split of {fraction} out of {len(train)} train images; "
            f"add images or give a val folder."
        )
    return train.subset(np.flatnonzero(~in_val)), train.subset(np.flatnonzero(in_val))


def _check_groups(split: Split, groups: np.ndarray, parts: int, key: str) -> None:
    """Refuse a division by groups that would leave a part without any."""
    count = len(np.unique(groups))
    if count < parts:
        raise UserError(
            f"{key} divides by data.group, which gives {count} separate "
            f"group{'' if count == 1 else 's'} in {len(split)} images; {parts} are needed."
        )


def concat_splits(first: Split, second: Split | None) -> Split:
    """Return the images of both splits as one split."""
    if second is None:
        return first
    store, offset = first.store, 0
    if second.store is not store:
        store, offset = ConcatImageStore([store, second.store]), len(store)
    looks = None
    if first.looks is not None and second.looks is not None:
        looks = first.looks.followed_by(second.looks)
    return Split(
        store,
        np.concatenate([first.indices, second.indices + offset]),
        np.concatenate([first.labels, second.labels]),
        [*first.names, *second.names],
        groups=None
        if first.groups is None or second.groups is None
        else [*first.groups, *second.groups],
        label_sets={
            name: np.concatenate([labels, second.label_sets[name]])
            for name, labels in first.label_sets.items()
        },
        quantities={
            name: np.concatenate([values, second.quantities[name]])
            for name, values in first.quantities.items()
        },
        looks=looks,
    )


def kfold_split(
    train: Split,
    val: Split | None,
    k: int,
    index: int,
    seed: int,
    classes: list[str],
    digest_of: str = "pixels",
) -> tuple[Split, Split]:
    """Return train and val of one fold of stratified k-fold cross-validation.

    Args:
        train: Training split, pooled with ``val``.
        val: Validation split, or None.
        k: Number of folds, at least 2.
        index: Fold used as val, 0 to k - 1.
        seed: Seed of the assignment to folds.
        classes: Class names for error messages.
        digest_of: Hash that identical images share, see :meth:`Split.digests`.

    With ``data.group`` every group is held out by one fold.
    """
    if not 0 <= index < k:
        raise UserError(f"data.fold is {index}, expected 0 to {k - 1} for data.folds={k}.")
    pooled = concat_splits(train, val)
    groups = duplicate_groups(pooled, digest_of)
    if pooled.groups is not None:
        groups = joined(groups, group_numbers(pooled.groups))
        _check_groups(pooled, groups, k, "data.folds")
        in_val = divide(pooled.labels, groups, [1 / k] * k, seed) == index
        return pooled.subset(np.flatnonzero(~in_val)), pooled.subset(np.flatnonzero(in_val))
    for label in np.unique(pooled.labels):
        num_distinct = len(np.unique(groups[pooled.labels == label]))
        if num_distinct < k:
            name = classes[label]
            raise UserError(
                f"Class {name} has {num_distinct} different images, fewer than data.folds={k}; "
                f"use fewer folds or data.exclude=[{name}]."
            )
    position = stratified_position(pooled.labels, groups, seed)
    in_val = np.floor(position * k).astype(np.int64) == index
    return pooled.subset(np.flatnonzero(~in_val)), pooled.subset(np.flatnonzero(in_val))


def subsample(split: Split, n: int | None, seed: int) -> Split:
    """Return a stratified subsample of exactly ``n`` images, in the order of the split.

    At least one image of every class is present; None or too large ``n`` keeps all images.
    """
    if n is None or n >= len(split):
        return split
    labels, counts = np.unique(split.labels, return_counts=True)
    if n < len(labels):
        raise UserError(
            f"data.limit={n} is less than one image of each of {len(labels)} classes; "
            f"set data.limit={len(labels)} or more."
        )
    # One image of each class, then the largest remainder method.
    exact = (n - len(labels)) * (counts - 1) / max(int((counts - 1).sum()), 1)
    extra = np.floor(exact).astype(np.int64)
    unassigned = n - len(labels) - int(extra.sum())
    extra[np.argsort(extra - exact, kind="stable")[:unassigned]] += 1
    selected = []
    for label, number in zip(labels, extra + 1, strict=True):
        members = np.flatnonzero(split.labels == label)
        order = np.random.default_rng([int(seed), int(label)]).permutation(len(members))
        selected.append(members[order[:number]])
    return split.subset(np.sort(np.concatenate(selected)))


def exclude_classes(source: LoadedDataset, names: Sequence[str]) -> LoadedDataset:
    """Return the dataset without some classes (names or synonyms); labels are renumbered."""
    if not names:
        return source
    by_key = {class_key(name): name for name in source.classes}
    for name in names:
        if class_key(name) not in by_key:
            raise unknown("class", name, source.classes, "Set data.exclude=[<names>].")
    excluded = {by_key[class_key(name)] for name in names}
    kept = [name for name in source.classes if name not in excluded]
    if len(kept) < 2:
        raise UserError(
            f"data.exclude leaves {len(kept)} of {len(source.classes)} classes; "
            f"at least 2 are needed."
        )
    new_label = np.array([kept.index(n) if n in kept else -1 for n in source.classes])
    splits = {}
    for split_name, split in source.splits.items():
        labels = new_label[split.labels]
        part = split.subset(np.flatnonzero(labels >= 0))
        part.labels = labels[labels >= 0].astype(np.int64)
        part.label_sets = {
            name: np.where(values >= 0, new_label[values], -1)
            for name, values in part.label_sets.items()
        }
        splits[split_name] = part
    return replace(source, classes=kept, splits=splits)
