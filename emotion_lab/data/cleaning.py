"""Cleaning lists: ``data.drop_csv=<csv>`` and ``data.relabel_csv=<csv>``.

Rows are matched by image name (``Split.names``): ``fer2013:<row>``, or the path of a file relative
to ``data.path``. A longer path is matched by its last components, so a list stays valid if the
data is moved.

By default only train changes, whatever split the list was made for. An image of val changes only
if its row has ``split=val``, an image of test never. Cleaning comes after folds and after carving
val out of train, so val contains the same images with and without cleaning.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import csv_input
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import class_key
from emotion_lab.data.types import SPLITS, Split, excluded_classes

#: Columns of a relabel list with the new label; the first one present is used.
NEW_LABEL = ("label", "label_suggested")

#: Reason why a row changed nothing -> text of the printed line.
_UNUSED_ROWS: dict[str, str] = {
    "same": "{} have that label already",
    "no label": "{} rows without a new label",
    "excluded": "{} rows with a label that data.exclude leaves out",
    "unreadable": "{} rows name files that are unreadable and left out anyway",
    "val": "{} rows name images of val, which is not changed",
    "other": "{} rows with a label_now that differs from the data are skipped",
    "test": "{} rows of the test split are skipped: test is never cleaned",
    "unmatched": "{} rows match no image here",
}


@dataclass(frozen=True)
class CleaningRow:
    """One row of a list; the header is row 1.

    ``now`` is the label at the time the list was made, ``label`` the new one; both may be empty.
    """

    number: int
    path: str
    split: str
    now: str
    label: str


def read_rows(key: str, file: str) -> list[CleaningRow]:
    """Read the CSV of ``data.drop_csv``, ``data.relabel_csv`` or the ``drop_csv`` of compare."""
    where = f"{key}={file}"
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{where}: no such file. Set {key}=<csv>, as the audit writes it.")
    try:
        lines = csv_input.read_rows(path)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"Cannot read {where}: {error}.") from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    relabel = key == "data.relabel_csv"
    label_column = next((name for name in NEW_LABEL if name in header), "") if relabel else ""
    if "path" not in header or (relabel and not label_column):
        expected = f"path and {' or '.join(NEW_LABEL)}" if relabel else "path"
        shown = ", ".join(name[:20] for name in header[:6]) or "none"
        raise UserError(f"{where} has the columns {shown}; expected {expected} in row 1.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(value.strip() for value in line):
            continue
        raw = dict(zip(header, line, strict=False))
        fields = {name: value.strip() for name, value in raw.items()}
        split = fields.get("split", "").lower() or "train"
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, f"See row {number} of {where}.")
        if not fields.get("path"):
            raise UserError(f"{where}, row {number}: the path is missing.")
        label = fields.get(label_column, "") if label_column else ""
        rows.append(CleaningRow(number, raw["path"], split, fields.get("label_now", ""), label))
    return rows


def path_suffixes(path: str) -> list[str]:
    """Return the names to look up for a path: itself, then without its first folders."""
    parts = path.replace("\\", "/").removeprefix("./").split("/")
    return [path, *("/".join(parts[start:]) for start in range(len(parts)))]


class SplitCleaner:
    """Applies cleaning lists: :meth:`relabel` and :meth:`drop` replace entries of ``splits``.

    ``excluded`` are the classes of ``data.exclude``, ``unreadable`` the files that were skipped.
    ``scheme`` is ``data.label_scheme``, the meaning of labels that are numbers.
    """

    def __init__(
        self,
        splits: dict[str, Split],
        classes: list[str],
        excluded: list[str],
        unreadable: list[str],
        scheme: str | None = None,
    ) -> None:
        self.splits, self.classes = splits, classes
        self._original_labels = {name: split.labels for name, split in splits.items()}
        self._index = {
            str(image_name): (name, position)
            for name, split in splits.items()
            for position, image_name in enumerate(split.names)
        }
        self._label = {class_key(name): label for label, name in enumerate(classes)}
        self._excluded = {class_key(name) for name in excluded}
        self._scheme = scheme
        self._unreadable = [path.replace("\\", "/") for path in unreadable]

    def _key(self, name: str) -> str:
        """Return the name that a label of the list is matched by."""
        return class_key(name, self._scheme)

    def _find(self, path: str) -> tuple[str, int] | None:
        return next((self._index[e] for e in path_suffixes(path) if e in self._index), None)

    def _is_unreadable(self, path: str) -> bool:
        suffix = "/" + path_suffixes(path)[1].lstrip("/")
        return any(("/" + known).endswith(suffix) for known in self._unreadable)

    def _new_label(self, row: CleaningRow, where: str) -> int | None:
        """Return the new label of a row; None if it is empty or an excluded class."""
        if not row.label or self._key(row.label) in self._excluded:
            return None
        if self._key(row.label) not in self._label:
            raise unknown("label", row.label, self.classes, f"See row {row.number} of {where}.")
        return self._label[self._key(row.label)]

    def _match(
        self, where: str, rows: list[CleaningRow]
    ) -> tuple[dict[tuple[str, int], CleaningRow], Counter[str]]:
        """Return (split, position) -> row for images that may change, and counts of other rows.

        The keys of the counts are those of ``_UNUSED_ROWS``.
        """
        matches: dict[tuple[str, int], CleaningRow] = {}
        unmatched: list[CleaningRow] = []
        unused: Counter[str] = Counter()
        for row in rows:
            if row.split == "test":
                unused["test"] += 1
                continue
            match = self._find(row.path)
            if match is None:
                if self._is_unreadable(row.path):
                    unused["unreadable"] += 1
                else:
                    unmatched.append(row)
                continue
            split, position = match
            now = self.classes[self._original_labels[split][position]]
            if split == "test":
                unused["test"] += 1
            elif split == "val" and row.split != "val":
                unused["val"] += 1
            elif row.now and self._key(row.now) != class_key(now):
                unused["other"] += 1
            else:
                first = matches.setdefault(match, row)
                if self._key(first.label) != self._key(row.label):
                    raise UserError(
                        f"{where}: rows {first.number} and {row.number} give {row.path} the labels "
                        f"'{first.label}' and '{row.label}'; keep one."
                    )
        candidates = len(rows) - unused["test"]
        if "train" in self.splits and unmatched and len(unmatched) == candidates:
            raise UserError(
                f"{where}: none of its rows names an image of this data; it was made for other "
                f"data (row {unmatched[0].number} is '{unmatched[0].path}', here images are called "
                f"'{next(iter(self._index))}')."
            )
        # Without train most rows match nothing, as expected.
        unused["unmatched"] = len(unmatched) if "train" in self.splits else 0
        if unused["other"] and unused["other"] == candidates:
            raise UserError(
                f"{where}: all of its rows give their images another label_now than this data; "
                "it was made for other data."
            )
        return matches, unused

    def relabel(self, file: str) -> str:
        """Change the labels of the listed images; return the line to print."""
        where = f"data.relabel_csv={file}"
        rows = read_rows("data.relabel_csv", file)
        for row in rows:
            self._new_label(row, where)  # unknown names are errors, also in rows without a match
        matches, unused = self._match(where, rows)
        changed: Counter[str] = Counter()
        for name in {name for name, _ in matches}:
            self.splits[name] = self.splits[name].subset(np.arange(len(self.splits[name])))
        for (name, position), row in matches.items():
            labels = self.splits[name].labels
            label = self._new_label(row, where)
            if label is None:
                unused["excluded" if row.label else "no label"] += 1
            elif label == labels[position]:
                unused["same"] += 1
            else:
                labels[position] = label
                changed[name] += 1
        return self._summary("data.relabel_csv", "given another label", changed, unused)

    def drop(self, file: str) -> str:
        """Remove the listed images; return the line to print."""
        where = f"data.drop_csv={file}"
        matches, unused = self._match(where, read_rows("data.drop_csv", file))
        dropped: Counter[str] = Counter()
        for name, split in self.splits.items():
            positions = [position for split_name, position in matches if split_name == name]
            if not positions:
                continue
            kept = np.setdiff1d(np.arange(len(split)), positions)
            emptied = set(split.labels.tolist()) - set(split.labels[kept].tolist())
            if emptied:
                names = ", ".join(self.classes[label] for label in sorted(emptied))
                raise UserError(f"{where} removes every {name} image of {names}.")
            self.splits[name] = split.subset(kept)
            dropped[name] = len(positions)
        return self._summary("data.drop_csv", "left out", dropped, unused)

    def _summary(self, key: str, action: str, changed: Counter[str], unused: Counter[str]) -> str:
        """Return the line to print; it is empty if train is not open and nothing changed."""
        if "train" not in self.splits and not changed:
            return ""
        counts = " and ".join(f"{changed[name]:,} of {name}" for name in SPLITS if changed[name])
        parts = [f"{key}: {counts or 'no images'} {action}"]
        parts += [text.format(f"{unused[k]:,}") for k, text in _UNUSED_ROWS.items() if unused[k]]
        return "; ".join(parts)


def clean(
    splits: dict[str, Split], cfg: dict[str, Any], classes: list[str], unreadable: list[str]
) -> tuple[dict[str, Split], list[str]]:
    """Apply ``data.relabel_csv``, then ``data.drop_csv``; return new splits and lines to print.

    Args:
        splits: The opened splits, after folds or carving val.
        cfg: The ``data`` group: ``drop_csv``, ``relabel_csv``, ``exclude`` and ``label_scheme``.
        classes: Class names; the position is the label.
        unreadable: Paths of the files that ``data.on_decode_error=skip`` skipped.
    """
    relabel, drop = cfg.get("relabel_csv"), cfg.get("drop_csv")
    if not (relabel or drop) or not set(splits) & {"train", "val"}:
        return splits, []
    scheme = cfg.get("label_scheme")
    cleaner = SplitCleaner(dict(splits), classes, excluded_classes(cfg), unreadable, scheme)
    notes = [cleaner.relabel(str(relabel))] if relabel else []
    notes += [cleaner.drop(str(drop))] if drop else []
    return cleaner.splits, [note for note in notes if note]
