"""``data.drop_csv=<csv>`` and ``data.relabel_csv=<csv>``: cleaned training, test left as it is.

Rows are matched by image name (``Split.names``): ``fer2013:<row>``, or the path of a file relative
to ``data.path``. A longer path finds the same file by its end, so a list made where the data lay
elsewhere still fits.

Only train is changed, whatever split the list was made for. An image of val is changed where its
row says ``split=val``, an image of test never. Cleaning comes after folds and the cut of val: val
holds the same images with and without it.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.labels import canonical
from emotion_lab.data.types import SPLITS, Split

#: Columns of a relabel list that name the new label, the first that is there counts.
NEW_LABEL = ("label", "label_suggested")

#: Why a row changed nothing.
_WHY: dict[str, str] = {
    "same": "{} have that label already",
    "no label": "{} rows without a new label",
    "left out": "{} rows with a label that data.exclude leaves out",
    "unreadable": "{} rows name files that are unreadable and left out anyway",
    "val": "{} rows name images that are val here, which stays as it is",
    "other": "{} rows give another label_now than the data and are not followed",
    "test": "{} rows of the test split are skipped: test is never cleaned",
    "unmatched": "{} rows match no image here",
}


@dataclass(frozen=True)
class CleaningRow:
    """One line of a list.

    Attributes:
        number: Its row in the file as an editor counts, the header being row 1.
        path: Name of the image.
        split: ``train``, ``val`` or ``test``.
        now: The label it had when the list was made, or an empty string.
        label: The new label, or an empty string.
    """

    number: int
    path: str
    split: str
    now: str = ""
    label: str = ""


def read_rows(key: str, place: str) -> list[CleaningRow]:
    """Read a list.

    Args:
        key: ``drop`` or ``relabel``.
        place: The file.

    Raises:
        UserError: If it is not there, no CSV, or has a wrong header or split.
    """
    where = f"data.{key}={place}"
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"{where}: no such file. Set data.{key}=<csv>, as the audit writes it.")
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = list(csv.reader(file))
    except (OSError, csv.Error) as error:
        raise UserError(f"Cannot read {where}: {error}.") from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    new = next((name for name in NEW_LABEL if name in header), None)
    if "path" not in header or (key == "relabel" and new is None):
        wanted = "path" if key == "drop" else f"path and {' or '.join(NEW_LABEL)}"
        shown = ", ".join(name[:20] for name in header[:6]) or "none"
        raise UserError(f"{where} has the columns {shown}; expected {wanted} in row 1.")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(value.strip() for value in line):
            continue
        raw = dict(zip(header, line, strict=False))
        fields = {name: value.strip() for name, value in raw.items()}
        split = fields.get("split", "").lower() or "train"
        if split not in SPLITS:
            raise unknown("split", split, SPLITS, f"It stands in row {number} of {where}.")
        if not fields.get("path"):
            raise UserError(f"{where}, row {number}: the path is missing.")
        label = fields.get(new, "") if new and key == "relabel" else ""
        rows.append(CleaningRow(number, raw["path"], split, fields.get("label_now", ""), label))
    return rows


def _key(name: str) -> str:
    return canonical(name) or name.strip().lower()


def endings(path: str) -> list[str]:
    """Return what a path may be called in the data: itself, then without its first folders."""
    parts = path.replace("\\", "/").removeprefix("./").split("/")
    return [path, *("/".join(parts[start:]) for start in range(len(parts)))]


class SplitCleaner:
    """Applies the lists to the splits at hand.

    Args:
        parts: The splits, changed in place by :meth:`relabel` and :meth:`drop`.
        classes: Class names; the position is the label.
        excluded: Names of classes that ``data.exclude`` left out.
        unreadable: Paths of files that the loader left out.
    """

    def __init__(
        self,
        parts: dict[str, Split],
        classes: list[str],
        excluded: list[str],
        unreadable: list[str],
    ) -> None:
        self.parts, self.classes = parts, classes
        self.before = {name: part.labels for name, part in parts.items()}
        self._index = {
            str(name): (split, position)
            for split, part in parts.items()
            for position, name in enumerate(part.names)
        }
        self._label = {_key(name): label for label, name in enumerate(classes)}
        self._excluded = {_key(name) for name in excluded}
        self._unreadable = [path.replace("\\", "/") for path in unreadable]

    def _find(self, path: str) -> tuple[str, int] | None:
        return next((self._index[e] for e in endings(path) if e in self._index), None)

    def _is_unreadable(self, path: str) -> bool:
        end = "/" + endings(path)[1].lstrip("/")
        return any(("/" + known).endswith(end) for known in self._unreadable)

    def _new_label(self, row: CleaningRow, where: str) -> int | None:
        """Return the label of a row, None for one that is empty or left out."""
        if not row.label or _key(row.label) in self._excluded:
            return None
        if _key(row.label) not in self._label:
            raise unknown(
                "label", row.label, self.classes, f"It stands in row {row.number} of {where}."
            )
        return self._label[_key(row.label)]

    def _matched(
        self, key: str, place: str, rows: list[CleaningRow]
    ) -> tuple[dict[tuple[str, int], CleaningRow], Counter]:
        """Return (split, position) -> row for all that may be changed, and why others may not.

        Raises:
            UserError: If no row belongs to this data.
        """
        hits: dict[tuple[str, int], CleaningRow] = {}
        strangers: list[CleaningRow] = []
        why: Counter = Counter()
        where = f"data.{key}={place}"
        for row in rows:
            if row.split == "test":
                why["test"] += 1
                continue
            hit = self._find(row.path)
            if hit is None and self._is_unreadable(row.path):
                why["unreadable"] += 1
                continue
            if hit is None:
                strangers.append(row)
                continue
            split, position = hit
            now = self.classes[self.before[split][position]]
            if split == "test":
                why["test"] += 1
            elif split == "val" and row.split != "val":
                why["val"] += 1
            elif row.now and _key(row.now) != _key(now):
                why["other"] += 1
            else:
                hits[hit] = self._one_label(hits.get(hit), row, where)
        if "train" in self.parts and strangers and len(strangers) == len(rows) - why["test"]:
            raise UserError(
                f"{where}: none of its rows names an image of this data; it was made for other "
                f"data (row {strangers[0].number} is '{strangers[0].path}', here images are called "
                f"'{next(iter(self._index))}')."
            )
        # Without train at hand most rows find nothing, and that is no news.
        why["unmatched"] = len(strangers) if "train" in self.parts else 0
        if why["other"] and why["other"] == len(rows) - why["test"]:
            raise UserError(
                f"{where}: all of its rows give their images another label_now than this data; "
                "it was made for other data."
            )
        return hits, why

    @staticmethod
    def _one_label(first: CleaningRow | None, row: CleaningRow, where: str) -> CleaningRow:
        """Refuse two rows that give one image different labels."""
        if first is not None and _key(first.label) != _key(row.label):
            raise UserError(
                f"{where}: rows {first.number} and {row.number} give {row.path} the labels "
                f"'{first.label}' and '{row.label}'; keep one."
            )
        return row

    def relabel(self, place: str) -> str:
        """Give the listed images their new labels; return a line that says how many."""
        where = f"data.relabel_csv={place}"
        rows = read_rows("relabel", place)
        for row in rows:
            self._new_label(row, where)  # a wrong name is told wherever it stands
        hits, why = self._matched("relabel", place, rows)
        changed: Counter = Counter()
        for split in {split for split, _ in hits}:
            self.parts[split] = self.parts[split].subset(np.arange(len(self.parts[split])))
        for (split, position), row in hits.items():
            label = self._new_label(row, where)
            if label is None:
                why["left out" if row.label else "no label"] += 1
                continue
            if label == self.parts[split].labels[position]:
                why["same"] += 1
                continue
            self.parts[split].labels[position] = label
            changed[split] += 1
        return self._line("data.relabel_csv", "given another label", changed, why)

    def drop(self, place: str) -> str:
        """Leave the listed images out; return a line that says how many.

        Raises:
            UserError: If a class of train is left without an image.
        """
        hits, why = self._matched("drop", place, read_rows("drop", place))
        dropped: Counter = Counter()
        for name in [name for name in self.parts if name != "test"]:
            part = self.parts[name]
            gone = [position for split, position in hits if split == name]
            if not gone:
                continue
            kept = np.setdiff1d(np.arange(len(part)), gone)
            lost = set(part.labels.tolist()) - set(part.labels[kept].tolist())
            if lost:
                names = ", ".join(self.classes[label] for label in sorted(lost))
                raise UserError(f"data.drop_csv={place} takes every {name} image of {names}.")
            self.parts[name] = part.subset(kept)
            dropped[name] = len(gone)
        return self._line("data.drop_csv", "left out", dropped, why)

    def _line(self, key: str, done: str, counts: Counter, why: Counter) -> str:
        """Return one line: how many images were changed, and what became of the other rows.

        Where train is not open and nothing changed there is nothing to tell.
        """
        if "train" not in self.parts and not counts:
            return ""
        changed = " and ".join(f"{counts[name]:,} of {name}" for name in SPLITS if counts[name])
        parts = [f"{key}: {changed or 'no images'} {done}"]
        parts += [text.format(f"{why[k]:,}") for k, text in _WHY.items() if why[k]]
        return "; ".join(parts)


def clean(
    parts: dict[str, Split], cfg: dict, classes: list[str], unreadable: list[str]
) -> tuple[dict[str, Split], list[str]]:
    """Relabel, then drop, as the ``data`` group asks.

    Args:
        parts: The opened splits, after folds or the cut of val.
        cfg: The ``data`` group: ``drop_csv``, ``relabel_csv`` and ``exclude``.
        classes: Class names; the position is the label.
        unreadable: Paths of files that ``data.on_decode_error=skip`` left out.

    Returns:
        The splits (test is the very same object) and lines worth printing.

    Raises:
        UserError: For a list that is missing, has a wrong header, an unknown label, or belongs to
            other data.
    """
    if not set(parts) & {"train", "val"}:
        return parts, []
    excluded = cfg.get("exclude") or []
    excluded = [excluded] if isinstance(excluded, str) else [str(name) for name in excluded]
    cleaner = SplitCleaner(dict(parts), classes, excluded, unreadable)
    notes = []
    if cfg.get("relabel_csv"):
        notes.append(cleaner.relabel(str(cfg["relabel_csv"])))
    if cfg.get("drop_csv"):
        notes.append(cleaner.drop(str(cfg["drop_csv"])))
    return cleaner.parts, [note for note in notes if note]
