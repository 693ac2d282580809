"""One door to all data sets: find, exclude, fold or carve, clean, limit."""

from __future__ import annotations

from dataclasses import replace

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.data.cleaning import clean
from emotion_lab.data.ferplus import add_votes
from emotion_lab.data.splits import carve_val, exclude, fold, limit
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset


def _needed(wanted: set[str], folds: int | None) -> set[str]:
    """Return the splits to open so that ``wanted`` can be made.

    train depends on whether the data has a val split, so it needs both.
    """
    if "train" in wanted or (folds is not None and "val" in wanted):
        return wanted | {"train", "val"}
    return wanted


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(name for name in SPLITS if name in names)


def _missing(name: str, source: LoadedDataset) -> UserError:
    found = ", ".join(source.found or _ordered(set(source.splits))) or "none"
    return UserError(
        f"split '{name}' is missing in {source.location}; found: {found}. "
        f"Use one of those, or set data.path to data that has it."
    )


def _check_cleaning(cfg: dict) -> None:
    """Refuse two settings that both say what the labels are."""
    if cfg.get("relabel_csv") and cfg.get("label_source", "original") != "original":
        raise UserError(
            f"data.relabel_csv and data.label_source={cfg['label_source']} both set the labels: use one of them."
        )


def load_data(cfg: dict, splits: tuple[str, ...], carve: bool = True) -> LoadedDataset:
    """Load splits of the data set that ``cfg`` names.

    The images of a split and their order do not depend on which other splits are asked for. The
    test split is opened only when it is among ``splits``.

    Args:
        cfg: The ``data`` group as a plain dict.
        splits: Some of ``train``, ``val`` and ``test``.
        carve: Where the data has no val split, cut one out of train; otherwise all of train
            stands for it (data that nothing was trained on).

    Returns:
        Exactly the splits asked for.

    Raises:
        UserError: If the data is missing or bad, lacks a split, or a setting is out of range.
    """
    for name in splits:
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
    wanted = set(splits)
    folds = cfg.get("folds")
    seed = int(cfg.get("split_seed") or 0)
    load = DATASETS.get(str(cfg["name"]))
    needed = _needed(wanted, folds)
    source = load(cfg, _ordered(needed))
    if "val" in wanted and "val" not in source.splits and "train" not in needed:
        # No val split in the data: it is a share of train, which has to be opened after all.
        needed = wanted | {"train"}
        source = load(cfg, _ordered(needed))
    source = exclude(source, cfg.get("exclude"))
    if len(source.classes) < 2 and carve:
        raise UserError(
            f"{source.location} has one class, {source.classes[0]}: at least two are needed. "
            "Set data.path to the folder that holds the class folders."
        )
    parts = dict(source.splits)
    notes = list(source.notes)
    if folds is not None and needed & {"train", "val"}:
        if "train" not in parts:
            raise _missing("train", source)
        index = cfg.get("fold") or 0
        parts["train"], parts["val"] = fold(
            parts["train"], parts.get("val"), folds, index, seed, source.classes
        )
        notes.append(f"val is fold {index} of {folds} over train + val (seed {seed})")
    elif "train" in parts and "val" not in parts and "val" in needed and not carve:
        if "val" in wanted:
            parts["val"] = parts["train"]
            notes.append(f"no val split in the data: all {len(parts['val']):,} images are scored")
    elif "train" in parts and "val" not in parts and "val" in needed:
        fraction = cfg.get("val_fraction", 0.1)
        parts["train"], parts["val"] = carve_val(parts["train"], fraction, seed)
        notes.append(
            f"no val split in the data: {len(parts['val']):,} images of train are val "
            f"(val_fraction {fraction}, seed {seed})"
        )
    if cfg.get("drop_csv") or cfg.get("relabel_csv"):
        _check_cleaning(cfg)
        parts, lines = clean(parts, cfg, source.classes, source.skipped)
        notes += lines
    result = {}
    for name in _ordered(wanted):
        if name not in parts:
            raise _missing(name, source)
        if not len(parts[name]):
            raise UserError(f"split '{name}' of {source.location} has no images of the classes.")
        result[name] = limit(parts[name], cfg.get("limit"), seed)
    source = replace(source, splits=result, notes=notes)
    if cfg.get("ferplus_csv"):
        return add_votes(source, cfg)
    if cfg.get("label_source", "original") != "original" or cfg.get("drop_not_face"):
        raise UserError(
            "data.label_source and data.drop_not_face need the FER+ votes: "
            "set data.ferplus_csv=<fer2013new.csv>."
        )
    return source
