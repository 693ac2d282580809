"""Confidence intervals of scores and comparison of models: bootstrap, McNemar, several seeds.

Labels and predicted classes are int64 (N,), ``k`` is the number of classes, ``rounds`` the number
of bootstrap samples. With ``groups``, N names or numbers, whole groups (persons) are drawn instead
of images, because images of one person are not independent.

Sources:
    Efron, Tibshirani 1993, An Introduction to the Bootstrap (percentile intervals).
    McNemar 1947; Dietterich 1998, Neural Computation 10(7) (two classifiers on one test set).
    Field, Welsh 2007, J. R. Statist. Soc. B 69(3) (bootstrap of groups).
    Bouthillier et al. 2021, arXiv:2103.03098 (seeds and test data both make scores vary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from emotion_lab.core.errors import UserError

ROUNDS = 2000
#: Seed of the bootstrap: the same predictions give the same intervals.
SEED = 0
#: Significance level; intervals have 1 - ALPHA.
ALPHA = 0.05
BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
#: N names or numbers of groups.
Groups: TypeAlias = "Sequence[str] | np.ndarray"
#: Random numbers drawn per batch (16 MiB).
_DRAWS_PER_BATCH = 1 << 21


@dataclass(frozen=True)
class Counts:
    """The parts of a confusion matrix that accuracy and F1 need, for one matrix or many.

    Attributes:
        correct: Diagonal, (..., K).
        predicted: Column sums, (..., K).
        support: Row sums, (K,), or (..., K) if the matrices are of different images.
    """

    correct: np.ndarray
    predicted: np.ndarray
    support: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Fraction of correct predictions, (...,)."""
        return self.correct.sum(-1) / self.support.sum(-1)

    @property
    def f1(self) -> np.ndarray:
        """F1 of each class, (..., K); 0 where a class neither occurs nor is predicted."""
        return 2 * self.correct / np.maximum(self.support + self.predicted, 1)

    @property
    def macro_f1(self) -> np.ndarray:
        """Mean F1 over the classes that occur or are predicted, (...,), as torchmetrics does."""
        return self.metric("macro_f1")

    def metric(self, name: str) -> np.ndarray:
        """Return ``accuracy``, or macro or weighted precision, recall or F1 (``macro_f1``), (...,).

        As in torchmetrics, macro averages are over the classes that occur or are predicted.
        """
        if name == "accuracy":
            return self.accuracy
        average, _, score = name.partition("_")
        if score == "f1":
            values = self.f1
        else:
            total = self.predicted if score == "precision" else self.support
            values = self.correct / np.maximum(total, 1)
        weights = self.support + self.predicted > 0 if average == "macro" else self.support
        weights = np.broadcast_to(weights, values.shape)
        return (values * weights).sum(-1) / weights.sum(-1)


def count(labels: np.ndarray, predicted: np.ndarray, k: int) -> Counts:
    """Count correct predictions, predictions and samples of each class."""
    if not len(labels):
        raise UserError("there are no predictions to score: the split is empty.")
    return Counts(
        np.bincount(labels[labels == predicted], minlength=k),
        np.bincount(predicted, minlength=k),
        np.bincount(labels, minlength=k),
    )


def _resample_groups(
    labels: np.ndarray, predictions: np.ndarray, k: int, rounds: int, groups: Groups
) -> Counts:
    """Draw bootstrap samples of whole groups, the same groups for all models."""
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    numbers, shape = numbers.reshape(-1), (len(names), k)
    draws = np.random.default_rng(SEED).multinomial(
        len(names), np.full(len(names), 1 / len(names)), rounds
    )

    def drawn(classes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the images of each class in every sample, float64 (rounds, K)."""
        counts = np.zeros(shape)
        np.add.at(counts, (numbers[rows], classes[rows]), 1)
        return draws @ counts

    everywhere = np.ones(len(labels), bool)
    return Counts(
        np.stack([drawn(labels, row == labels) for row in predictions]),
        np.stack([drawn(row, everywhere) for row in predictions]),
        drawn(labels, everywhere),
    )


def resample(
    labels: np.ndarray,
    predictions: np.ndarray,
    k: int,
    rounds: int = ROUNDS,
    groups: Groups | None = None,
) -> Counts:
    """Draw stratified bootstrap samples of the rows, the same rows for all models.

    Each true class keeps its number of rows, drawn with replacement. Rows of a class with equal
    predictions of all models are interchangeable: the number of draws of each such group is
    multinomial. This is the same distribution as that of drawing row indices, but faster.

    Args:
        predictions: Predicted classes of M models, int64 (M, N).

    Returns:
        Counts whose ``correct`` and ``predicted`` are float64 (M, rounds, K).
    """
    if groups is not None:
        return _resample_groups(labels, predictions, k, rounds, groups)
    generator = np.random.default_rng(SEED)
    correct = np.zeros((len(predictions), rounds, k))
    predicted = np.zeros((len(predictions), rounds, k))
    for label in np.unique(labels):
        cells, sizes = np.unique(predictions[:, labels == label], axis=1, return_counts=True)
        total = sizes.sum()
        step = max(1, _DRAWS_PER_BATCH // len(sizes))
        for start in range(0, rounds, step):
            part = slice(start, min(start + step, rounds))
            size = part.stop - part.start
            draws = generator.multinomial(total, sizes / total, size).astype(np.float64)
            for model, classes in enumerate(cells):
                correct[model, part, label] = draws[:, classes == label].sum(1)
                predicted[model, part] += draws @ np.eye(k)[classes]
    return Counts(correct, predicted, np.bincount(labels, minlength=k))


def drawn_units(groups: int | None) -> str:
    """Return what a bootstrap draws: ``images``, or for instance ``40 persons``."""
    return "images" if groups is None else f"{groups} persons"


def interval(values: np.ndarray) -> list[float]:
    """Return the 2.5 and 97.5 percentiles of bootstrap values (rounds,)."""
    return np.quantile(values, (ALPHA / 2, 1 - ALPHA / 2)).tolist()


def _spread(values: np.ndarray) -> list[float] | None:
    """Return the interval of bootstrap values, None if all draws are equal."""
    low, high = interval(values)
    return [low, high] if high > low else None


def wilson(correct: int, n: int) -> list[float]:
    """Return the Wilson interval of a fraction (Wilson 1927); its width is never 0."""
    ci = stats.binomtest(correct, n).proportion_ci(1 - ALPHA, method="wilson")
    return [float(ci.low), float(ci.high)]


def intervals(
    labels: np.ndarray,
    predicted: np.ndarray,
    k: int,
    rounds: int = ROUNDS,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Return scores with 95 % percentile intervals of the bootstrap, stratified without groups.

    The intervals cover the choice of images, not the training seed. If all draws are equal (no
    error at all, or a single predicted class), accuracy has Wilson's interval and F1 has none.

    Returns:
        ``n``, ``groups`` (their number, None without), ``accuracy``, ``accuracy_ci95``
        ([low, high]), ``macro_f1``, ``macro_f1_ci95``, and by class ``f1`` and ``f1_ci95``, lists
        of K with None for a class without samples or an interval without width.
    """
    observed = count(labels, predicted, k)
    samples = resample(labels, predicted[None], k, rounds, groups)
    present = observed.support > 0
    f1, f1_samples = observed.f1, samples.f1[0]
    return {
        "n": len(labels),
        "groups": None if groups is None else len(set(groups)),
        "accuracy": float(observed.accuracy),
        "accuracy_ci95": _spread(samples.accuracy[0])
        or wilson(int(observed.correct.sum()), len(labels)),
        "macro_f1": float(observed.macro_f1),
        "macro_f1_ci95": _spread(samples.macro_f1[0]),
        "f1": [float(f1[i]) if present[i] else None for i in range(k)],
        "f1_ci95": [_spread(f1_samples[:, i]) if present[i] else None for i in range(k)],
    }


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p value of McNemar's exact test.

    Null hypothesis: a row on which exactly one model is right is right for either with p = 0.5.

    Args:
        only_a: Number of rows on which only a is right.
        only_b: Number of rows on which only b is right.
    """
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_b, only_a + only_b, 0.5).pvalue)


def verdict(difference: Sequence[float], p: float | None = None) -> str:
    """Return "better", "worse" or "not distinguishable" for a difference [low, high].

    A difference needs a 95 % interval without 0 and, if given, a p value of McNemar's test below
    0.05. Both usually agree. They differ if the models disagree on few rows: the percentile
    interval is then too narrow, while the exact test keeps its level; the test ignores classes and
    the size of the difference. Requiring both keeps the false positive rate below 5 %.
    """
    low, high = difference
    if p is not None and p >= ALPHA:
        return SAME
    return BETTER if low > 0 else WORSE if high < 0 else SAME


def _differences(
    accuracy: tuple[float, list[float]],
    macro_f1: tuple[float, list[float]],
    f1: np.ndarray,
    f1_ci95: list[list[float]],
    support: np.ndarray,
) -> dict[str, Any]:
    """Return differences with their intervals; F1 is None for classes without samples."""
    return {
        "accuracy": accuracy[0],
        "accuracy_ci95": accuracy[1],
        "macro_f1": macro_f1[0],
        "macro_f1_ci95": macro_f1[1],
        "f1": [float(x) if n else None for x, n in zip(f1, support, strict=True)],
        "f1_ci95": [ci if n else None for ci, n in zip(f1_ci95, support, strict=True)],
    }


def paired(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    k: int,
    rounds: int = ROUNDS,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Compare two models on the same rows; every difference is b - a.

    Returns:
        ``accuracy`` and ``accuracy_ci95``, ``macro_f1`` and ``macro_f1_ci95``, by class ``f1`` and
        ``f1_ci95`` (None without samples), ``only_a_right``, ``only_b_right``, ``mcnemar_p``;
        ``verdict`` for the accuracy of b. ``macro_f1_verdict`` uses the interval alone, because
        McNemar's test applies to accuracy only; it needs six rows on which the models differ. With
        groups ``mcnemar_p`` is None, because that test needs independent images.
    """
    observed = [count(labels, predicted, k) for predicted in (a, b)]
    samples = resample(labels, np.stack([a, b]), k, rounds, groups)
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((b == labels) & (a != labels)).sum())
    p = mcnemar(only_a, only_b) if groups is None else None
    accuracy = interval(samples.accuracy[1] - samples.accuracy[0])
    macro_f1 = interval(samples.macro_f1[1] - samples.macro_f1[0])
    f1 = samples.f1[1] - samples.f1[0]
    return {
        **_differences(
            (float(observed[1].accuracy - observed[0].accuracy), accuracy),
            (float(observed[1].macro_f1 - observed[0].macro_f1), macro_f1),
            observed[1].f1 - observed[0].f1,
            [interval(f1[:, i]) for i in range(k)],
            observed[0].support,
        ),
        "only_a_right": only_a,
        "only_b_right": only_b,
        "mcnemar_p": p,
        "verdict": verdict(accuracy, p),
        # With fewer than six rows no exact paired test can reach 5 %.
        "macro_f1_verdict": verdict(macro_f1) if int((a != b).sum()) >= 6 else SAME,
    }


def mean_std(values: Sequence[float]) -> dict[str, Any]:
    """Return ``n``, ``mean``, ``std`` (sample, n - 1; None for one value), ``min`` and ``max``."""
    array = np.asarray(values, dtype=np.float64)
    return {
        "n": len(array),
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else None,
        "min": float(array.min()),
        "max": float(array.max()),
    }


def mean_std_text(over_seeds: dict[str, Any]) -> str:
    """Return ``0.6512 ± 0.0031`` for a result of :func:`mean_std`, without ± for one value."""
    mean, std = over_seeds["mean"], over_seeds["std"]
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def interval_text(ends: Sequence[float] | None, sign: str = "") -> str:
    """Return ``[0.6512, 0.6704]``; ``sign`` is ``+`` for differences."""
    if ends is None:  # all bootstrap samples have the same value
        return "[no spread]"
    return f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]"


def _widened(mean: float, rows: list[float], over_seeds: np.ndarray) -> list[float]:
    """Return the interval of a mean over seeds, from the bootstrap and the t interval of the seeds.

    Both are independent: their half-widths add in quadrature. The result is clipped to -1..1.
    """
    size = len(over_seeds)
    spread = over_seeds.std(ddof=1) / np.sqrt(size)
    seeds = stats.t.ppf(1 - ALPHA / 2, size - 1) * spread
    below, above = (np.hypot(end - mean, seeds) for end in rows)
    return [float(max(mean - below, -1)), float(min(mean + above, 1))]


def paired_seeds(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, k: int, groups: Groups | None = None
) -> dict[str, Any]:
    """Compare two training configurations over the same seeds; every difference is b - a.

    The mean difference varies with the images and with the seeds. Its interval combines the paired
    bootstrap of the mean difference (the same rows for all runs) with Student's t interval of the
    differences over seeds, which is wide for two or three seeds. McNemar's test is not used: it
    compares two fixed models, not configurations.

    Args:
        a: Classes predicted by the runs of a, int64 (S, N), S at least 2.
        b: Classes predicted by the runs of b, in the same order of seeds.

    Returns:
        ``accuracy``, ``macro_f1`` (means of the differences), their ``..._ci95``, by class ``f1``
        and ``f1_ci95`` (None without samples), ``verdict``, ``macro_f1_verdict``.
    """
    size = len(a)
    observed = [[count(labels, row, k) for row in side] for side in (a, b)]
    samples = resample(labels, np.concatenate([a, b]), k, groups=groups)

    def differences(name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (differences per seed (S, ...), bootstrap draws of their mean (rounds, ...))."""
        seeds = [getattr(y, name) - getattr(x, name) for x, y in zip(*observed, strict=True)]
        values = getattr(samples, name)
        return np.array(seeds), values[size:].mean(0) - values[:size].mean(0)

    def mean_of(seeds: np.ndarray, draws: np.ndarray) -> tuple[float, list[float]]:
        mean = float(seeds.mean())
        return mean, _widened(mean, interval(draws), seeds)

    accuracy = mean_of(*differences("accuracy"))
    macro_f1 = mean_of(*differences("macro_f1"))
    seeds, draws = differences("f1")
    f1 = [mean_of(seeds[:, i], draws[:, i])[1] for i in range(k)]
    return {
        **_differences(accuracy, macro_f1, seeds.mean(0), f1, observed[0][0].support),
        "verdict": verdict(accuracy[1]),
        "macro_f1_verdict": verdict(macro_f1[1]),
    }
