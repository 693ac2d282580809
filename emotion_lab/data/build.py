"""Load any registered dataset: open splits, exclude classes, make folds, clean, subsample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emotion_lab.core import registry
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.data import groups
from emotion_lab.data.cleaning import clean
from emotion_lab.data.ferplus import FerPlusVotes, apply_ferplus, ferplus_labels, open_votes
from emotion_lab.data.splits import carve_val, exclude_classes, kfold_split, subsample
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset, Split, excluded_classes


def _needed(requested: set[str], folds: int | None) -> set[str]:
    """Return the splits to open in order to build the requested ones.

    The content of train depends on whether the dataset has a val split, so train needs both.
    """
    if "train" in requested or (folds is not None and "val" in requested):
        return requested | {"train", "val"}
    return requested


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in names)


def _missing(name: str, source: LoadedDataset) -> UserError:
    available = ", ".join(source.available_splits or _ordered(set(source.splits))) or "none"
    return UserError(
        f"split '{name}' is missing in {source.location}; found: {available}. "
        f"Use one of those, or set data.path to data that has it."
    )


def _load(
    cfg: dict[str, Any], splits: tuple[str, ...], votes: FerPlusVotes | None
) -> LoadedDataset:
    source = DATASETS.build(str(cfg["name"]), cfg, splits)
    if not isinstance(source, LoadedDataset):
        raise UserError(
            f"{registry.source(DATASETS.get(str(cfg['name'])))}: data '{cfg['name']}' returns "
            f"{type(source).__name__}, expected emotion_lab.data.types.LoadedDataset."
        )
    if votes is None:
        return source
    votes.check_rows(source.rows)
    return ferplus_labels(source, votes) if cfg.get("labels") == "ferplus" else source


def _open(
    cfg: dict[str, Any], requested: set[str], votes: FerPlusVotes | None
) -> tuple[LoadedDataset, set[str]]:
    """Open the splits that the requested ones are built from; return the names opened, too."""
    needed = _needed(requested, cfg.get("folds"))
    source = _load(cfg, _ordered(needed), votes)
    if "val" in requested and "val" not in source.splits and "train" not in needed:
        # Without a val split in the dataset, val is a part of train.
        needed = requested | {"train"}
        source = _load(cfg, _ordered(needed), votes)
    source = exclude_classes(source, excluded_classes(cfg))
    if cfg.get("group"):
        if any(split.looks is not None and split.groups for split in source.splits.values()):
            raise UserError(
                f"data.group does not apply to data={cfg['name']}, where every clip shows another "
                "person: remove data.group=."
            )
        groups.set_groups(source.splits, str(cfg["group"]), source.location)
    return source, needed


def _check_clips(train: Split, source: LoadedDataset, by_group: bool) -> None:
    """Refuse to divide clips if a class has one group, which cannot be in train and in val."""
    if train.looks is None or train.groups is None:
        return
    groups, unit = np.asarray(train.groups), "group (data.group)" if by_group else "clip"
    for label, name in enumerate(source.classes):
        if len(np.unique(groups[train.labels == label])) == 1:
            raise UserError(
                f"class {name} of {source.location} has one {unit}, which cannot be in train and "
                f"in val: add clips, or leave the class out with data.exclude=[{name}]."
            )


def _make_val(
    source: LoadedDataset, cfg: dict[str, Any], requested: set[str], needed: set[str], carve: bool
) -> tuple[dict[str, Split], list[str]]:
    """Return the splits with val taken from a fold or carved out of train, and printable notes."""
    splits, folds = dict(source.splits), cfg.get("folds")
    seed, digest_of = int(cfg.get("split_seed") or 0), cfg.get("digest_of", "pixels")
    if folds is not None and needed & {"train", "val"}:
        if "train" not in splits:
            raise _missing("train", source)
        index = cfg.get("fold") or 0
        splits["train"], splits["val"] = kfold_split(
            splits["train"], splits.get("val"), folds, index, seed, source.classes, digest_of
        )
        return splits, [f"val is fold {index} of {folds} over train + val (seed {seed})"]
    if carve:
        groups.check_apart(splits)
    if "train" not in splits or "val" in splits or "val" not in needed:
        return splits, []
    if carve:
        _check_clips(splits["train"], source, bool(cfg.get("group")))
        fraction = cfg.get("val_fraction", 0.1)
        splits["train"], splits["val"] = carve_val(splits["train"], fraction, seed, digest_of)
        note = (
            f"no val split in the data: {len(splits['val']):,} images of train are val "
            f"(val_fraction {fraction}, seed {seed})"
        )
        return splits, [note]
    if "val" not in requested:
        return splits, []
    splits["val"] = splits["train"]
    return splits, [f"no val split in the data: all {len(splits['val']):,} images are scored"]


def _check_label_settings(cfg: dict[str, Any]) -> None:
    """Refuse label settings that contradict each other or need the FER+ votes."""
    source, votes = cfg.get("label_source", "original"), cfg.get("ferplus_csv")
    if cfg.get("labels") == "ferplus" and cfg["name"] != "fer2013":
        raise UserError(
            f"data.labels=ferplus belongs to data=fer2013, not to data={cfg['name']}: the votes "
            "are joined to the images by the row numbers of the CSV."
        )
    if cfg.get("labels") == "ferplus" and not votes:
        raise UserError(
            "data.labels=ferplus needs the FER+ votes: set data.ferplus_csv=<fer2013new.csv>."
        )
    if cfg.get("relabel_csv") and source != "original":
        raise UserError(
            f"data.relabel_csv and data.label_source={source} both set the labels: use one of them."
        )
    if not votes and (source != "original" or cfg.get("drop_not_face")):
        raise UserError(
            "data.label_source and data.drop_not_face need the FER+ votes: "
            "set data.ferplus_csv=<fer2013new.csv>."
        )


def _check_classes(train: Split, source: LoadedDataset, cfg: dict[str, Any]) -> None:
    """Refuse to train on a class without images; such a class can be scored."""
    present = set(train.labels.tolist())
    missing = [name for label, name in enumerate(source.classes) if label not in present]
    if not missing:
        return
    folders = [folder for name in missing for folder in source.class_folders.get(name, [])]
    where = f" (folder {', '.join(folders)})" if folders else ""
    exclude = ",".join([*excluded_classes(cfg), *missing])
    raise UserError(
        f"no train image of {', '.join(missing)} in {source.location}{where}: add some, or leave "
        f"the class out with data.exclude=[{exclude}]."
    )


def load_data(cfg: dict[str, Any], splits: tuple[str, ...], carve: bool = True) -> LoadedDataset:
    """Load splits of the dataset ``data.name``.

    The images of a split and their order do not depend on which other splits are loaded. The
    test split is opened only if it is among ``splits``.

    Args:
        cfg: The ``data`` group as a plain dict.
        splits: Some of ``train``, ``val`` and ``test``; exactly these are returned.
        carve: If the dataset has no val split: True carves ``val_fraction`` out of train, False
            uses all of train as val (for data that no model was trained on), and a class may have
            no images in train.
    """
    requested = set(splits)
    for name in requested.difference(SPLITS):
        raise unknown("split", name, SPLITS)
    _check_label_settings(cfg)
    votes = open_votes(cfg)
    source, needed = _open(cfg, requested, votes)
    if len(source.classes) < 2 and carve:
        raise UserError(
            f"{source.location} has one class, {source.classes[0]}: at least two are needed. "
            "Set data.path to the folder that holds the class folders."
        )
    opened, notes = _make_val(source, cfg, requested, needed, carve)
    opened, cleaning_notes = clean(opened, cfg, source.classes, source.skipped)
    result = {}
    for name in _ordered(requested):
        if name not in opened:
            raise _missing(name, source)
        if name == "train" and carve:
            _check_classes(opened[name], source, cfg)
        if not len(opened[name]):
            raise UserError(f"split '{name}' of {source.location} has no images of the classes.")
        result[name] = subsample(opened[name], cfg.get("limit"), int(cfg.get("split_seed") or 0))
    source = replace(source, splits=result, notes=[*source.notes, *notes, *cleaning_notes])
    return source if votes is None else apply_ferplus(source, votes, cfg)
