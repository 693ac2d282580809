"""How sure a score is, and whether two models differ: bootstrap, McNemar, several seeds.

Sources:
    Efron, Tibshirani 1993, An Introduction to the Bootstrap (percentile intervals).
    McNemar 1947; Dietterich 1998, Neural Computation 10(7) (two classifiers on one test set).
    Bouthillier et al. 2021, arXiv:2103.03098 (seeds and test data both make scores vary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from emotion_lab.core.errors import UserError

ROUNDS = 2000
#: Significance level; intervals have 1 - ALPHA.
ALPHA = 0.05
BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
#: Numbers drawn at once: 16 MiB, whatever the size of the split.
_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Counts:
    """What accuracy and F1 need of a confusion matrix, for one matrix or many.

    Attributes:
        correct: Its diagonal, (..., K).
        predicted: Its column sums, (..., K).
        support: Its row sums, (K,).
    """

    correct: np.ndarray
    predicted: np.ndarray
    support: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right predictions, (...,)."""
        return self.correct.sum(-1) / self.support.sum()

    @property
    def f1(self) -> np.ndarray:
        """F1 of each class, (..., K); 0 where a class neither occurs nor is predicted."""
        return 2 * self.correct / np.maximum(self.support + self.predicted, 1)

    @property
    def macro_f1(self) -> np.ndarray:
        """Mean F1 over the classes that occur or are predicted, (...,), as torchmetrics does."""
        counted = self.support + self.predicted > 0
        return (self.f1 * counted).sum(-1) / counted.sum(-1)


def count(labels: np.ndarray, predicted: np.ndarray, k: int) -> Counts:
    """Count right predictions, predictions and samples of each class.

    Args:
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        k: Number of classes.

    Raises:
        UserError: If there is nothing to count.
    """
    if not len(labels):
        raise UserError("there are no predictions to score: the split is empty.")
    return Counts(
        np.bincount(labels[labels == predicted], minlength=k),
        np.bincount(predicted, minlength=k),
        np.bincount(labels, minlength=k),
    )


def resample(
    labels: np.ndarray, predictions: np.ndarray, k: int, rounds: int = ROUNDS, seed: int = 0
) -> Counts:
    """Draw stratified bootstrap samples of the rows, the same rows for all models.

    Within each true class as many rows are drawn, with replacement, as there are. Rows of one class
    on which all models say the same are interchangeable, so how often each such cell is drawn is
    multinomial: this gives exactly what drawing row numbers would, without the row numbers.

    Args:
        labels: True classes, int64 (N,).
        predictions: Predicted classes of M models, int64 (M, N).
        k: Number of classes.
        rounds: Samples to draw.
        seed: Of the draws.

    Returns:
        Counts whose ``correct`` and ``predicted`` are float64 (M, rounds, K).
    """
    generator = np.random.default_rng(seed)
    correct = np.zeros((len(predictions), rounds, k))
    predicted = np.zeros((len(predictions), rounds, k))
    for label in np.unique(labels):
        cells, sizes = np.unique(predictions[:, labels == label], axis=1, return_counts=True)
        total = sizes.sum()
        step = max(1, _AT_ONCE // len(sizes))
        for start in range(0, rounds, step):
            part = slice(start, min(start + step, rounds))
            size = part.stop - part.start
            draws = generator.multinomial(total, sizes / total, size).astype(np.float64)
            for model, guesses in enumerate(cells):
                correct[model, part, label] = draws[:, guesses == label].sum(1)
                predicted[model, part] += draws @ np.eye(k)[guesses]
    return Counts(correct, predicted, np.bincount(labels, minlength=k))


def interval(values: np.ndarray) -> list[float]:
    """Return the 2.5 and 97.5 percentiles of bootstrap values (rounds,)."""
    return np.quantile(values, (ALPHA / 2, 1 - ALPHA / 2)).tolist()


def _spread(values: np.ndarray) -> list[float] | None:
    """Return the interval of bootstrap values, None where all draws are the same."""
    low, high = interval(values)
    return [low, high] if high > low else None


def wilson(right: int, n: int) -> list[float]:
    """Return the Wilson interval of a share (Wilson 1927); it has a width also at 0 and at n."""
    found = stats.binomtest(right, n).proportion_ci(1 - ALPHA, method="wilson")
    return [float(found.low), float(found.high)]


def intervals(
    labels: np.ndarray, predicted: np.ndarray, k: int, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Any]:
    """Return scores with 95 % percentile intervals of the stratified bootstrap.

    They say how much a score depends on which images happened to be in the split; not how much on
    the training seed. What did not occur cannot be drawn: where every draw is the same (no mistake
    at all, or one class for everything), accuracy has Wilson's interval, and F1 none.

    Args:
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        k: Number of classes.
        rounds: Samples to draw.
        seed: Of the draws.

    Returns:
        ``n``, ``accuracy``, ``accuracy_ci95`` ([low, high]), ``macro_f1``, ``macro_f1_ci95``, and
        by class ``f1`` and ``f1_ci95``, lists of K with None where a class has no samples or the
        draws have no spread.

    Raises:
        UserError: If there are no predictions.
    """
    whole = count(labels, predicted, k)
    drawn = resample(labels, predicted[None], k, rounds, seed)
    present = whole.support > 0
    f1, drawn_f1 = whole.f1, drawn.f1[0]
    return {
        "n": len(labels),
        "accuracy": float(whole.accuracy),
        "accuracy_ci95": _spread(drawn.accuracy[0])
        or wilson(int(whole.correct.sum()), len(labels)),
        "macro_f1": float(whole.macro_f1),
        "macro_f1_ci95": _spread(drawn.macro_f1[0]),
        "f1": [float(f1[i]) if present[i] else None for i in range(k)],
        "f1_ci95": [_spread(drawn_f1[:, i]) if present[i] else None for i in range(k)],
    }


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p of McNemar's exact test.

    Were both models equally often right, each row on which just one is right would be a fair coin.

    Args:
        only_a: Rows on which a is right and b is wrong.
        only_b: The other way round.
    """
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_b, only_a + only_b, 0.5).pvalue)


def verdict(difference: Sequence[float], p: float | None = None) -> str:
    """Say "better", "worse" or "not distinguishable" of a difference.

    Better or worse needs the 95 % interval of the difference to exclude 0 and, where there is one,
    McNemar's p below 0.05. Mostly the two agree. Where they do not, few rows tell the models apart:
    there the percentile interval is too narrow while the exact test keeps its level; the test in
    turn knows neither classes nor the size of the difference. Asking both errs on the side of "not
    distinguishable", and false alarms stay below 5 %.

    Args:
        difference: [low, high].
        p: Of McNemar's test.
    """
    low, high = difference
    if p is not None and p >= ALPHA:
        return SAME
    return BETTER if low > 0 else WORSE if high < 0 else SAME


def _classes(whole: np.ndarray, between: list[list[float]], support: np.ndarray) -> dict[str, Any]:
    present = support > 0
    return {
        "f1": [float(x) if there else None for x, there in zip(whole, present, strict=True)],
        "f1_ci95": [x if there else None for x, there in zip(between, present, strict=True)],
    }


def paired(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    k: int,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two models on the same rows; every difference is b - a.

    Args:
        labels: True classes, int64 (N,).
        a: Classes that a predicts, int64 (N,).
        b: Classes that b predicts, int64 (N,).
        k: Number of classes.
        rounds: Bootstrap samples; rows are drawn within each true class, the same for both.
        seed: Of the draws.

    Returns:
        ``accuracy`` and ``accuracy_ci95``, ``macro_f1`` and ``macro_f1_ci95``, by class ``f1`` and
        ``f1_ci95`` (None without samples), ``only_a_right``, ``only_b_right``, ``mcnemar_p``;
        ``verdict`` on b's accuracy and ``macro_f1_verdict``, which has the interval alone, because
        McNemar's test speaks of accuracy only; it needs six rows on which the models differ.

    Raises:
        UserError: If there are no predictions.
    """
    whole = [count(labels, predicted, k) for predicted in (a, b)]
    drawn = resample(labels, np.stack([a, b]), k, rounds, seed)
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((b == labels) & (a != labels)).sum())
    p = mcnemar(only_a, only_b)
    accuracy = interval(drawn.accuracy[1] - drawn.accuracy[0])
    macro_f1 = interval(drawn.macro_f1[1] - drawn.macro_f1[0])
    f1 = drawn.f1[1] - drawn.f1[0]
    return {
        "accuracy": float(whole[1].accuracy - whole[0].accuracy),
        "accuracy_ci95": accuracy,
        "macro_f1": float(whole[1].macro_f1 - whole[0].macro_f1),
        "macro_f1_ci95": macro_f1,
        **_classes(
            whole[1].f1 - whole[0].f1, [interval(f1[:, i]) for i in range(k)], whole[0].support
        ),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "mcnemar_p": p,
        "verdict": verdict(accuracy, p),
        # Six rows at least: on fewer no exact paired test can reach 5 %.
        "macro_f1_verdict": verdict(macro_f1) if int((a != b).sum()) >= 6 else SAME,
    }


def mean_std(values: Sequence[float]) -> dict[str, Any]:
    """Return ``n``, ``mean``, ``std``, ``min`` and ``max``, as of one score over seeds.

    ``std`` is that of a sample (n - 1), None for a single value.
    """
    array = np.asarray(values, dtype=np.float64)
    return {
        "n": len(array),
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else None,
        "min": float(array.min()),
        "max": float(array.max()),
    }


def _widened(mean: float, rows: list[float], over_seeds: np.ndarray) -> list[float]:
    """Return the interval of a mean over seeds: the rows' bootstrap and the seeds' t interval.

    The two are independent, so their half-widths add as squares; no score differs by more than 1.
    """
    size = len(over_seeds)
    spread = over_seeds.std(ddof=1) / np.sqrt(size)
    seeds = stats.t.ppf(1 - ALPHA / 2, size - 1) * spread
    below, above = (np.hypot(end - mean, seeds) for end in rows)
    return [float(max(mean - below, -1)), float(min(mean + above, 1))]


def paired_seeds(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    k: int,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two ways of training, each run with the same seeds; every difference is b - a.

    A mean difference over few seeds is uncertain twice: other images, other seeds. Its interval
    joins the paired bootstrap of the rows (of the mean difference, the same rows for all runs) and
    Student's t interval of the differences over seeds. The latter is wide for two or three seeds,
    as it has to be. McNemar's test compares two fixed models, not ways of training, so it has no
    part in this verdict.

    Args:
        labels: True classes, int64 (N,).
        a: Classes that the runs of a predict, int64 (S, N), S of 2 or more.
        b: Those of b, in the same order of seeds.
        k: Number of classes.
        rounds: Bootstrap samples.
        seed: Of the draws.

    Returns:
        ``accuracy``, ``macro_f1`` (means of the differences), their ``..._ci95``, by class ``f1``
        and ``f1_ci95`` (None without samples), ``verdict``, ``macro_f1_verdict``.

    Raises:
        UserError: If there are no predictions.
    """
    size = len(a)
    whole = [[count(labels, row, k) for row in side] for side in (a, b)]
    drawn = resample(labels, np.concatenate([a, b]), k, rounds, seed)

    def between(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (differences over seeds (S, ...), draws of their mean (rounds, ...))."""
        seeds = [
            getattr(y, name) - getattr(x, name) for x, y in zip(whole[0], whole[1], strict=True)
        ]
        values = getattr(drawn, name)
        return np.array(seeds), values[size:].mean(0) - values[:size].mean(0)

    def mean_of(seeds: np.ndarray, draws: np.ndarray) -> tuple[float, list[float]]:
        mean = float(seeds.mean())
        return mean, _widened(mean, interval(draws), seeds)

    accuracy, accuracy_ci95 = mean_of(*between("accuracy"))
    macro_f1, macro_f1_ci95 = mean_of(*between("macro_f1"))
    seeds, draws = between("f1")
    f1 = [mean_of(seeds[:, i], draws[:, i])[1] for i in range(k)]
    return {
        "accuracy": accuracy,
        "accuracy_ci95": accuracy_ci95,
        "macro_f1": macro_f1,
        "macro_f1_ci95": macro_f1_ci95,
        **_classes(seeds.mean(0), f1, drawn.support),
        "verdict": verdict(accuracy_ci95),
        "macro_f1_verdict": verdict(macro_f1_ci95),
    }
