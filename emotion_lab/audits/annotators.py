"""Agreement of the FER+ annotators with each other and with FER2013's labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.labels import LABEL_SCHEMES, class_order
from emotion_lab.data.ferplus import open_votes, published_majority
from emotion_lab.data.types import LoadedDataset

#: Row of the table -> key of :func:`annotator_agreement`.
_ROWS = {
    "one annotator against the others": "annotator",
    "FER+ label equals the FER2013 label": "ferplus",
    "most voted emotion equals the FER2013 label, all images": "most_voted",
}


def annotator_accuracy(votes: np.ndarray) -> float | None:
    """Return the accuracy of one annotator, measured against the other annotators of the image.

    Each vote is compared with the class that most of the other votes of its image are for; if t
    classes tie, a vote for one of them counts 1 / t.

    Args:
        votes: int (N, C), votes of each image. Images with one vote do not count.

    Returns:
        Mean over all votes, or None without any.
    """
    votes = votes[votes.sum(1) > 1].astype(np.int64)
    if not len(votes):
        return None
    agreeing = 0.0
    for column in range(votes.shape[1]):
        others = votes.copy()
        others[:, column] -= 1  # one vote for this class is the one that is compared
        most = others.max(1)
        ties = (others == most[:, None]).sum(1)
        agreeing += float((votes[:, column] * (others[:, column] == most) / ties).sum())
    return agreeing / float(votes.sum())


def annotator_agreement(
    votes: np.ndarray, labels: np.ndarray, emotions: np.ndarray
) -> dict[str, Any]:
    """Compare the votes of a split with each other and with the labels.

    Args:
        votes: int64 (N, C), all votes, "unknown" and "not a face" included.
        labels: int64 (N,), the column of the label of each image; -1 if it has none.
        emotions: Columns of the emotions; of several with most votes, the first one here is taken.

    Returns:
        ``n`` images, ``n_ferplus`` of them with a label of ``data.labels=ferplus``, and

        - ``annotator``: :func:`annotator_accuracy` on the ``n_ferplus`` images
        - ``ferplus``: fraction of the ``n_ferplus`` images whose FER+ label equals the label
        - ``most_voted``: fraction of the ``n`` images whose most voted emotion equals the label
    """
    majority = published_majority(votes)
    kept = np.isin(majority, emotions)
    most_voted = emotions[votes[:, emotions].argmax(1)]
    return {
        "n": len(votes),
        "n_ferplus": int(kept.sum()),
        "annotator": annotator_accuracy(votes[kept]),
        "ferplus": float((majority == labels)[kept].mean()) if kept.any() else None,
        "most_voted": float((most_voted == labels).mean()),
    }


def measure_annotators(
    source: LoadedDataset, data_cfg: dict[str, Any]
) -> dict[str, dict[str, Any]] | None:
    """Return split -> :func:`annotator_agreement` of FER2013's labels; None without FER+ votes.

    ``data_cfg`` is the ``data`` group. Ties go to the first class in FER2013's order, contempt
    last.
    """
    file = open_votes(data_cfg)
    if file is None:
        return None
    emotions = file.columns(class_order(LABEL_SCHEMES["ferplus"].values()))
    columns = file.columns(source.classes)
    agreement = {}
    for name, split in source.splits.items():
        original = split.label_sets["original"]
        labels = np.where(original >= 0, columns[original], -1)
        agreement[name] = annotator_agreement(file.for_split(split), labels, emotions)
    return agreement


def table_rows(agreement: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the rows of a table of :func:`measure_annotators`, one column per split."""
    splits = agreement.values()
    rows = [["images", *(f"{row['n']:,}" for row in splits)]]
    rows.append(["images with a FER+ label", *(f"{row['n_ferplus']:,}" for row in splits)])
    for name, key in _ROWS.items():
        values = [row[key] for row in splits]
        rows.append([name, *("-" if value is None else f"{value:.1%}" for value in values)])
    return rows
