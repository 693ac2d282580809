"""The score without images that are in train, or more than once in the split.

FER2013 has about 1,500 groups of identical images; hundreds of them cross the splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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


def without_duplicates(result: EvaluationResult) -> dict[str, Any]:
    """Score again without images that were trained on and without repeated images.

    Returns:
        ``n``, ``accuracy`` and ``accuracy_ci95`` (None if no image remains); ``removed``, the
        number of removed images; ``in_train`` and ``near_train``, the numbers of exact and near
        copies of training images (None if unknown, and for the train split, of which only
        repetitions are removed).
    """
    part = result.part
    digests = [
        part.store.digest(int(part.indices[position]))
        for position in result.predictions.positions.tolist()
    ]
    known, in_train, near_train = set[bytes](), None, None
    if result.split != "train" and result.seen is not None:
        known = {digest for digest, seen in zip(digests, result.seen, strict=True) if seen}
        in_train, near_train = (result.scores["trained_on"][key] for key in ("n", "near"))
    kept = first_occurrences(digests, known)
    summary: dict[str, Any] = {"n": 0, "accuracy": None, "accuracy_ci95": None}
    if kept.any():
        groups = None if result.groups is None else np.array(result.groups)[kept]
        arguments = (result.labels[kept], result.predicted[kept], len(result.classes))
        scores = intervals(*arguments, groups=groups)
        summary = {key: scores[key] for key in summary}
    removed = int((~kept).sum())
    return {**summary, "removed": removed, "in_train": in_train, "near_train": near_train}
