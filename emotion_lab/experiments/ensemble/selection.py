"""Who takes part: greedy forward selection with replacement, and how much it fools itself.

Sources:
    Caruana, Niculescu-Mizil, Crew, Ksikes 2004, ICML, Ensemble selection from libraries of models.
    Cawley, Talbot 2010, JMLR 11 (choosing on a score makes that score too good).

Arrays: ``given`` float64 (M, N, K) are the probabilities of M members, ``labels`` int64 (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Keeps the logarithm finite where every member rules out the true class.
_FLOOR = 1e-12
#: A smaller gain is rounding: probabilities are saved with eight digits.
_TINY = 1e-9

#: Name -> (correct, predicted, support), each (C, K), -> score of each of C candidates.
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def _f1(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    return _share(2 * correct, predicted + support)


def _precision(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    return _share(correct, predicted)


def _recall(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    return _share(correct, support)


def _averaged(each: Measure, macro: bool) -> Measure:
    """Average over the classes as torchmetrics does: macro over those that occur or are said."""

    def measure(correct: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
        weight = (support + predicted > 0) * 1.0 if macro else support
        return (each(correct, predicted, support) * weight).sum(-1) / weight.sum(-1)

    return measure


#: What can choose, besides ``loss`` (the NLL): everything an epoch logs.
MEASURES: dict[str, Measure] = {
    "accuracy": lambda correct, predicted, support: correct.sum(-1) / support.sum(-1),
    **{
        f"{average}_{name}": _averaged(each, average == "macro")
        for average in ("macro", "weighted")
        for name, each in (("precision", _precision), ("recall", _recall), ("f1", _f1))
    },
}
METRICS = ("loss", *MEASURES)


def nll(mixed: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood (...,) of probabilities (..., N, K)."""
    true = mixed[..., np.arange(len(labels)), labels]
    return -np.log(np.maximum(true, _FLOOR)).mean(-1)


def score(mixed: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """Return a score (C,) of each of C candidates; of ``loss``, its negative: more is better.

    Args:
        mixed: Probabilities, or a multiple of them, float64 (C, N, K).
        labels: int64 (N,).
        metric: One of :data:`METRICS`.
    """
    if metric == "loss":
        return -nll(mixed / mixed.sum(-1, keepdims=True), labels)
    many, _, k = mixed.shape
    said = mixed.argmax(-1)
    shift = np.arange(many)[:, None] * k
    predicted = np.bincount((said + shift).ravel(), minlength=many * k).reshape(many, k)
    right = (said + shift)[said == labels]
    correct = np.bincount(right, minlength=many * k).reshape(many, k)
    support = np.broadcast_to(np.bincount(labels, minlength=k), (many, k))
    return MEASURES[metric](correct, predicted, support)


@dataclass(frozen=True)
class SelectionStep:
    """One more member.

    Attributes:
        member: Which of the M.
        score: Of the average so far, as :func:`score` gives it.
        nll: Of the average so far.
    """

    member: int
    score: float
    nll: float


def greedy(given: np.ndarray, labels: np.ndarray, metric: str, size: int) -> list[SelectionStep]:
    """Choose members one by one, each the one that helps the average most; a member may come again.

    It ends where no member makes the score better, or at ``size``. Among equal scores the lower
    NLL decides, then the order of the members: there is no chance in it.

    Args:
        given: float64 (M, N, K).
        labels: int64 (N,).
        metric: One of :data:`METRICS`.
        size: Members at most, each counted as often as it was chosen.

    Returns:
        At least one step; how often a member stands in it is its weight.
    """
    total = np.zeros(given.shape[1:])
    steps: list[SelectionStep] = []
    while len(steps) < size:
        candidates = total + given
        scores = score(candidates, labels, metric)
        losses = nll(candidates / (len(steps) + 1), labels)
        best = int(np.lexsort((losses, -np.round(scores / _TINY)))[0])
        if steps and scores[best] <= steps[-1].score + _TINY:
            break
        total = candidates[best]
        steps.append(SelectionStep(best, float(scores[best]), float(losses[best])))
    return steps


def counts(steps: list[SelectionStep], members: int) -> np.ndarray:
    """Return how often each member was chosen, int64 (M,)."""
    return np.bincount([step.member for step in steps], minlength=members)


def mix(given: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted average (N, K), rows summing to 1; weights (M,) of any sum."""
    mixed = np.tensordot(np.asarray(weights, np.float64), given, axes=1)
    return mixed / mixed.sum(-1, keepdims=True)


def halves(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return bool (N,): a random half, of every class as many in as out, within one."""
    generator = np.random.default_rng(seed)
    inside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        # Which side has the odd one is chance too.
        inside[rows[int(generator.integers(2)) :: 2]] = True
    return inside


def nested(
    given: np.ndarray, labels: np.ndarray, metric: str, size: int, repeats: int
) -> list[dict[str, Any]]:
    """Estimate what the selection is worth on images that had no part in it.

    One half chooses, the other is scored, then the other way round; so each image is scored by an
    ensemble it did not choose. That is repeated with other halves. A half chooses worse than the
    whole, so this errs a little on the low side.

    Args:
        given: float64 (M, N, K).
        labels: int64 (N,).
        metric: One of :data:`METRICS`.
        size: See :func:`greedy`.
        repeats: How often to halve.

    Returns:
        A row for each size from 1 (the best single member) on: ``size``, the means of
        ``accuracy``, ``macro_f1`` and ``loss`` over the repeats, of ``score`` (the metric itself,
        for ``loss`` the NLL) also ``score_std`` (None for one repeat) and ``better`` (share of
        the repeats in which it beats size 1).
    """
    names = ("accuracy", "macro_f1", "loss", metric)
    table = np.zeros((repeats, size, len(names)))
    for turn in range(repeats):
        first = halves(labels, turn)
        mixed = np.zeros((size, *given.shape[1:]))
        for inside in (first, ~first):
            steps = greedy(given[:, inside], labels[inside], metric, size)
            for i in range(size):
                weights = counts(steps[: i + 1], len(given))
                mixed[i, ~inside] = mix(given[:, ~inside], weights)
        for column, name in enumerate(names):
            table[turn, :, column] = score(mixed, labels, name)
    better = (table[:, :, 3] > table[:, :1, 3] + _TINY).mean(0)
    table[:, :, 2] *= -1
    if metric == "loss":
        table[:, :, 3] *= -1
    mean = table.mean(0)
    rows = []
    for i in range(size):
        row: dict[str, Any] = {"size": i + 1, **dict(zip(names, mean[i].tolist(), strict=False))}
        row["score"] = float(mean[i, 3])
        row["score_std"] = float(table[:, i, 3].std(ddof=1)) if repeats > 1 else None
        row["better"] = float(better[i])
        rows.append(row)
    return rows
