"""FER+ votes: ten people's opinion of every FER2013 image (Barsoum et al. 2016, arXiv:1608.01041).

The file ``fer2013new.csv`` is joined by row number: 173 of its rows have no image name.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import canonical
from emotion_lab.data.fer2013.csv_reader import USAGE
from emotion_lab.data.types import LoadedDataset, Split

_FIRST = ("Usage", "Image name")
NOT_A_FACE = "NF"


class FerPlusVotes:
    """The votes file.

    Attributes:
        names: Names of the columns, as in the file.
        counts: int64 (R, C), votes of each row.
        usage: R names of the challenge's split (Training, PublicTest, PrivateTest).
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UserError: If it is missing, or not a votes file; with the row number.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.reader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"Cannot read data.ferplus_csv={path}: {error}.") from error
        header = [name.strip() for name in rows[0]] if rows else []
        if tuple(header[:2]) != _FIRST or NOT_A_FACE not in header:
            raise UserError(
                f"data.ferplus_csv={path} is not FER+: expected fer2013new.csv with the columns "
                f"{', '.join(_FIRST)}, neutral, ..., {NOT_A_FACE}."
            )
        self.path, self.names = path, header[2:]
        self.usage = [row[0].strip() if row else "" for row in rows[1:]]
        counts = np.zeros((len(rows) - 1, len(self.names)), np.int64)
        for index, row in enumerate(rows[1:]):
            try:
                counts[index] = [int(value) for value in row[2:]]
            except ValueError:
                raise UserError(
                    f"data.ferplus_csv={path}, row {index}: expected {len(self.names)} whole numbers."
                ) from None
        if (counts < 0).any():
            raise UserError(f"data.ferplus_csv={path}: a number of votes is below 0.")
        self.counts = counts

    def columns(self, classes: list[str]) -> np.ndarray:
        """Return int64 (K,), the column of each class.

        Raises:
            UserError: If people were not asked for one of the classes.
        """
        by_name = {canonical(name) or name: i for i, name in enumerate(self.names)}
        missing = [name for name in classes if name not in by_name]
        if missing:
            raise UserError(f"data.ferplus_csv={self.path} has no votes for {', '.join(missing)}.")
        return np.array([by_name[name] for name in classes], dtype=np.int64)

    def of(self, split: Split, name: str, check_usage: bool) -> np.ndarray:
        """Return the votes of the images of a FER2013 split, int64 (N, C).

        Raises:
            UserError: If the rows of the two files do not belong together.
        """
        rows = np.array([int(text.rpartition(":")[2]) for text in split.names], dtype=np.int64)
        if len(rows) and rows.max() >= len(self.counts):
            raise UserError(
                f"data.ferplus_csv={self.path} has {len(self.counts)} rows, the data has row "
                f"{rows.max()}: they are joined by row number and must be of the same FER2013."
            )
        for row in rows.tolist() if check_usage else []:
            if USAGE.get(self.usage[row]) != name:
                raise UserError(
                    f"data.ferplus_csv={self.path}, row {row} is {self.usage[row]}, but {name} in the "
                    "data: they are joined by row number and must be in the same order."
                )
        return self.counts[rows]


def majority(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class with most votes; a tie goes to the original label, else to the first.

    Args:
        votes: int (N, K).
        labels: int64 (N,), kept where nobody voted for any of the classes.
    """
    most = votes.max(1)
    own = votes[np.arange(len(votes)), labels] == most
    return np.where(own, labels, votes.argmax(1)).astype(np.int64)


def shares(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return float32 (N, K), the votes as probabilities; certain of ``labels`` without votes."""
    total = votes.sum(1, keepdims=True)
    certain = np.eye(votes.shape[1], dtype=np.float32)[labels]
    return np.where(total > 0, votes / np.maximum(total, 1), certain).astype(np.float32)


def add_votes(source: LoadedDataset, cfg: dict) -> LoadedDataset:
    """Give every split its votes, and the labels that ``data.label_source`` names.

    Args:
        source: FER2013, as cut and limited.
        cfg: The ``data`` group: ``votes`` (path), ``labels`` (``original``, ``majority``,
            ``soft``), ``drop_not_face`` (from train alone: val and test stay what they are).

    Raises:
        UserError: If the data is not FER2013 or the files do not belong together.
    """
    if cfg["name"] != "fer2013":
        raise UserError(f"data.ferplus_csv belongs to data=fer2013, not to data={cfg['name']}.")
    file = FerPlusVotes(Path(str(cfg["ferplus_csv"])).expanduser())
    columns = file.columns(source.classes)
    splits, notes = {}, list(source.notes)
    for name, part in source.splits.items():
        votes = file.of(part, name, check_usage=cfg["folds"] is None)
        if name == "train" and cfg["drop_not_face"]:
            faces = votes[:, file.names.index(NOT_A_FACE)] < np.maximum(votes.max(1), 1)
            notes.append(f"train: {int((~faces).sum())} images voted not a face are left out")
            part, votes = part.subset(np.flatnonzero(faces)), votes[faces]
        # Whether one of the classes won over contempt, unknown and not-a-face.
        agreed = votes[:, columns].max(1) == np.maximum(votes.max(1), 1)
        votes = votes[:, columns]
        winner = majority(votes, part.labels)
        changed = int((winner != part.labels).sum())
        labels = part.labels if cfg["label_source"] == "original" else winner
        soft = shares(votes, labels) if cfg["label_source"] == "soft" else None
        opinions = {"original": part.labels, "majority": np.where(agreed, winner, -1)}
        splits[name] = replace(part, labels=labels, soft=soft, opinions=opinions, votes=votes)
        notes.append(f"{name}: the majority of the votes disagrees with {changed:,} labels")
    return replace(source, splits=splits, notes=notes)
