"""A CSV file that lists images with their labels and, if any, annotated quantities.

Columns: ``path`` (relative to the folder of the file) and ``label``; any of ``split`` (train, val
or test), ``valence``, ``arousal`` (-1 to 1) and ``intensity`` (0 to 1). An empty cell of a quantity
means that the image has no value.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.csv_input import read_rows
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS, QUANTITY_RANGES, class_key, class_order
from emotion_lab.data.datasets.image_folder import load_listing
from emotion_lab.data.image_tree import Listing
from emotion_lab.data.types import DATASETS, SPLITS, LoadedDataset, data_path

_REQUIRED = ("path", "label")


@dataclass
class CsvTable:
    """Content of the file.

    Attributes:
        listing: The images of each split and class.
        quantities: Name -> path -> value, NaN without a value.
        groups: Path -> group, if ``data.group`` names a column.
    """

    listing: Listing
    quantities: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)


def _file(cfg: dict[str, Any]) -> Path:
    """Return ``data.path``, which must be a file."""
    name, setting = data_path(cfg)
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"data=csv needs a file with the columns path,label: {path} (from {setting}) is "
            f"{'a folder' if path.is_dir() else 'missing'}. Set data.path=<file.csv>."
        )
    return path


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns, and for each image the number of its row (from 1) and its cells."""
    try:
        rows = read_rows(path)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"Cannot read data.path={path}: {error}.") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise UserError(
            f"{path}, row 1: no column {' and '.join(missing)}. Expected path,label and any of "
            f"split,{','.join(QUANTITY_RANGES)}; got {','.join(header)[:120] or 'nothing'}."
        )
    if len(set(header)) < len(header):
        raise UserError(f"{path}, row 1: a column occurs twice.")
    images = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise UserError(f"{path}, row {number}: {len(row)} cells, expected {len(header)}.")
        images.append((number, dict(zip(header, (cell.strip() for cell in row), strict=True))))
    if not images:
        raise UserError(f"{path} lists no image: it has no row below the header.")
    return header, images


def _value(where: str, name: str, text: str) -> float:
    """Return the value of a quantity, NaN for an empty cell."""
    if not text:
        return math.nan
    low, high = QUANTITY_RANGES[name]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError(f"{where}: {name}={text} is not a number from {low:g} to {high:g}.")
    return value


def _label(where: str, text: str, cfg: dict[str, Any]) -> str:
    """Return the class of a label."""
    if not text:
        raise UserError(f"{where}: the label is empty.")
    name = class_key(text, cfg.get("label_scheme"))
    if cfg.get("strict_labels") and name not in EMOTIONS:
        raise UserError(
            f"{where}: the label '{text}' is unknown. Expected one of {', '.join(EMOTIONS)}; for "
            "other classes set data.strict_labels=false."
        )
    return name


def read_table(path: Path, cfg: dict[str, Any]) -> CsvTable:
    """Read and check the file; the images are not opened."""
    header, images = _rows(path)
    table = CsvTable(Listing(path.parent, cfg.get("label_scheme")))
    table.quantities = {name: {} for name in QUANTITY_RANGES if name in header}
    files: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, int] = {}
    group = str(cfg.get("group") or "").strip().lower()
    group = group if group in header else ""
    for number, row in images:
        where, file = f"{path}, row {number}", row["path"]
        if not file:
            raise UserError(f"{where}: the path is empty.")
        if file in first:
            raise UserError(f"{where}: {file} is already in row {first[file]}.")
        first[file] = number
        split = row.get("split", "train").lower()
        if split not in SPLITS:
            raise UserError(f"{where}: split={row['split']} is not one of {', '.join(SPLITS)}.")
        files[split][_label(where, row["label"], cfg)].append(file)
        for name, values in table.quantities.items():
            values[file] = _value(where, name, row[name])
        if group:
            if not row[group]:
                raise UserError(f"{where}: the column {group} (data.group) is empty.")
            table.groups[file] = row[group]
    table.listing.files = {split: dict(by_class) for split, by_class in files.items()}
    ignored = [
        name for name in header if name not in (*_REQUIRED, "split", *QUANTITY_RANGES, group)
    ]
    if ignored:
        table.listing.notes.append(f"columns that are not read: {', '.join(ignored)}")
    return table


@DATASETS.register("csv")
def load(cfg: dict[str, Any], splits: tuple[str, ...]) -> LoadedDataset:
    """Load the images that a CSV file lists.

    Args:
        cfg: The ``data`` group; ``path``, ``exclude``, ``label_scheme``, ``strict_labels``,
            ``group`` and ``on_decode_error`` are used.
        splits: The splits to open. Images of other splits are listed but not opened.

    Returns:
        Splits sorted by class, then path. Without a column ``split`` all images are train.
    """
    path = _file(cfg)
    table = read_table(path, cfg)
    classes = class_order({name for part in table.listing.files.values() for name in part})
    loaded = load_listing(table.listing, classes, cfg, splits)
    for part in loaded.splits.values():
        part.quantities = {
            name: np.array([values[file] for file in part.names], np.float32)
            for name, values in table.quantities.items()
        }
        if table.groups:
            part.groups = [table.groups[file] for file in part.names]
    loaded.location = str(path)
    return loaded
