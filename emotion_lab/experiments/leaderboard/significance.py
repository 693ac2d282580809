"""Each configuration against the best, on the same images; many comparisons, one level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from emotion_lab.evaluation.statistics import ALPHA, ROUNDS, SAME, count, paired, paired_seeds

#: Seed of the bootstrap draws, as in compare: the same pair of runs gives the same interval.
SEED = 0
#: No p below this is told: the intervals behind it do not reach that far.
SMALLEST = 1e-12
_KEYS = {"accuracy": "verdict", "macro_f1": "macro_f1_verdict"}


def p_value(difference: float, interval: Sequence[float], over_seeds: np.ndarray) -> float:
    """Return the p at which the interval of a difference would just touch 0.

    The 95 % interval joins two half-widths as squares, of the images and of the seeds (see
    :func:`emotion_lab.evaluation.statistics.paired_seeds`). With other levels the first grows as a
    normal and the second as Student's t; so p is below 0.05 where the interval excludes 0.

    Args:
        difference: The mean difference.
        interval: Its 95 % interval, [low, high].
        over_seeds: Difference of each seed, (S,); one for a single pair of runs.
    """
    if difference == 0:
        return 1.0
    facing = difference - interval[0] if difference > 0 else interval[1] - difference
    spread, degrees = 0.0, len(over_seeds) - 1
    if degrees:
        spread = float(np.std(over_seeds, ddof=1)) / np.sqrt(len(over_seeds))
    seeds = spread * stats.t.isf(ALPHA / 2, degrees) if degrees else 0.0
    images = np.sqrt(max(facing, 0) ** 2 - min(seeds, max(facing, 0)) ** 2)

    def beyond(p: float) -> float:
        rows = images * stats.norm.isf(p / 2) / stats.norm.isf(ALPHA / 2)
        both = np.hypot(rows, spread * stats.t.isf(p / 2, degrees) if degrees else 0.0)
        return float(both - abs(difference))

    return float(brentq(beyond, SMALLEST, 1.0)) if beyond(SMALLEST) > 0 else SMALLEST


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979, Scand. J. Statist. 6), in order."""
    adjusted, reached = [0.0] * len(values), 0.0
    for rank, i in enumerate(np.argsort(values, kind="stable")):
        reached = max(reached, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = reached
    return adjusted


def against(
    labels: np.ndarray,
    best: dict[int, np.ndarray],
    other: dict[int, np.ndarray],
    k: int,
    by: str,
) -> dict[str, Any]:
    """Compare a configuration with the best one; every difference is it minus the best.

    Seeds that both have are paired. With fewer than two of them one run a side is compared: of the
    seed they share, else of the lowest seed of each.

    Args:
        labels: True classes, int64 (N,).
        best: Seed -> predicted classes of the best, int64 (N,).
        other: Those of the other configuration.
        k: Number of classes.
        by: ``accuracy`` or ``macro_f1``.

    Returns:
        ``seeds`` (pairs of best and other), ``difference``, ``ci95``, ``p`` and ``alone``: what
        compare says of the two.
    """
    shared = sorted(set(best) & set(other))
    if len(shared) > 1:
        sides = [np.stack([side[seed] for seed in shared]) for side in (best, other)]
        found = paired_seeds(labels, *sides, k, ROUNDS, SEED)
        scores = [[getattr(count(labels, row, k), by) for row in side] for side in sides]
        over = np.subtract(scores[1], scores[0])
        pairs = [[seed, seed] for seed in shared]
    else:
        pair = [shared[0]] * 2 if shared else [min(best), min(other)]
        found = paired(labels, best[pair[0]], other[pair[1]], k, ROUNDS, SEED)
        over, pairs = np.array([found[by]]), [pair]
    alone, interval = found[_KEYS[by]], found[f"{by}_ci95"]
    if len(pairs) == 1 and by == "accuracy":
        p = found["mcnemar_p"]
    else:
        p = p_value(found[by], interval, over)
        if alone == SAME and p < ALPHA:
            p = 1.0  # fewer than six images tell the two apart: no exact test could
    return {
        "seeds": pairs,
        "difference": found[by],
        "ci95": interval,
        "p": p,
        "alone": alone,
    }


def corrected(rows: list[dict[str, Any]]) -> None:
    """Add ``p_holm`` and ``verdict`` to what :func:`against` returned of every configuration.

    Better or worse needs what compare asks of two, and p below 0.05 after Holm's correction.
    """
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
        row["verdict"] = row["alone"] if p < ALPHA else SAME
