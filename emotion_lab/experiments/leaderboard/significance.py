"""Paired comparison of each configuration with the best, corrected for multiple comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from emotion_lab.evaluation.statistics import ALPHA, SAME, count, paired, paired_seeds

#: Lower bound of reported p-values; the underlying intervals are not accurate below it.
MIN_P = 1e-12
#: Metric -> key of its verdict in the results of ``paired`` and ``paired_seeds``.
VERDICTS = {"accuracy": "verdict", "macro_f1": "macro_f1_verdict"}


def p_value(difference: float, interval: Sequence[float], over_seeds: np.ndarray) -> float:
    """Return the p-value at which the interval of a difference touches 0.

    The 95 % interval combines two half-widths in quadrature, of the images and of the seeds (see
    :func:`emotion_lab.evaluation.statistics.paired_seeds`). At other levels the first scales as a
    normal distribution and the second as Student's t. So p is below 0.05 if the interval excludes
    0.

    Args:
        over_seeds: Difference of each seed, (S,); one value for a single pair of runs.
    """
    if difference == 0:
        return 1.0
    half_width = difference - interval[0] if difference > 0 else interval[1] - difference
    half_width = max(half_width, 0)
    standard_error, degrees = 0.0, len(over_seeds) - 1
    if degrees:
        standard_error = float(np.std(over_seeds, ddof=1)) / np.sqrt(len(over_seeds))
    seeds = standard_error * stats.t.isf(ALPHA / 2, degrees) if degrees else 0.0
    images = np.sqrt(half_width**2 - min(seeds, half_width) ** 2)

    def excess(p: float) -> float:
        """Return by how much the half-width at level p exceeds the difference."""
        rows = images * stats.norm.isf(p / 2) / stats.norm.isf(ALPHA / 2)
        t = standard_error * stats.t.isf(p / 2, degrees) if degrees else 0.0
        return float(np.hypot(rows, t) - abs(difference))

    return float(brentq(excess, MIN_P, 1.0)) if excess(MIN_P) > 0 else MIN_P


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values (Holm 1979, Scand. J. Statist. 6), in the given order."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(np.argsort(values, kind="stable")):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted


def compare_with_best(
    labels: np.ndarray,
    best: dict[int, np.ndarray],
    other: dict[int, np.ndarray],
    k: int,
    by: str,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compare a configuration with the best one; every difference is other - best.

    Common seeds are paired. With fewer than two common seeds, one pair of runs is compared: of the
    common seed, otherwise of the lowest seed of each.

    Args:
        labels: True classes, int64 (N,).
        best: Predicted classes of the best by seed, int64 (N,).
        other: Predicted classes of the other configuration by seed, int64 (N,).
        groups: N names of groups, see :mod:`emotion_lab.evaluation.statistics`; or None.

    Returns:
        ``seeds`` (pairs of best and other), ``difference``, ``ci95``, ``p`` and ``alone``: the
        verdict of this comparison without correction.
    """
    common = sorted(set(best) & set(other))
    if len(common) > 1:
        a, b = (np.stack([side[seed] for seed in common]) for side in (best, other))
        result = paired_seeds(labels, a, b, k, groups=groups)
        scores = [[getattr(count(labels, row, k), by) for row in side] for side in (a, b)]
        over_seeds = np.subtract(scores[1], scores[0])
        pairs = [[seed, seed] for seed in common]
    else:
        pair = [common[0]] * 2 if common else [min(best), min(other)]
        result = paired(labels, best[pair[0]], other[pair[1]], k, groups=groups)
        over_seeds, pairs = np.array([result[by]]), [pair]
    verdict, interval = result[VERDICTS[by]], result[f"{by}_ci95"]
    if len(pairs) == 1 and by == "accuracy" and groups is None:
        p = result["mcnemar_p"]
    else:
        p = p_value(result[by], interval, over_seeds)
        if verdict == SAME and p < ALPHA:
            p = 1.0  # fewer than six images differ: no exact test can be significant
    return {"seeds": pairs, "difference": result[by], "ci95": interval, "p": p, "alone": verdict}


def add_holm(comparisons: list[dict[str, Any]]) -> None:
    """Add ``p_holm`` and the corrected ``verdict`` to results of :func:`compare_with_best`.

    Better or worse requires the uncorrected verdict, and p below 0.05 after Holm's correction.
    """
    adjusted = holm([comparison["p"] for comparison in comparisons])
    for comparison, p in zip(comparisons, adjusted, strict=True):
        comparison["p_holm"] = p
        comparison["verdict"] = comparison["alone"] if p < ALPHA else SAME
