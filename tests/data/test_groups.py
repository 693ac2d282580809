"""Groups of persons: reading them, dividing by them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold

from emotion_lab.audits.result import count_groups
from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.groups import divide, group_numbers, joined, set_groups
from emotion_lab.data.splits import carve_val, kfold_split
from emotion_lab.data.types import Split
from emotion_lab.evaluation.predictions_file import read_predictions
from tests.conftest import TINY, command
from tests.data.test_splits import CLASSES, make_split


def make_people(n: int = 30, seed: int = 0, duplicates: int = 0) -> Split:
    """Return a split of persons with uneven numbers of images of each class."""
    split = make_split((90, 40, 120), seed, duplicates)
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(n, 2.0), size=3)
    groups = [f"p{rng.choice(n, p=shares[label])}" for label in split.labels]
    return replace(split, groups=groups)


def config(path: Path, **keys: object) -> dict:
    return {"name": "image_folder", "path": str(path), "group": r"(p\d+)_", **keys}


def write_people(root: Path, people: range, seed: int = 0) -> None:
    """Write two images of each person and class."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for file in (f"p{person}_{i}.png" for person in people for i in range(2)):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / file)


def test_the_first_bracket_is_the_group() -> None:
    split = replace(make_split((2, 1), duplicates=0), names=["s01/a_p1_0.png", "s02/p2.png", "p3"])
    set_groups({"train": split}, r"p(\d)", "data")
    assert split.groups == ["1", "2", "3"]
    split.groups = None
    set_groups({"train": split}, r"p\d", "data")
    assert split.groups == ["p1", "p2", "p3"]
    set_groups({"train": split}, r"no match", "data")  # groups of the dataset stay
    assert split.groups == ["p1", "p2", "p3"]


def test_a_name_without_group_is_one_line() -> None:
    split = make_split((2, 2), duplicates=0)
    with pytest.raises(UserError, match=r"data.group=\(p\.\) matches nothing in image:0 \(here\)"):
        set_groups({"train": split}, "(p.)", "here")


def test_nobody_is_in_two_parts_and_all_have_their_size() -> None:
    split = make_people()
    groups = group_numbers(split.groups)
    parts = divide(split.labels, groups, [0.8, 0.2], seed=1)
    assert not set(groups[parts == 0]) & set(groups[parts == 1])
    assert np.mean(parts == 1) == pytest.approx(0.2, abs=0.03)
    assert not np.array_equal(parts, divide(split.labels, groups, [0.8, 0.2], seed=2))


def test_folds_are_as_even_as_those_of_scikit_learn() -> None:
    def unevenness(parts: np.ndarray) -> float:
        counts = [np.bincount(split.labels[parts == fold], minlength=3) for fold in range(5)]
        return float((np.array(counts) / np.bincount(split.labels)).std(0).mean())

    for seed in range(5):
        split = make_people(seed=seed)
        groups = group_numbers(split.groups)
        theirs = np.zeros(len(split), int)
        folds = StratifiedGroupKFold(5).split(split.labels, split.labels, groups)
        for fold, (_, held_out) in enumerate(folds):
            theirs[held_out] = fold
        ours = divide(split.labels, groups, [0.2] * 5, seed=0)
        assert unevenness(ours) <= unevenness(theirs) + 0.005


def test_identical_images_join_two_persons() -> None:
    first, second = np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 2])
    parts = joined(first, second)
    assert parts[0] == parts[1] == parts[2]
    assert parts[3] == parts[4] != parts[0]
    split = make_people(duplicates=20)
    train, val = carve_val(split, 0.2, 0)
    assert not set(train.digests()) & set(val.digests())
    assert not set(train.groups) & set(val.groups)


def test_every_person_is_held_out_by_one_fold() -> None:
    split, held_out = make_people(), []
    for fold in range(4):
        train, val = kfold_split(split, None, 4, fold, 0, CLASSES)
        assert not set(train.groups) & set(val.groups)
        assert len(train) + len(val) == len(split)
        held_out += sorted(set(val.groups))
    assert sorted(held_out) == sorted(set(split.groups))


def test_too_few_persons_are_one_line() -> None:
    split = make_people(n=2)
    with pytest.raises(UserError, match="which gives 2 separate groups"):
        kfold_split(split, None, 3, 0, 0, CLASSES)


def test_image_folders_are_divided_by_person(tmp_path: Path) -> None:
    write_people(tmp_path, range(10))
    for keys in ({}, {"folds": 5, "fold": 1}):
        source = load_data(config(tmp_path, **keys), ("train", "val"))
        train, val = source.splits["train"], source.splits["val"]
        assert not set(train.groups) & set(val.groups)
        assert len(train) + len(val) == 60
        assert set(val.labels) == {0, 1, 2}


def test_a_person_in_train_and_val_is_refused_and_audited(tmp_path: Path) -> None:
    write_people(tmp_path / "train", range(4))
    write_people(tmp_path / "val", range(3, 6), seed=500)
    with pytest.raises(UserError, match=r"'p3' \(data.group\) is in train \(train/.*in val \(val/"):
        load_data(config(tmp_path), ("train", "val"))
    source = load_data(config(tmp_path), ("train", "val"), carve=False)
    assert count_groups(source.splits) == {"n": {"train": 4, "val": 3}, "across_splits": ["p3"]}
    folds = load_data(config(tmp_path, folds=3, fold=0), ("train", "val")).splits
    assert not set(folds["train"].groups) & set(folds["val"].groups)


def test_class_folders_may_be_in_folders_of_persons(tmp_path: Path) -> None:
    for person in range(6):
        write_people(tmp_path / f"anna{person}", range(1), seed=person)
    keys = {"group": "^([^/]+)/"}
    source = load_data(config(tmp_path, **keys), ("train", "val"))
    assert source.classes == ["angry", "disgust", "fear"]
    assert not [note for note in source.notes if "are read as one class" in note]
    train, val = source.splits["train"], source.splits["val"]
    assert set(train.groups) | set(val.groups) == {f"anna{person}" for person in range(6)}
    assert not set(train.groups) & set(val.groups)
    with pytest.raises(UserError, match="is no class folder: it holds class folders itself"):
        load_data(config(tmp_path, group=None), ("train", "val"))


def test_training_and_evaluation_by_person(tmp_path: Path) -> None:
    run, report = tmp_path / "run", tmp_path / "report"
    done = command(*TINY, "data.persons=30", f"hydra.run.dir={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = read_predictions(run, "val")
    assert saved.groups is not None and len(set(saved.groups)) == 3
    options = ("num_explained=0", "num_robustness=0", "num_mistakes=0", f"hydra.run.dir={report}")
    done = command(f"ckpt={run}", *options, module="emotion_lab.evaluate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((report / "report.json").read_text())
    assert content["groups"] == 3
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "bootstrap over 3 persons or groups" in page
