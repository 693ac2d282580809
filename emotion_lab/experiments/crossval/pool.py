"""Pool the folds of a cross-validation: out-of-fold predictions of every image.

Sources:
    Stone 1974, J. R. Statist. Soc. B 36(2) (cross-validation).
    Bengio, Grandvalet 2004, JMLR 5 (the variance over folds does not estimate that of their mean).
    Forman, Scholz 2010, SIGKDD Explorations 12(1) (F1 of the pool, not the mean over folds).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emotion_lab.config import schema
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run
from emotion_lab.data.contamination import count_text
from emotion_lab.evaluation.predictions_file import SavedPredictions, read_predictions
from emotion_lab.experiments.compare.load import check_same_classes
from emotion_lab.experiments.run.resume import earlier_values

#: Keys of ``data`` that leave images out of train or val.
_FILTERS = ("limit", "drop_csv", "drop_not_face")


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Out-of-fold predictions.

    Attributes:
        runs: The k runs, by fold.
        classes: K names, in the order of the probabilities.
        names: N unique image names, fold by fold.
        folds: The fold that held out the image, int64 (N,).
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        probabilities: float64 (N, K).
        groups: N names of groups (``data.group``), or None.
    """

    runs: list[Run]
    classes: list[str]
    names: list[str]
    folds: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    notes: list[str]
    groups: list[str] | None = None


def _check_same_config(runs: Sequence[Run]) -> None:
    """Raise if the configs differ in other keys than the fold."""
    configs = [
        {
            **schema.identity(run.config, exclude=("data.fold",)),
            "the change on resume": earlier_values(run.folder),
        }
        for run in runs
    ]
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [json.dumps(config.get(key), sort_keys=True, default=str) for config in configs]
        if len(set(values)) > 1:
            pairs = zip(runs, configs, strict=True)
            folders = [str(run.folder) for run, config in pairs if config == configs[0]]
            raise UserError(
                f"these runs are not one cross-validation: {key} is "
                f"{', '.join(dict.fromkeys(values))}. Give the runs of one configuration, for "
                f"instance runs=[{','.join(folders)}]."
            )


def sort_folds(runs: Sequence[Run]) -> list[Run]:
    """Return the k runs of one cross-validation by fold; raise if they are not complete."""
    for run in runs:
        if not (run.config.get("data") or {}).get("folds"):
            raise UserError(
                f"{run.folder} is not a fold of a cross-validation. Train the folds with "
                "-m data.folds=5 'data.fold=range(5)'."
            )
    _check_same_config(runs)
    k = int(runs[0].config["data"]["folds"])
    by_fold: dict[int, Run] = {}
    for run in runs:
        index = int(run.config["data"]["fold"] or 0)
        if index in by_fold:
            raise UserError(
                f"fold {index} is given twice: {by_fold[index].folder} and {run.folder}. Give "
                "every fold once, runs=[<run>,<run>]."
            )
        by_fold[index] = run
    missing = [index for index in range(k) if index not in by_fold]
    if missing:
        folds = ", ".join(map(str, sorted(by_fold)))
        override = f"data.fold={','.join(map(str, missing))}"
        multirun = "-m " if len(missing) > 1 else ""
        raise UserError(
            f"{len(by_fold)} of {k} folds are given: {folds}. Train the missing folds with the "
            f"same options ({multirun}{override})."
        )
    return [by_fold[index] for index in range(k)]


def _check_complete(runs: Sequence[Run]) -> list[str]:
    """Raise if the folds do not hold out all images of train and val.

    The number of images in train and val of a fold must be equal for all folds, and equal to the
    number of images that all folds together hold out, for each class.

    Returns:
        A note if images are left out on purpose, so that the folds cannot be checked.
    """
    data = runs[0].config["data"]
    fingerprints = [run.metrics.get("fingerprints") or {} for run in runs]
    for run, splits in zip(runs, fingerprints, strict=True):
        if not all({"counts", "hash"} <= set(splits.get(name, ())) for name in ("train", "val")):
            raise UserError(
                f"{run.folder}: its metrics.json has no fingerprints of train and val, so it "
                "cannot be checked. Train that fold again."
            )
    filters = [f"data.{key}={data[key]}" for key in _FILTERS if data.get(key)]
    if filters:
        return [
            f"{', '.join(filters)} leaves out images, so it is not checked whether the folds cover "
            "all of train and val"
        ]
    by_class = not data.get("relabel_csv")  # relabelling changes the labels of train only
    counts = [
        {
            split: fold[split]["counts"] if by_class else {"": sum(fold[split]["counts"].values())}
            for split in ("train", "val")
        }
        for fold in fingerprints
    ]
    for name in counts[0]["val"]:
        held_out = sum(fold["val"].get(name, 0) for fold in counts)
        for run, fold in zip(runs, counts, strict=True):
            n_images = fold["train"].get(name, 0) + fold["val"].get(name, 0)
            if n_images != held_out:
                images = f"images of {name}" if name else "images"
                raise UserError(
                    f"{run.folder} has {n_images:,} {images} in train and val, but all folds "
                    f"together hold out {held_out:,}: they were not trained on the same data."
                )
    return []


def _check_disjoint(saved: Sequence[SavedPredictions]) -> None:
    """Raise if the folds have different classes, or if two folds hold out the same image."""
    fold_of: dict[str, int] = {}
    for index, fold in enumerate(saved):
        check_same_classes(saved[0], fold)
        duplicate = next((name for name in fold.names if name in fold_of), None)
        if duplicate is not None:
            raise UserError(
                f"folds {fold_of[duplicate]} and {index} overlap: both hold out '{duplicate}'. "
                "They are not from the same split; train all folds in one sweep."
            )
        fold_of.update(dict.fromkeys(fold.names, index))


def _pool_groups(saved: Sequence[SavedPredictions]) -> list[str] | None:
    """Return the groups of all images; raise if one is held out by two folds."""
    fold_of: dict[str, int] = {}
    groups: list[str] = []
    for index, fold in enumerate(saved):
        if fold.groups is None:
            return None
        for group in fold.groups:
            if fold_of.setdefault(group, index) != index:
                raise UserError(
                    f"folds {fold_of[group]} and {index} both hold out images of '{group}' "
                    "(data.group): train all folds in one sweep."
                )
        groups += fold.groups
    return groups


def pool(runs: Sequence[Run]) -> OutOfFoldPredictions:
    """Concatenate the val predictions of the folds of one cross-validation."""
    runs = sort_folds(runs)
    saved = [read_predictions(run.folder, "val") for run in runs]
    _check_disjoint(saved)
    notes = _check_complete(runs)
    for fold in saved:
        seen = fold.scores.get("trained_on") or {"n": None, "unknown": []}
        count = count_text(seen, len(fold.names), "val images")
        if count is not None:
            notes.append(f"{fold.run} learnt from {count}: its score is too high")
    classes = saved[0].classes
    # Position of our classes in each fold, and the inverse permutation.
    columns = [np.array([fold.classes.index(name) for name in classes]) for fold in saved]
    indices = [np.argsort(order) for order in columns]
    folds = list(zip(saved, columns, indices, strict=True))
    return OutOfFoldPredictions(
        runs,
        classes,
        [name for fold in saved for name in fold.names],
        np.repeat(np.arange(len(saved)), [len(fold.names) for fold in saved]),
        np.concatenate([index[fold.labels] for fold, _, index in folds]),
        np.concatenate([index[fold.predicted] for fold, _, index in folds]),
        np.concatenate([fold.probabilities[:, order] for fold, order, _ in folds]),
        notes,
        _pool_groups(saved),
    )
