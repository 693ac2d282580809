"""Accuracy compared with human agreement: FER+ votes (Barsoum et al. 2016, arXiv:1608.01041)."""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_lab.evaluation.result import EvaluationResult

#: Lower limits of the bins of agreement, the fraction of votes of the most voted class.
BINS = (1.0, 0.9, 0.7, 0.5, 0.0)


def agreement(result: EvaluationResult) -> dict[str, Any] | None:
    """Compare predictions with human votes.

    Images without a vote for one of the classes are left out.

    Returns:
        None if the split has no votes. Otherwise ``n`` and:

        - ``bins``: for each level of agreement ``from`` (lowest fraction of votes of the most voted
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
    has_votes = total > 0
    votes, total = votes[has_votes].astype(np.float64), total[has_votes]
    predicted, labels = result.predicted[has_votes], result.labels[has_votes]
    if not len(votes):
        return None
    fraction = votes.max(1) / total
    votes_of_predicted = votes[np.arange(len(votes)), predicted]
    # In a tie, a prediction of any of the most voted classes agrees with the majority.
    with_majority = votes_of_predicted == votes.max(1)
    bins = []
    for low, above in zip(BINS, (np.inf, *BINS), strict=False):
        inside = (fraction >= low) & (fraction < above)
        count = int(inside.sum())
        bins.append(
            {
                "from": low,
                "n": count,
                "accuracy": float((predicted == labels)[inside].mean()) if count else None,
                "accuracy_majority": float(with_majority[inside].mean()) if count else None,
            }
        )
    has_pair = total > 1
    pairs = (votes * (votes - 1)).sum(1)[has_pair] / (total * (total - 1))[has_pair]
    return {
        "n": len(votes),
        "bins": bins,
        "model": float((votes_of_predicted / total).mean()),
        "ceiling": float(fraction.mean()),
        "person": float(pairs.mean()) if has_pair.any() else None,
    }
