"""Hold-out validation, folds, subsampling, class exclusion and fingerprints."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.build import load_data
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.splits import (
    ConcatImageStore,
    carve_val,
    duplicate_groups,
    exclude_classes,
    kfold_split,
    stratified_position,
    subsample,
)
from emotion_lab.data.types import ArrayStore, LoadedDataset, Split

CLASSES = list(EMOTIONS[:3])


def make_split(counts=(40, 12, 60), seed: int = 0, duplicates: int = 10, start: int = 0) -> Split:
    """Return a split with ``duplicates`` copies of its first images; one has another label."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    images = rng.integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    images = np.concatenate([images, images[:duplicates]])
    labels = np.concatenate([labels, labels[:duplicates]])
    if duplicates:
        labels[-1] = (labels[-1] + 1) % len(counts)
    names = [f"image:{start + i}" for i in range(len(labels))]
    return Split(ArrayStore(images), np.arange(len(labels)), labels, names)


def disjoint(a: Split, b: Split) -> bool:
    return not set(a.digests()) & set(b.digests())


def test_stratified_position():
    split = make_split()
    groups = duplicate_groups(split)
    position = stratified_position(split.labels, groups, 3)
    assert position.min() >= 0 and position.max() < 1
    for group in np.unique(groups):
        assert len(np.unique(position[groups == group])) == 1
    np.testing.assert_array_equal(position, stratified_position(split.labels, groups, 3))
    assert (position != stratified_position(split.labels, groups, 4)).any()
    order = np.random.default_rng(1).permutation(len(split))
    shuffled = split.subset(order)
    moved = stratified_position(shuffled.labels, duplicate_groups(shuffled), 3)
    np.testing.assert_array_equal(moved, position[order])


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_carve_val(fraction, seed):
    split = make_split(seed=seed)
    train, val = carve_val(split, fraction, seed)
    assert sorted([*train.names, *val.names]) == sorted(split.names)
    assert disjoint(train, val)
    for label in range(3):
        n = int((split.labels == label).sum())
        num_val = int((val.labels == label).sum())
        assert abs(num_val - fraction * n) <= 3 + 0.1 * n
        assert num_val and (train.labels == label).any()


def test_carve_val_keeps_rare_classes_in_both_splits():
    train, val = carve_val(make_split((100, 2, 3), duplicates=0), 0.1, 0)
    assert np.bincount(val.labels).tolist() == [10, 1, 1]
    assert np.bincount(train.labels).tolist() == [90, 1, 2]


def test_carve_val_too_few_images():
    with pytest.raises(UserError, match="Cannot cut a val split"):
        carve_val(make_split((1, 1), duplicates=0), 0.1, 0)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("same_store", [True, False])
def test_kfold_split(k, same_store):
    train = make_split(seed=5)
    if same_store:
        train, val = carve_val(train, 0.2, 0)
    else:
        val = make_split(seed=6, start=1000)
    # Duplicates across train and val must stay together, too.
    names = sorted([*train.names, *val.names])
    seen = []
    for index in range(k):
        fold_train, fold_val = kfold_split(train, val, k, index, 0, CLASSES)
        assert disjoint(fold_train, fold_val)
        assert sorted([*fold_train.names, *fold_val.names]) == names
        assert set(fold_val.labels.tolist()) == {0, 1, 2}
        assert abs(len(fold_val) - len(names) / k) <= 0.2 * len(names) / k + 3
        assert fold_train.image(0).shape == (4, 4, 1)
        seen += fold_val.names
    assert sorted(seen) == names


def test_duplicates_across_train_and_val_stay_together():
    train = make_split(duplicates=0)
    store = ArrayStore(np.stack([train.image(i) for i in range(20)]))
    val = Split(store, np.arange(20), train.labels[:20], [f"val:{i}" for i in range(20)])
    for index in range(4):
        assert disjoint(*kfold_split(train, val, 4, index, 0, CLASSES))


@pytest.mark.parametrize(
    "k, index, message",
    [
        (5, 5, "data.fold is 5, expected 0 to 4"),
        (5, -1, "data.fold is -1"),
        (13, 0, "Class disgust has 12 different images, fewer than data.folds=13"),
    ],
)
def test_kfold_split_invalid_arguments(k, index, message):
    with pytest.raises(UserError, match=message):
        kfold_split(make_split(duplicates=0), None, k, index, 0, CLASSES)


def test_concat_store():
    a, b = make_split((3, 3), 0, 0).store, make_split((2, 2), 1, 0).store
    both = ConcatImageStore([a, b])
    assert len(both) == 10 and both.size_hint() == a.size_hint() + b.size_hint()
    for index in range(10):
        store, inner = (a, index) if index < 6 else (b, index - 6)
        np.testing.assert_array_equal(both[index], store[inner])
        assert both.digest(index) == store.digest(inner)
    with pytest.raises(IndexError):
        both[10]


@pytest.mark.parametrize("n", [3, 4, 7, 50, 121, 122, 500])
def test_subsample(n):
    split = make_split()
    subset = subsample(split, n, 0)
    assert len(subset) == min(n, len(split))
    assert set(subset.labels.tolist()) == {0, 1, 2}
    assert subset.names == subsample(split, n, 0).names
    positions = [split.names.index(name) for name in subset.names]
    assert positions == sorted(positions)
    fractions = np.bincount(subset.labels) / len(subset)
    if n >= 50:
        assert np.abs(fractions - np.bincount(split.labels) / len(split)).max() < 0.03


def test_subsample_invalid_arguments():
    split = make_split()
    assert subsample(split, None, 0) is split
    with pytest.raises(UserError, match=r"data.limit=3 or more"):
        subsample(split, 2, 0)


def make_source() -> LoadedDataset:
    return LoadedDataset(["happy", "sad", "bored"], {"train": make_split()}, "here")


def test_exclude_classes():
    source = make_source()
    result = exclude_classes(source, ["Happiness"])
    assert result.classes == ["sad", "bored"]
    original = source.splits["train"]
    kept = original.labels != 0
    np.testing.assert_array_equal(result.splits["train"].labels, original.labels[kept] - 1)
    assert result.splits["train"].names == list(itertools.compress(original.names, kept))
    assert exclude_classes(source, ["BORED"]).classes == ["happy", "sad"]
    assert exclude_classes(source, []) is source
    with pytest.raises(UserError, match=r"Unknown class 'sadd'. Did you mean 'sad'"):
        exclude_classes(source, ["sadd"])
    with pytest.raises(UserError, match="at least 2"):
        exclude_classes(source, ["sad", "bored"])


@pytest.fixture(params=["with_val", "without_val"])
def opened_splits(request, monkeypatch):
    """Replace the registry by a dataset that records the opened splits."""
    from emotion_lab.data import build as module

    available = {"train": make_split(seed=1), "test": make_split(seed=3, start=500)}
    if request.param == "with_val":
        available["val"] = make_split(seed=2, start=900)
    opened: list[tuple[str, ...]] = []

    def loader(cfg, splits):
        opened.append(splits)
        return LoadedDataset(
            ["happy", "sad", "bored"], {n: available[n] for n in splits if n in available}, "here"
        )

    monkeypatch.setitem(module.DATASETS._items, "any", loader)
    return opened


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"folds": 4, "fold": 2},
        {"exclude": ["sad"], "limit": 20},
        {"val_fraction": 0.3, "split_seed": 7, "exclude": ["bored"]},
    ],
)
def test_splits_do_not_depend_on_requested_splits(opened_splits, cfg):
    cfg = {"name": "any", **cfg}
    complete = load_data(cfg, ("train", "val", "test"))
    names = ("train", "val", "test")
    for requested in [(name,) for name in names] + list(itertools.combinations(names, 2)):
        opened_splits.clear()
        source = load_data(cfg, requested)
        assert set(source.splits) == set(requested)
        assert source.classes == complete.classes
        for name in requested:
            assert source.splits[name].names == complete.splits[name].names
            np.testing.assert_array_equal(source.splits[name].labels, complete.splits[name].labels)
        if "test" not in requested:
            assert all("test" not in splits for splits in opened_splits)


def test_unknown_split(opened_splits):
    with pytest.raises(UserError, match=r"Unknown split 'tset'. Did you mean 'test'"):
        load_data({"name": "any"}, ("tset",))


def test_fingerprint():
    split, classes = make_split(), ["happy", "sad", "bored"]
    original = fingerprint(split, classes)
    assert original["n"] == len(split) and sum(original["counts"].values()) == len(split)
    assert all(type(value) is int for value in original["counts"].values())
    assert len(original["hash"]) == 32 and original["known_as"] is None
    order = np.random.default_rng(0).permutation(len(split))
    assert fingerprint(split.subset(order), classes) == original
    fewer = split.subset(order[1:])
    assert fingerprint(fewer, classes)["hash"] != original["hash"]
    relabelled = split.subset(np.arange(len(split)))
    relabelled.labels[0] = (relabelled.labels[0] + 1) % 3
    assert fingerprint(relabelled, classes)["hash"] != original["hash"]
    # The hash depends on the class names, not on their positions.
    reordered = split.subset(np.arange(len(split)))
    reordered.labels = 2 - reordered.labels
    assert fingerprint(reordered, classes[::-1])["hash"] == original["hash"]


def test_known_splits():
    counts = (491, 55, 528, 879, 594, 416, 626)
    split = make_split(counts, duplicates=0)
    assert fingerprint(split, list(EMOTIONS))["known_as"] == "FER2013 PrivateTest"
    assert fingerprint(split, list(EMOTIONS[::-1]))["known_as"] is None
