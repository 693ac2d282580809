"""FER+ labels: ten annotator votes for each FER2013 image (Barsoum et al. 2016, arXiv:1608.01041).

The label of ``data.labels=ferplus`` follows the paper and its code (github.com/microsoft/FERPlus,
``src/ferplus.py``): votes given once are dropped, and the majority needs more than half of the
other votes. Images whose majority is "unknown" or "not a face", or that have none, are left out.

``fer2013new.csv`` is joined by row number, because 173 of its rows have no image name.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.csv_input import read_rows
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import LABEL_SCHEMES, class_key
from emotion_lab.data.fer2013.csv_reader import USAGE
from emotion_lab.data.types import LoadedDataset, Split

_FIRST_COLUMNS = ("Usage", "Image name")
NOT_A_FACE = "NF"


class FerPlusVotes:
    """Content of ``fer2013new.csv``.

    Attributes:
        names: C names of the vote columns.
        counts: int64 (R, C), votes of each row.
        usage: R split names of the challenge (Training, PublicTest, PrivateTest).
    """

    def __init__(self, path: Path) -> None:
        try:
            rows = read_rows(path)
        except (OSError, UnicodeError, csv.Error) as error:
            raise UserError(f"Cannot read data.ferplus_csv={path}: {error}.") from error
        header = [name.strip() for name in rows[0]] if rows else []
        if tuple(header[:2]) != _FIRST_COLUMNS or NOT_A_FACE not in header:
            raise UserError(
                f"data.ferplus_csv={path} is not FER+: expected fer2013new.csv with the columns "
                f"{', '.join(_FIRST_COLUMNS)}, neutral, ..., {NOT_A_FACE}."
            )
        self.path, self.names = path, header[2:]
        self.usage = [row[0].strip() if row else "" for row in rows[1:]]
        counts = np.zeros((len(rows) - 1, len(self.names)), np.int64)
        for index, row in enumerate(rows[1:]):
            try:
                counts[index] = [int(value) for value in row[2:]]
            except ValueError:
                raise UserError(
                    f"data.ferplus_csv={path}, row {index}: expected {len(self.names)} integers."
                ) from None
        if (counts < 0).any():
            raise UserError(f"data.ferplus_csv={path}: negative number of votes.")
        self.counts = counts

    def columns(self, classes: list[str]) -> np.ndarray:
        """Return the column of each class, int64 (K,)."""
        by_name = {class_key(name): i for i, name in enumerate(self.names)}
        missing = [name for name in classes if name not in by_name]
        if missing:
            raise UserError(f"data.ferplus_csv={self.path} has no votes for {', '.join(missing)}.")
        return np.array([by_name[name] for name in classes], dtype=np.int64)

    def check_rows(self, rows: dict[str, np.ndarray]) -> None:
        """Refuse the votes of another FER2013: row by row, both files must name the same split.

        The files are joined by row number, so one missing row would shift all votes after it.

        Args:
            rows: Split -> rows of the CSV, int64 (N,), for every split of the CSV.
        """
        num_rows = sum(len(part) for part in rows.values())
        joined = "they are joined by row number and must belong to the same FER2013."
        if num_rows != len(self.counts):
            raise UserError(
                f"data.ferplus_csv={self.path} has {len(self.counts):,} rows, the data has "
                f"{num_rows:,}: {joined}"
            )
        in_data = np.full(num_rows, "", dtype=object)
        for name, part in rows.items():
            in_data[part] = name
        in_votes = np.array([USAGE.get(usage) for usage in self.usage], dtype=object)
        different = np.flatnonzero(in_data != in_votes)
        if len(different):
            row = int(different[0])
            raise UserError(
                f"data.ferplus_csv={self.path}, row {row} is {self.usage[row]}, but "
                f"{in_data[row]} in the data ({len(different):,} such rows): {joined}"
            )

    def for_split(self, split: Split) -> np.ndarray:
        """Return the votes for the images of a FER2013 split, int64 (N, C)."""
        return self.counts[_rows(split)]


def _rows(split: Split) -> np.ndarray:
    """Return the rows of the CSV that a FER2013 split holds, int64 (N,)."""
    rows = [int(text.rpartition(":")[2]) for text in split.names]
    return np.array(rows, dtype=np.int64)


def open_votes(cfg: dict[str, Any]) -> FerPlusVotes | None:
    """Read ``data.ferplus_csv``; None if it is not set."""
    if not cfg.get("ferplus_csv"):
        return None
    if cfg["name"] != "fer2013":
        raise UserError(
            f"data.ferplus_csv belongs to data=fer2013, not to data={cfg['name']}: the votes are "
            "joined to the images by the row numbers of the CSV."
        )
    return FerPlusVotes(Path(str(cfg["ferplus_csv"])).expanduser())


def drop_single_votes(votes: np.ndarray) -> np.ndarray:
    """Return votes (N, C) with 0 where a class got a single vote, which FER+ takes for an error."""
    return np.where(votes > 1, votes, 0)


def published_majority(votes: np.ndarray) -> np.ndarray:
    """Return the column of the majority of all ``votes`` (N, C) by the rule of FER+, int64 (N,).

    Votes given once are dropped; the majority has more than half of the others. -1 without one.
    """
    votes = drop_single_votes(votes)
    return np.where(2 * votes.max(1) > votes.sum(1), votes.argmax(1), -1)


def ferplus_labels(source: LoadedDataset, file: FerPlusVotes) -> LoadedDataset:
    """Replace the classes, labels and images of FER2013 by those of FER+.

    The classes are ``LABEL_SCHEMES["ferplus"]``, in the order of FER+. Images without an emotion as
    majority are left out of every split. The labels of FER2013 are kept as the label set
    ``original``.
    """
    classes = list(LABEL_SCHEMES["ferplus"].values())
    label_of_column = np.full(len(file.names) + 1, -1)  # the last entry is that of no majority
    label_of_column[file.columns(classes)] = np.arange(len(classes))
    labels = label_of_column[published_majority(file.counts)]
    original = np.array([classes.index(name) for name in source.classes])
    splits = {}
    for name, split in source.splits.items():
        own = labels[_rows(split)]
        kept = np.flatnonzero(own >= 0)
        part = split.subset(kept)
        part.label_sets = {"original": original[part.labels]}
        part.labels = own[kept]
        splits[name] = part
    counts = ", ".join(
        f"{int((labels[rows] >= 0).sum()):,} of {len(rows):,} {name} images"
        for name, rows in source.rows.items()
    )
    notes = [*source.notes, f"FER+ labels: an emotion has the majority of the votes of {counts}"]
    return replace(source, classes=classes, splits=splits, notes=notes)


def majority_labels(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class with most of ``votes`` (N, K), int64 (N,).

    The original ``labels`` win ties and are kept for images without votes; other ties go to the
    first class.
    """
    is_maximum = votes[np.arange(len(votes)), labels] == votes.max(1)
    return np.where(is_maximum, labels, votes.argmax(1)).astype(np.int64)


def vote_distribution(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the votes as probabilities, float32 (N, K); one-hot ``labels`` without votes."""
    total = votes.sum(1, keepdims=True)
    one_hot = np.eye(votes.shape[1], dtype=np.float32)[labels]
    return np.where(total > 0, votes / np.maximum(total, 1), one_hot).astype(np.float32)


def draw_labels(shares: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw a class for each image from its shares of the votes.

    Args:
        shares: (N, K), rows sum to 1.
        uniform: (N,), random numbers in [0, 1).

    Returns:
        int64 (N,); a class without votes is never drawn.
    """
    cumulative = shares.astype(np.float64).cumsum(1)
    return (cumulative > (uniform * cumulative[:, -1])[:, None]).argmax(1).astype(np.int64)


def _add_votes(split: Split, votes: np.ndarray, has_majority: np.ndarray, source: str) -> Split:
    """Return a split with ``votes`` (N, K) and the labels of ``data.label_source``.

    ``has_majority`` (N,) says whether a class of the dataset won over contempt, unknown and not a
    face.
    """
    majority = majority_labels(votes, split.labels)
    label_sets = {"original": split.labels, "majority": np.where(has_majority, majority, -1)}
    labels = split.labels if source == "original" else majority
    soft = vote_distribution(votes, labels) if source in ("soft", "sampled") else None
    return replace(split, labels=labels, soft=soft, label_sets=label_sets, votes=votes)


def apply_ferplus(source: LoadedDataset, file: FerPlusVotes, cfg: dict[str, Any]) -> LoadedDataset:
    """Add the votes to every split and set the targets that ``data.label_source`` selects.

    With ``data.labels=ferplus``, the labels are those of :func:`ferplus_labels` already, and votes
    given once do not count in the shares. ``data.drop_not_face`` removes images from train only.
    """
    columns = file.columns(source.classes)
    splits, notes = {}, list(source.notes)
    for name, split in source.splits.items():
        votes = file.for_split(split)
        if name == "train" and cfg["drop_not_face"]:
            is_face = votes[:, file.names.index(NOT_A_FACE)] < np.maximum(votes.max(1), 1)
            notes.append(f"train: {int((~is_face).sum())} images voted not a face are left out")
            split, votes = split.subset(np.flatnonzero(is_face)), votes[is_face]
        if cfg.get("labels") == "ferplus":
            soft = None
            if cfg["label_source"] in ("soft", "sampled"):
                soft = vote_distribution(drop_single_votes(votes)[:, columns], split.labels)
            splits[name] = replace(split, soft=soft, votes=votes[:, columns])
            changed = int((split.label_sets["original"] != split.labels).sum())
            notes.append(f"{name}: {changed:,} FER+ labels differ from those of FER2013")
        else:
            has_majority = votes[:, columns].max(1) == np.maximum(votes.max(1), 1)
            splits[name] = _add_votes(split, votes[:, columns], has_majority, cfg["label_source"])
            majority = majority_labels(votes[:, columns], split.labels)
            changed = int((majority != split.labels).sum())
            notes.append(f"{name}: the majority of the votes disagrees with {changed:,} labels")
    return replace(source, splits=splits, notes=notes)
