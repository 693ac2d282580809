"""The score without images that are in train, or more than once in the split.

FER2013 has about 1,500 groups of identical images; hundreds of them cross the splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import intervals


def first_occurrences(digests: list[bytes], known: set[bytes]) -> np.ndarray:
    """Return bool (N,): whether a digest is neither in ``known`` nor a repetition."""
    seen = set(known)
    kept = np.zeros(len(digests), dtype=bool)
    for i, digest in enumerate(digests):
        kept[i] = digest not in seen
        seen.add(digest)
    return kept


def without_duplicates(result: EvaluationResult, data_cfg: dict[str, Any]) -> dict[str, Any]:
    """Score again without identical copies.

    Args:
        result: The predictions.
        data_cfg: The data that the checkpoint was trained on; its train split is read.

    Returns:
        ``n``, ``accuracy`` and ``accuracy_ci95`` (None if no image remains); ``removed``, the
        number of removed images; ``in_train``, the number of images that are in train (None if
        there is no train split).
    """
    part = result.part
    digests = [
        part.store.digest(int(part.indices[position]))
        for position in result.predictions.positions.tolist()
    ]
    train: set[bytes] | None = None
    if result.split != "train":
        try:
            cfg = {**data_cfg, "limit": None, "ferplus_csv": None, "label_source": "original"}
            source = load_data({**cfg, "drop_not_face": False}, ("train",))
            train = set(source.splits["train"].digests())
        except UserError:
            train = None
    kept = first_occurrences(digests, train or set())
    summary: dict[str, Any] = {"n": 0, "accuracy": None, "accuracy_ci95": None}
    if kept.any():
        scores = intervals(result.labels[kept], result.predicted[kept], len(result.classes))
        summary = {key: scores[key] for key in summary}
    in_train = None if train is None else sum(digest in train for digest in digests)
    return {**summary, "removed": int((~kept).sum()), "in_train": in_train}


def overlap_warning(summary: dict[str, Any], n: int) -> str | None:
    """Return a warning if some of ``n`` scored images are in train, else None.

    ``summary`` is the result of :func:`without_duplicates`.
    """
    if not summary["in_train"]:
        return None
    accuracy = summary["accuracy"]
    rest = "no image remains without them"
    if accuracy is not None:
        rest = f"accuracy {accuracy:.2%} on the {summary['n']:,} others, each counted once"
    return f"{summary['in_train']:,} of {n:,} images are in the training data: {rest}"
