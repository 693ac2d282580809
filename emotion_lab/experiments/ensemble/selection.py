"""Greedy forward selection of ensemble members with replacement, and its selection bias.

Sources:
    Caruana, Niculescu-Mizil, Crew, Ksikes 2004, ICML, Ensemble selection from libraries of models.
    Cawley, Talbot 2010, JMLR 11 (selection on a score biases that score).

Arrays: ``probabilities`` of M members float64 (M, N, K), ``labels`` int64 (N,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.config import fields
from emotion_lab.data.groups import group_numbers
from emotion_lab.evaluation.statistics import Counts

#: Selection metrics; ``loss`` is the NLL.
METRICS = tuple(name for name in fields.METRICS if name != "monitor")
#: Lower bound of probabilities, which keeps the logarithm finite.
_MIN_PROBABILITY = 1e-12
#: Smaller gains are rounding errors: probabilities are saved with eight digits.
_TOLERANCE = 1e-9


def nll(mixed: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood (...,) of probabilities (..., N, K)."""
    true = mixed[..., np.arange(len(labels)), labels]
    return -np.log(np.maximum(true, _MIN_PROBABILITY)).mean(-1)


def score(mixed: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """Return the score (C,) of C candidates; higher is better, so ``loss`` is negated.

    Args:
        mixed: Probabilities, or a multiple of them, float64 (C, N, K).
    """
    if metric == "loss":
        return -nll(mixed / mixed.sum(-1, keepdims=True), labels)
    n_candidates, _, k = mixed.shape
    classes = mixed.argmax(-1)
    # One bincount for all candidates: each has its own range of k indices.
    indices = classes + np.arange(n_candidates)[:, None] * k
    size, shape = n_candidates * k, (n_candidates, k)
    predicted = np.bincount(indices.ravel(), minlength=size).reshape(shape)
    correct = np.bincount(indices[classes == labels], minlength=size).reshape(shape)
    return Counts(correct, predicted, np.bincount(labels, minlength=k)).metric(metric)


@dataclass(frozen=True)
class SelectionStep:
    """One selected member.

    Attributes:
        member: Index of the member.
        score: Score of the average so far; see :func:`score`.
        nll: NLL of the average so far.
    """

    member: int
    score: float
    nll: float


def greedy(
    probabilities: np.ndarray, labels: np.ndarray, metric: str, max_members: int
) -> list[SelectionStep]:
    """Add the member that improves the average most, with replacement, until none does.

    The selection is deterministic: among equal scores the lower NLL is preferred, then the first
    member.

    Args:
        max_members: Maximum number of steps; a member can be selected several times.

    Returns:
        At least one step. The weight of a member is the number of its steps.
    """
    total = np.zeros(probabilities.shape[1:])
    steps: list[SelectionStep] = []
    while len(steps) < max_members:
        candidates = total + probabilities
        scores = score(candidates, labels, metric)
        losses = nll(candidates / (len(steps) + 1), labels)
        best = int(np.lexsort((losses, -np.round(scores / _TOLERANCE)))[0])
        if steps and scores[best] <= steps[-1].score + _TOLERANCE:
            break
        total = candidates[best]
        steps.append(SelectionStep(best, float(scores[best]), float(losses[best])))
    return steps


def counts(steps: list[SelectionStep], members: int) -> np.ndarray:
    """Return how often each member was selected, int64 (M,)."""
    return np.bincount([step.member for step in steps], minlength=members)


def mix(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted average (N, K), rows summing to 1; weights (M,) with any sum."""
    mixed = np.tensordot(np.asarray(weights, np.float64), probabilities, axes=1)
    return mixed / mixed.sum(-1, keepdims=True)


def random_half(labels: np.ndarray, seed: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """Return a mask (N,) of a random half: stratified by class, or half of the ``groups``."""
    generator = np.random.default_rng(seed)
    if groups is not None:
        numbers = group_numbers(groups)
        order = generator.permutation(int(numbers.max()) + 1)
        # The half that gets the odd group is random too.
        return np.isin(numbers, order[int(generator.integers(2)) :: 2])
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        # The half that gets the odd row is random too.
        mask[rows[int(generator.integers(2)) :: 2]] = True
    return mask


def nested(
    probabilities: np.ndarray,
    labels: np.ndarray,
    metric: str,
    max_members: int,
    num_splits: int,
    groups: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Estimate the score of the selection on images that were not used for it.

    One half selects and the other is scored, then vice versa; each image is scored by an ensemble
    that it did not select. This is repeated with other halves. A half selects worse than all
    images, so the estimate is slightly pessimistic. With ``groups``, N names, a group is in one
    half.

    Returns:
        A row for each size from 1 (the best single member): ``size``, the means of ``accuracy``,
        ``macro_f1`` and ``loss`` over the halvings, of ``score`` (the metric itself, for ``loss``
        the NLL) also ``score_std`` (None for one halving) and ``better`` (fraction of the halvings
        in which it is better than size 1).
    """
    names = ("accuracy", "macro_f1", "loss", metric)
    scores = np.zeros((num_splits, max_members, len(names)))
    for split in range(num_splits):
        half = random_half(labels, split, groups)
        mixed = np.zeros((max_members, *probabilities.shape[1:]))
        for selecting in (half, ~half):
            steps = greedy(probabilities[:, selecting], labels[selecting], metric, max_members)
            for i in range(max_members):
                weights = counts(steps[: i + 1], len(probabilities))
                mixed[i, ~selecting] = mix(probabilities[:, ~selecting], weights)
        for column, name in enumerate(names):
            scores[split, :, column] = score(mixed, labels, name)
    better = (scores[:, :, 3] > scores[:, :1, 3] + _TOLERANCE).mean(0)
    scores[:, :, 2] *= -1
    if metric == "loss":
        scores[:, :, 3] *= -1
    means = scores.mean(0)
    rows = []
    for i in range(max_members):
        row: dict[str, Any] = {"size": i + 1, **dict(zip(names, means[i].tolist(), strict=False))}
        row["score"] = float(means[i, 3])
        row["score_std"] = float(scores[:, i, 3].std(ddof=1)) if num_splits > 1 else None
        row["better"] = float(better[i])
        rows.append(row)
    return rows
