"""``drop.csv`` and ``relabel.csv``: what a cleaned training would leave out or call otherwise."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotion_lab.audits.duplicates import Duplicates, conflicts
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.label_issues import LabelIssue
from emotion_lab.core.io import atomic_write

#: Reasons, the first that holds is given.
REASONS: dict[str, str] = {
    "unreadable": "the file cannot be read",
    "blank": "no picture in it",
    "copy_of_test": "the same bytes are in test",
    "copy_of_val": "the same bytes are in val",
    "near_copy_of_test": "the same picture is in test",
    "near_copy_of_val": "the same picture is in val",
    "conflicting_labels": "the same bytes have another label too",
    "repeated": "the same bytes are in train already",
}


@dataclass(frozen=True)
class DropProposal:
    """An image that a cleaned training would leave out.

    Attributes:
        path: Its name.
        split: ``train``, or ``val`` for a file that cannot be read.
        label: Its class, empty where the loader left it out.
        reason: A key of :data:`REASONS`.
        same_as: Name of the image it repeats, or an empty string.
    """

    path: str
    split: str
    label: str
    reason: str
    same_as: str = ""


def _held_out(looked: ImageStats, members: Iterable[int]) -> tuple[str, int] | None:
    """Return the split that a group reaches into beside train, test first, and that image."""
    splits = {looked.split_of(i): i for i in sorted(members, reverse=True)}
    return next(((name, splits[name]) for name in ("test", "val") if name in splits), None)


def _other_label(looked: ImageStats, group: list[int], i: int) -> int:
    """Return an image of the group whose label is not that of ``i``."""
    return next(j for j in group if looked.label[j] != looked.label[i])


def propose(looked: ImageStats, duplicates: Duplicates, blank: np.ndarray) -> list[DropProposal]:
    """Return what a cleaned training would leave out, all of train but unreadable files of val.

    val and test stay as they are: a number on them is compared with other people's. Near copies
    are proposed only where they reach into val or test; inside train they do no harm.

    Args:
        looked: The images.
        duplicates: Their duplicates.
        blank: bool (N,), images without a picture.
    """
    chosen: dict[int, tuple[str, int | None]] = {}
    # From the weakest reason to the strongest: later ones replace earlier ones.
    for group in duplicates.identical:
        train = [i for i in group if looked.split_of(i) == "train"]
        if conflicts(looked, group):
            chosen |= {i: ("conflicting_labels", _other_label(looked, group, i)) for i in train}
        else:
            chosen |= {i: ("repeated", train[0]) for i in train[1:]}
    for wanted in ("val", "test"):
        for pair in duplicates.pairs:
            for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
                there = [i for i in duplicates.copies[other] if looked.split_of(i) == wanted]
                if there:
                    mine = [i for i in duplicates.copies[one] if looked.split_of(i) == "train"]
                    chosen |= {i: (f"near_copy_of_{wanted}", there[0]) for i in mine}
    for group in duplicates.identical:
        reached = _held_out(looked, group)
        if reached:
            train = [i for i in group if looked.split_of(i) == "train"]
            chosen |= {i: (f"copy_of_{reached[0]}", reached[1]) for i in train}
    for i in np.flatnonzero(blank).tolist():
        if looked.split_of(i) == "train":
            chosen[i] = ("blank", None)
    gone = {bad.index for bad in looked.unreadable}
    result = [
        DropProposal(bad.path, bad.split, "", "unreadable")
        for bad in looked.unreadable
        if bad.split != "test"
    ]
    for i in sorted(set(chosen) - gone):
        reason, same = chosen[i]
        same_as = "" if same is None else looked.names[same]
        result.append(DropProposal(looked.names[i], "train", looked.label_of(i), reason, same_as))
    return result


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV, completely or not at all; file names may hold any bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))


def write_drop(path: Path, proposals: list[DropProposal]) -> None:
    """Write ``drop.csv`` as ``data.drop_csv=`` takes it."""
    write_csv(
        path,
        ["path", "split", "label_now", "reason", "same_as"],
        ((p.path, p.split, p.label, p.reason, p.same_as) for p in proposals),
    )


def write_relabel(path: Path, looked: ImageStats, doubts: list[LabelIssue]) -> None:
    """Write ``relabel.csv`` as ``data.relabel_csv=`` takes it: the doubts of train alone.

    val is what a model is chosen on: with labels that a model suggested it would judge itself.
    """
    write_doubts(path, looked, [d for d in doubts if looked.split_of(d.index) == "train"])


def write_doubts(path: Path, looked: ImageStats, doubts: list[LabelIssue]) -> None:
    """Write a ranked list of doubtful labels, the least credible first."""
    write_csv(
        path,
        ["path", "split", "label_now", "label_suggested", "quality", "probability_suggested"],
        (
            (
                looked.names[d.index],
                looked.split_of(d.index),
                looked.label_of(d.index),
                looked.classes[d.suggested],
                f"{d.quality:.6f}",
                f"{d.certainty:.6f}",
            )
            for d in doubts
        ),
    )
