"""Cutting splits: a val share of train, folds, a limit, classes left out.

FER2013 holds 1,516 groups of byte-identical images. Whatever is cut here keeps such a group on
one side: otherwise the model would be measured on pictures it has learnt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import canonical
from emotion_lab.data.types import ImageStore, LoadedDataset, Split


class ConcatImageStore:
    """Several stores, one behind the other."""

    def __init__(self, stores: Iterable[ImageStore]) -> None:
        self.stores = list(stores)
        self._ends = np.cumsum([len(store) for store in self.stores])

    def _locate(self, index: int) -> tuple[ImageStore, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.stores[part], index - (int(self._ends[part - 1]) if part else 0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> np.ndarray:
        store, inner = self._locate(index)
        return store[inner]

    def digest(self, index: int) -> bytes:
        """Return the content hash of image ``index``, 16 bytes."""
        store, inner = self._locate(index)
        return store.digest(inner)

    def size_hint(self) -> int:
        """Return the bytes of all images once decoded."""
        return sum(store.size_hint() for store in self.stores)


def content_groups(split: Split) -> np.ndarray:
    """Return int64 (N,): the same number for byte-identical images.

    Numbers follow the sorted hashes, so they do not depend on the order of the images.
    """
    digests = np.array(split.digests(), dtype="S16")
    return np.unique(digests, return_inverse=True)[1].reshape(-1).astype(np.int64)


def stratified_position(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Spread every class evenly over [0, 1), in random order.

    An image belongs to a share of the data when its position lies in that share of [0, 1); all
    classes then have the same share of their groups in it, within one group.

    Args:
        labels: int (N,).
        groups: int (N,); images of one group get one position. A group of several labels counts
            as its smallest label.
        seed: Order within the classes.

    Returns:
        float64 (N,) in [0, 1).
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


def carve_val(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut a stratified val split out of train.

    Every class that has at least two different images is on both sides.

    Args:
        train: The split to cut.
        fraction: Share that becomes val, between 0 and 1.
        seed: Which images.

    Returns:
        The rest of train, and val; both keep the order of ``train``.

    Raises:
        UserError: If the fraction is out of range or there are too few images.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise UserError(
            f"data.val_fraction is {fraction}, expected a number between 0 and 1, such as 0.1."
        )
    groups = content_groups(train)
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


def pool(first: Split, second: Split | None) -> Split:
    """Return both splits as one."""
    if second is None:
        return first
    if first.store is second.store:
        store, shift = first.store, 0
    else:
        store, shift = ConcatImageStore([first.store, second.store]), len(first.store)
    return Split(
        store,
        np.concatenate([first.indices, second.indices + shift]),
        np.concatenate([first.labels, second.labels]),
        [*first.names, *second.names],
    )


def fold(
    train: Split,
    val: Split | None,
    k: int,
    index: int,
    seed: int,
    classes: list[str] | None = None,
) -> tuple[Split, Split]:
    """Return train and val of one fold of stratified k-fold cross-validation.

    Args:
        train: Pooled with ``val``.
        val: May be None.
        k: Number of folds, at least 2.
        index: Which fold is val, 0 to k - 1.
        seed: Which images go where.
        classes: Names for the error message; numbers are used without.

    Raises:
        UserError: If ``k`` or ``index`` is out of range, or a class has fewer different images
            than folds.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise UserError(f"data.folds is {k}, expected a whole number of at least 2, or null.")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < k:
        raise UserError(f"data.fold is {index}, expected 0 to {k - 1} for data.folds={k}.")
    everything = pool(train, val)
    groups = content_groups(everything)
    for label in np.unique(everything.labels):
        different = len(np.unique(groups[everything.labels == label]))
        if different < k:
            name = classes[label] if classes else str(label)
            raise UserError(
                f"Class {name} has {different} different images, fewer than data.folds={k}; "
                f"use fewer folds or data.exclude=[{name}]."
            )
    position = stratified_position(everything.labels, groups, seed)
    in_val = np.floor(position * k).astype(np.int64) == index
    return everything.subset(np.flatnonzero(~in_val)), everything.subset(np.flatnonzero(in_val))


def limit(split: Split, n: int | None, seed: int) -> Split:
    """Return ``n`` images of the split, in order, with the shares of the classes kept.

    Args:
        split: The split to thin out.
        n: How many; None or more than there are keeps all.
        seed: Which images.

    Returns:
        Exactly ``n`` images or all, at least one of every class present.

    Raises:
        UserError: If ``n`` is less than 1 or than the number of classes present.
    """
    if n is None:
        return split
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UserError(f"data.limit is {n}, expected a whole number of at least 1, or null.")
    if n >= len(split):
        return split
    labels, counts = np.unique(split.labels, return_counts=True)
    if n < len(labels):
        raise UserError(
            f"data.limit={n} is less than one image of each of {len(labels)} classes; "
            f"set data.limit={len(labels)} or more."
        )
    # One of each class first, the rest by largest remainder.
    wanted = (n - len(labels)) * (counts - 1) / max(int((counts - 1).sum()), 1)
    take = np.floor(wanted).astype(np.int64)
    rest = n - len(labels) - int(take.sum())
    take[np.argsort(take - wanted, kind="stable")[:rest]] += 1
    chosen = []
    for label, number in zip(labels, take + 1, strict=True):
        members = np.flatnonzero(split.labels == label)
        order = np.random.default_rng([int(seed), int(label)]).permutation(len(members))
        chosen.append(members[order[:number]])
    return split.subset(np.sort(np.concatenate(chosen)))


def exclude(source: LoadedDataset, names: Iterable[str] | str | None) -> LoadedDataset:
    """Return the source without some classes; labels are numbered anew.

    Args:
        source: Left as it is.
        names: Class names; synonyms count.

    Raises:
        UserError: If a name is none of the classes, or fewer than two classes are left.
    """
    names = [names] if isinstance(names, str) else list(names or [])
    if not names:
        return source
    by_key = {canonical(name) or name.strip().lower(): name for name in source.classes}
    gone = set()
    for name in names:
        key = canonical(str(name)) or str(name).strip().lower()
        if key not in by_key:
            raise unknown("class", name, source.classes, "Set data.exclude=[<names>].")
        gone.add(by_key[key])
    kept = [name for name in source.classes if name not in gone]
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
        part.labels = new_label[part.labels].astype(np.int64)
        splits[split_name] = part
    return replace(source, classes=kept, splits=splits)
