"""The score without images that were trained on, or that stand in the split more than once.

FER2013 holds some 1,500 groups of byte-identical images, hundreds of them across splits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import intervals


def first_of_its_kind(digests: list[bytes], known: set[bytes]) -> np.ndarray:
    """Return bool (N,): neither among ``known`` nor a copy of an earlier one."""
    seen = set(known)
    kept = np.zeros(len(digests), dtype=bool)
    for i, digest in enumerate(digests):
        kept[i] = digest not in seen
        seen.add(digest)
    return kept


def without_duplicates(judged: EvaluationResult, data_cfg: dict[str, Any]) -> dict[str, Any]:
    """Score again without byte-identical copies.

    Args:
        judged: The predictions.
        data_cfg: The data that the checkpoint was trained on; its train split is read.

    Returns:
        ``n``, ``accuracy`` and ``accuracy_ci95`` (None where nothing is left), ``removed``,
        ``in_train`` (how many of the removed were trained on, None where there is no train split
        to compare with).
    """
    part = judged.part
    digests = [
        part.store.digest(int(part.indices[position]))
        for position in judged.predictions.positions.tolist()
    ]
    train: set[bytes] | None = None
    if judged.split != "train":
        try:
            cfg = {**data_cfg, "limit": None, "ferplus_csv": None, "label_source": "original"}
            source = load_data({**cfg, "drop_not_face": False}, ("train",))
            train = set(source.splits["train"].digests())
        except UserError:
            train = None
    kept = first_of_its_kind(digests, train or set())
    if not kept.any():
        found: dict[str, Any] = {"n": 0, "accuracy": None, "accuracy_ci95": None}
    else:
        scored = intervals(judged.labels[kept], judged.predicted[kept], len(judged.classes))
        found = {key: scored[key] for key in ("n", "accuracy", "accuracy_ci95")}
    in_train = None if train is None else sum(digest in train for digest in digests)
    return {**found, "removed": int((~kept).sum()), "in_train": in_train}
