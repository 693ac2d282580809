"""Accuracy compared with human agreement: FER+ votes (Barsoum et al. 2016, arXiv:1608.01041)."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.evaluation.result import EvaluationResult

#: Lower limits of the bins of agreement, the share of votes of the most voted class.
BINS = (1.0, 0.9, 0.7, 0.5, 0.0)


def agreement(result: EvaluationResult) -> dict[str, Any] | None:
    """Compare predictions with human votes.

    Images without a vote for one of the classes are left out.

    Returns:
        None if the split has no votes. Otherwise ``n`` and:

        - ``bins``: for each level of agreement ``from`` (lowest share of votes of the most voted
          class), ``n``, ``accuracy`` (labels) and ``accuracy_majority`` (most voted class), both
          None in an empty bin
        - ``model``: probability that the prediction equals the vote of a random voter
        - ``ceiling``: the same for the most voted class, the maximum of ``model``
        - ``person``: probability that two different voters agree, None if no image has two votes
    """
    votes = result.part.votes
    if votes is None:
        return None
    votes = votes[result.predictions.positions.numpy()]
    total = votes.sum(1)
    known = total > 0
    votes, total = votes[known].astype(np.float64), total[known]
    predicted, labels = result.predicted[known], result.labels[known]
    if not len(votes):
        return None
    share = votes.max(1) / total
    # In a tie, a prediction of any of the most voted classes agrees with the majority.
    with_majority = votes[np.arange(len(votes)), predicted] == votes.max(1)
    bins, above = [], np.inf
    for low in BINS:
        inside = (share >= low) & (share < above)
        count = int(inside.sum())
        bins.append(
            {
                "from": low,
                "n": count,
                "accuracy": float((predicted == labels)[inside].mean()) if count else None,
                "accuracy_majority": float(with_majority[inside].mean()) if count else None,
            }
        )
        above = low
    has_pair = total > 1
    pairs = (votes * (votes - 1)).sum(1)[has_pair] / (total * (total - 1))[has_pair]
    return {
        "n": len(votes),
        "bins": bins,
        "model": float((votes[np.arange(len(votes)), predicted] / total).mean()),
        "ceiling": float(share.mean()),
        "person": float(pairs.mean()) if has_pair.any() else None,
    }
