"""Accuracy beside what people agree on: the FER+ votes (Barsoum et al. 2016, arXiv:1608.01041)."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.evaluation.result import EvaluationResult

#: Lower ends of the bins of agreement, the share of the votes that the first class has.
BINS = (1.0, 0.9, 0.7, 0.5, 0.0)


def agreement(judged: EvaluationResult) -> dict[str, Any] | None:
    """Compare predictions with people's votes; None where the split has none.

    Images nobody gave a vote for one of the classes are left out.

    Returns:
        ``n``; ``bins``, one for each level of agreement, with ``from`` (lowest share of the votes
        for the first class), ``n``, ``accuracy`` against the labels and ``accuracy_majority``
        against the class with most votes, both None in an empty bin; ``model``, the chance that
        the prediction is what one of the voters, drawn at random, said; ``ceiling``, the same for
        the class with most votes, which nothing can beat; ``person``, the chance that two
        different voters said the same, None without images that two people voted on.
    """
    votes = judged.part.votes
    if votes is None:
        return None
    votes = votes[judged.predictions.positions.numpy()]
    total = votes.sum(1)
    known = total > 0
    votes, total = votes[known].astype(np.float64), total[known]
    predicted, labels = judged.predicted[known], judged.labels[known]
    if not len(votes):
        return None
    share = votes.max(1) / total
    # A tie has no majority: whichever of the first was predicted agrees with it.
    with_majority = votes[np.arange(len(votes)), predicted] == votes.max(1)
    bins, above = [], np.inf
    for low in BINS:
        here = (share >= low) & (share < above)
        count = int(here.sum())
        bins.append(
            {
                "from": low,
                "n": count,
                "accuracy": float((predicted == labels)[here].mean()) if count else None,
                "accuracy_majority": float(with_majority[here].mean()) if count else None,
            }
        )
        above = low
    several = total > 1
    pairs = (votes * (votes - 1)).sum(1)[several] / (total * (total - 1))[several]
    return {
        "n": len(votes),
        "bins": bins,
        "model": float((votes[np.arange(len(votes)), predicted] / total).mean()),
        "ceiling": float(share.mean()),
        "person": float(pairs.mean()) if several.any() else None,
    }
