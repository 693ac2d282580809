"""Cleaning lists: ``drop.csv``, ``relabel.csv`` and ``suspects.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emotion_lab.audits.duplicates import Duplicates, has_conflicting_labels
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.label_issues import LabelIssue
from emotion_lab.core.io import atomic_write, to_bytes

#: Reason of a proposal -> explanation; the first reason that applies is used.
REASONS: dict[str, str] = {
    "unreadable": "the file cannot be decoded",
    "blank": "the image is blank",
    "copy_of_test": "an identical image is in test",
    "copy_of_val": "an identical image is in val",
    "near_copy_of_test": "a near-identical image is in test",
    "near_copy_of_val": "a near-identical image is in val",
    "conflicting_labels": "an identical image has a different label",
    "repeated": "an identical image is in train already",
}


@dataclass(frozen=True)
class DropProposal:
    """An image proposed for removal from training.

    Attributes:
        split: ``train``, or ``val`` for an unreadable file.
        label: Class name; empty for an unreadable file.
        reason: A key of :data:`REASONS`.
        same_as: Sample name of the image it repeats, or an empty string.
    """

    path: str
    split: str
    label: str
    reason: str
    same_as: str = ""


def propose_drops(
    stats: ImageStats, duplicates: Duplicates, blank: np.ndarray
) -> list[DropProposal]:
    """Return the images proposed for removal: of train, and unreadable files of val.

    All other images of val and test are kept: their scores must stay comparable with published
    ones. A near duplicate is proposed only if its counterpart is in val or test.
    """
    proposals: dict[int, tuple[str, int | None]] = {}  # image -> reason, image it repeats

    def members(group: list[int], split: str) -> list[int]:
        return [i for i in group if stats.split_name(i) == split]

    # From the last reason to the first: an earlier reason replaces a later one.
    for group in duplicates.identical:
        train = members(group, "train")
        if has_conflicting_labels(stats, group):
            for i in train:
                other = next(j for j in group if stats.label[j] != stats.label[i])
                proposals[i] = ("conflicting_labels", other)
        else:
            proposals |= {i: ("repeated", train[0]) for i in train[1:]}
    for split in ("val", "test"):
        for pair in duplicates.pairs:
            for first, second in ((pair.first, pair.second), (pair.second, pair.first)):
                for held_out in members(duplicates.copies[second], split)[:1]:
                    train = members(duplicates.copies[first], "train")
                    proposals |= {i: (f"near_copy_of_{split}", held_out) for i in train}
    for split in ("val", "test"):
        for group in duplicates.identical:
            for held_out in members(group, split)[:1]:
                train = members(group, "train")
                proposals |= {i: (f"copy_of_{split}", held_out) for i in train}
    blank_train = members(np.flatnonzero(blank).tolist(), "train")
    proposals |= {i: ("blank", None) for i in blank_train}
    unreadable = {file.index for file in stats.unreadable}
    rows = [
        DropProposal(file.path, file.split, "", "unreadable")
        for file in stats.unreadable
        if file.split != "test"
    ]
    for i in sorted(set(proposals) - unreadable):
        reason, same = proposals[i]
        same_as = "" if same is None else stats.names[same]
        rows.append(DropProposal(stats.names[i], "train", stats.class_name(i), reason, same_as))
    return rows


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV atomically; file names that are not valid UTF-8 are kept byte for byte."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, to_bytes(text.getvalue()))


def write_drops(path: Path, proposals: list[DropProposal]) -> None:
    """Write ``drop.csv``, the format of ``data.drop_csv``."""
    write_csv(
        path,
        ["path", "split", "label_now", "reason", "same_as"],
        ((p.path, p.split, p.label, p.reason, p.same_as) for p in proposals),
    )


def write_relabels(path: Path, stats: ImageStats, issues: list[LabelIssue]) -> None:
    """Write ``relabel.csv``, the format of ``data.relabel_csv``: the label issues of train only.

    Models are selected on val; val labels suggested by a model would bias the selection.
    """
    write_suspects(path, stats, [d for d in issues if stats.split_name(d.index) == "train"])


def write_suspects(path: Path, stats: ImageStats, issues: list[LabelIssue]) -> None:
    """Write label issues in the given order."""
    write_csv(
        path,
        ["path", "split", "label_now", "label_suggested", "quality", "probability_suggested"],
        (
            (
                stats.names[issue.index],
                stats.split_name(issue.index),
                stats.class_name(issue.index),
                stats.classes[issue.suggested],
                f"{issue.quality:.6f}",
                f"{issue.certainty:.6f}",
            )
            for issue in issues
        ),
    )
