"""Intervals and verdicts, compared with a row bootstrap, scikit-learn and manual sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation import statistics
from emotion_lab.evaluation.statistics import (
    SAME,
    WORSE,
    count,
    intervals,
    mcnemar,
    mean_std,
    paired,
    paired_seeds,
    resample,
    verdict,
)
from emotion_lab.training.metrics import scalar_metrics


def guesses(labels: np.ndarray, right: float, seed: int, k: int = 4) -> np.ndarray:
    """Return predictions that are right with a given probability, else any class."""
    generator = np.random.default_rng(seed)
    wild = generator.integers(0, k, len(labels))
    return np.where(generator.random(len(labels)) < right, labels, wild)


LABELS = np.repeat([0, 1, 2, 3], [90, 12, 60, 38])


@pytest.mark.parametrize("case", ["all", "absent", "absent but predicted", "never predicted"])
def test_scores_match_scikit_learn_and_torchmetrics(case: str) -> None:
    labels = LABELS[LABELS != 1] if "absent" in case else LABELS
    predicted = guesses(labels, 0.6, 0)
    if case in ("absent", "never predicted"):
        predicted[predicted == 1] = 0
    result = count(labels, predicted, 4)
    assert result.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    expected = metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert result.macro_f1 == pytest.approx(expected, abs=1e-12)
    one_by_one = metrics.f1_score(labels, predicted, average=None, labels=range(4), zero_division=0)
    np.testing.assert_allclose(result.f1, one_by_one, atol=1e-12)
    actual = scalar_metrics(4)(torch.from_numpy(predicted), torch.from_numpy(labels))
    assert result.macro_f1 == pytest.approx(float(actual["macro_f1"]), abs=1e-6)
    assert result.accuracy == pytest.approx(float(actual["accuracy"]), abs=1e-6)


def test_empty_predictions() -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(UserError, match="split is empty"):
        intervals(empty, empty, 3)


def slow(labels: np.ndarray, predictions: np.ndarray, k: int, rounds: int) -> statistics.Counts:
    """Stratified bootstrap of row indices, the reference implementation."""
    generator = np.random.default_rng(99)
    correct, predicted = [], []
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(rounds):
        rows = np.concatenate([generator.choice(s, len(s)) for s in strata])
        drawn = [count(labels[rows], row[rows], k) for row in predictions]
        correct.append([c.correct for c in drawn])
        predicted.append([c.predicted for c in drawn])
    swap = (1, 0, 2)
    return statistics.Counts(
        np.array(correct).transpose(swap),
        np.array(predicted).transpose(swap),
        np.bincount(labels, minlength=k),
    )


def test_multinomial_bootstrap_equals_row_bootstrap() -> None:
    """Limits, spread and correlation of both bootstraps agree."""
    predictions = np.stack([guesses(LABELS, 0.6, 0), guesses(LABELS, 0.7, 1)])
    fast, direct = resample(LABELS, predictions, 4, 6000), slow(LABELS, predictions, 4, 6000)
    for name in ("accuracy", "macro_f1"):
        actual, expected = getattr(fast, name), getattr(direct, name)
        assert actual.shape == expected.shape == (2, 6000)
        np.testing.assert_allclose(actual.mean(1), expected.mean(1), atol=0.002)
        np.testing.assert_allclose(actual.std(1), expected.std(1), rtol=0.05)
        ends = (0.025, 0.975)
        actual_ends, expected_ends = np.quantile(actual, ends, 1), np.quantile(expected, ends, 1)
        np.testing.assert_allclose(actual_ends, expected_ends, atol=0.006)
        difference = [np.quantile(x[1] - x[0], ends) for x in (actual, expected)]
        np.testing.assert_allclose(*difference, atol=0.008)
        assert np.corrcoef(actual)[0, 1] == pytest.approx(np.corrcoef(expected)[0, 1], abs=0.05)
    np.testing.assert_allclose(fast.f1.std(1), direct.f1.std(1), rtol=0.08)


def test_bootstrap_is_stratified() -> None:
    predictions = np.stack([guesses(LABELS, 0.5, 0), LABELS])
    drawn = resample(LABELS, predictions, 4, 50)
    assert (drawn.predicted.sum(-1) == len(LABELS)).all()
    np.testing.assert_array_equal(drawn.support, [90, 12, 60, 38])
    # The second model is always right, whatever is drawn.
    assert (drawn.correct[1] == drawn.support).all() and (drawn.macro_f1[1] == 1).all()


def test_batched_draws_have_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = guesses(LABELS, 0.6, 0)[None]
    expected = resample(LABELS, predictions, 4, 500).accuracy
    monkeypatch.setattr(statistics, "_DRAWS_PER_BATCH", 64)
    pieces = resample(LABELS, predictions, 4, 500).accuracy
    assert pieces.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert pieces.std() == pytest.approx(expected.std(), rel=0.2)


def test_accuracy_interval_matches_the_binomial() -> None:
    """Two strata with known accuracy: the variance is that of two binomials."""
    labels = np.repeat([0, 1], [600, 400])
    predicted = labels.copy()
    predicted[:150] = 1  # 75 % of class 0, all of class 1
    result = intervals(labels, predicted, 2, rounds=20000)
    spread = np.sqrt(600 * 0.75 * 0.25) / 1000
    low, high = result["accuracy_ci95"]
    assert result["accuracy"] == pytest.approx(0.85)
    assert (low, high) == pytest.approx((0.85 - 1.96 * spread, 0.85 + 1.96 * spread), abs=0.0012)


def test_intervals() -> None:
    predicted = guesses(LABELS, 0.6, 0)
    result = intervals(LABELS, predicted, 5)
    assert result == intervals(LABELS, predicted, 5), "the same seed draws the same"
    for name in ("accuracy", "macro_f1"):
        low, high = result[f"{name}_ci95"]
        assert low < result[name] < high
    assert result["n"] == 200
    assert result["f1"][4] is None and result["f1_ci95"][4] is None, "class 4 has no samples"
    for value, (low, high) in zip(result["f1"][:4], result["f1_ci95"][:4], strict=True):
        assert low < value < high
    # Rare classes are less certain.
    width = [high - low for low, high in result["f1_ci95"][:4]]
    assert width[1] == max(width) and width[0] == min(width)


@pytest.mark.parametrize("n", [100, 400])
def test_intervals_cover_the_truth(n: int) -> None:
    """About 95 % of the intervals of 300 random splits contain the true value."""
    held = 0
    for seed in range(300):
        labels = np.repeat([0, 1], n // 2)
        generator = np.random.default_rng(seed)
        right = generator.random(n) < np.where(labels == 0, 0.8, 0.6)
        low, high = intervals(labels, np.where(right, labels, 1 - labels), 2, 400)["accuracy_ci95"]
        held += low <= 0.7 <= high
    assert 0.90 <= held / 300 <= 0.985


def test_mcnemar() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)
    # Large counts: the chi-square form with continuity correction is near.
    statistic = (abs(120 - 80) - 1) ** 2 / 200
    assert mcnemar(120, 80) == pytest.approx(stats.chi2.sf(statistic, 1), abs=5e-4)


def test_verdicts() -> None:
    assert verdict([0.01, 0.03]) == verdict([0.01, 0.03], 0.049) == "better"
    assert verdict([-0.03, -0.01]) == "worse"
    assert verdict([-0.01, 0.03]) == verdict([0.0, 0.03]) == SAME, "0 itself is not excluded"
    assert verdict([0.01, 0.03], 0.05) == verdict([-0.03, -0.01], 0.2) == SAME


def test_five_rows_are_not_distinguishable() -> None:
    """Five rows favour b: the bootstrap excludes 0, the exact test (p = 1/16) does not."""
    labels = np.zeros(200, dtype=np.int64)
    labels[100:] = 1
    a, b = labels.copy(), labels.copy()
    a[:5] = 1
    result = paired(labels, a, b, 2)
    assert result["accuracy"] == pytest.approx(0.025)
    assert result["accuracy_ci95"][0] > 0
    assert result["mcnemar_p"] == pytest.approx(1 / 16)
    assert result["verdict"] == "not distinguishable"
    a[5] = 1
    assert paired(labels, a, b, 2)["verdict"] == "better"


def test_paired() -> None:
    a, b = guesses(LABELS, 0.4, 0), guesses(LABELS, 0.8, 1)
    result = paired(LABELS, a, b, 5)
    assert result["verdict"] == result["macro_f1_verdict"] == "better"
    score = metrics.accuracy_score
    assert result["accuracy"] == pytest.approx(score(LABELS, b) - score(LABELS, a))
    f1 = [metrics.f1_score(LABELS, x, average="macro") for x in (a, b)]
    assert result["macro_f1"] == pytest.approx(f1[1] - f1[0])
    assert result["only_b_right"] - result["only_a_right"] == round(200 * result["accuracy"])
    assert result["f1"][4] is None and result["f1_ci95"][4] is None
    other = paired(LABELS, b, a, 5)
    assert other["verdict"] == "worse" and other["mcnemar_p"] == result["mcnemar_p"]
    np.testing.assert_allclose(other["accuracy_ci95"][::-1], -np.array(result["accuracy_ci95"]),
                               atol=0.01)  # fmt: skip


def test_pairing_matters() -> None:
    """b corrects ten errors of a: separate intervals overlap, the paired one excludes 0."""
    a = guesses(LABELS, 0.5, 0)
    b = a.copy()
    wrong = np.flatnonzero(a != LABELS)[:10]
    b[wrong] = LABELS[wrong]
    result = paired(LABELS, a, b, 4)
    assert result["verdict"] == "better"
    alone = [intervals(LABELS, x, 4)["accuracy_ci95"] for x in (a, b)]
    assert alone[0][1] > alone[1][0], "the intervals overlap"


def test_the_same_model_twice() -> None:
    a = guesses(LABELS, 0.6, 0)
    result = paired(LABELS, a, a, 4)
    assert result["accuracy"] == 0 and result["accuracy_ci95"] == [0, 0]
    assert result["verdict"] == result["macro_f1_verdict"] == "not distinguishable"


def test_false_positive_rate() -> None:
    """Two equally good models differ in at most 5 % of the splits (plus noise)."""
    alarms = 0
    for seed in range(200):
        a, b = guesses(LABELS, 0.6, 2 * seed), guesses(LABELS, 0.6, 2 * seed + 1)
        alarms += paired(LABELS, a, b, 4, rounds=300)["verdict"] != "not distinguishable"
    assert alarms <= 16


def test_mean_std() -> None:
    result = mean_std([0.5, 0.6, 0.7])
    assert result == pytest.approx({"n": 3, "mean": 0.6, "std": 0.1, "min": 0.5, "max": 0.7})
    assert mean_std([0.5]) == {"n": 1, "mean": 0.5, "std": None, "min": 0.5, "max": 0.5}


def test_paired_seeds() -> None:
    labels = np.repeat([0, 1], 500)

    def model(wrong: int, shift: int) -> np.ndarray:
        predicted = labels.copy()
        rows = (np.arange(wrong) * 7 + shift) % 1000
        predicted[rows] = 1 - predicted[rows]
        return predicted

    a = np.stack([model(300, 0), model(300, 11), model(300, 23)])
    b = np.stack([model(290, 400), model(270, 500), model(250, 600)])
    result = paired_seeds(labels, a, b, 2)
    assert result["accuracy"] == pytest.approx(0.03)
    # By hand: the differences are 0.01, 0.03, 0.05; t for 2 degrees of freedom.
    seeds = 4.302653 * 0.02 / np.sqrt(3)
    drawn = resample(labels, np.concatenate([a, b]), 2)
    rows = np.quantile(drawn.accuracy[3:].mean(0) - drawn.accuracy[:3].mean(0), (0.025, 0.975))
    low, high = result["accuracy_ci95"]
    assert 0.03 - low == pytest.approx(np.hypot(0.03 - rows[0], seeds), abs=1e-6)
    assert high - 0.03 == pytest.approx(np.hypot(rows[1] - 0.03, seeds), abs=1e-6)
    assert result["verdict"] == "not distinguishable"
    # Seeds that agree leave the doubt about the rows.
    same = paired_seeds(labels, a[[0, 0]], b[[0, 0]], 2)
    alone = paired(labels, a[0], b[0], 2)
    np.testing.assert_allclose(same["accuracy_ci95"], alone["accuracy_ci95"], atol=1e-9)
    clear = paired_seeds(labels, b, np.stack([labels] * 3), 3)
    assert clear["verdict"] == clear["macro_f1_verdict"] == "better"
    assert clear["f1"][2] is None and clear["f1_ci95"][2] is None


def test_intervals_without_spread() -> None:
    """A model without errors, and a model that predicts one class."""
    labels = np.arange(24) % 4
    result = intervals(labels, labels, 4)
    assert result["accuracy_ci95"] == pytest.approx([0.862, 1.0], abs=1e-3)
    assert result["macro_f1_ci95"] is None and result["f1_ci95"] == [None] * 4
    constant = intervals(labels, np.zeros(24, np.int64), 4)
    assert constant["accuracy_ci95"] == pytest.approx([0.120, 0.449], abs=1e-3)


def test_one_image_gives_no_f1_verdict() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 200)
    a = np.where(generator.random(200) < 0.7, labels, (labels + 1) % 4)
    b = a.copy()
    right = np.flatnonzero(a == labels)[:5]
    b[right] = (labels[right] + 1) % 4
    assert paired(labels, a, b, 4)["macro_f1_verdict"] == SAME
    right = np.flatnonzero(a == labels)[:40]
    b[right] = (labels[right] + 1) % 4
    assert paired(labels, a, b, 4)["macro_f1_verdict"] == WORSE


def test_groups_are_drawn_as_a_whole() -> None:
    """Copies of every image by the same person do not narrow an interval over persons."""
    predicted = guesses(LABELS, 0.7, 0)
    single = intervals(LABELS, predicted, 4, groups=np.arange(len(LABELS)))
    labels, copies = np.repeat(LABELS, 10), np.repeat(predicted, 10)
    people = np.repeat(np.arange(len(LABELS)), 10)
    grouped, naive = intervals(labels, copies, 4, groups=people), intervals(labels, copies, 4)
    width, naive_width = (np.ptp(values["accuracy_ci95"]) for values in (grouped, naive))
    assert grouped["accuracy_ci95"] == single["accuracy_ci95"]
    assert grouped["groups"] == len(LABELS) and naive["groups"] is None
    assert width > 2.5 * naive_width


def test_group_bootstrap_is_that_of_drawn_rows() -> None:
    """The same distribution as concatenating the rows of drawn groups."""
    predicted, people = guesses(LABELS, 0.6, 1), np.arange(len(LABELS)) % 12
    generator, scores = np.random.default_rng(5), []
    for _ in range(1500):
        rows = np.concatenate(
            [np.flatnonzero(people == person) for person in generator.integers(0, 12, 12)]
        )
        scores.append(metrics.f1_score(LABELS[rows], predicted[rows], average="macro"))
    expected = np.quantile(scores, (0.025, 0.975))
    values = intervals(LABELS, predicted, 4, groups=[f"p{person}" for person in people])
    np.testing.assert_allclose(values["macro_f1_ci95"], expected, atol=0.015)


def test_paired_groups_have_no_mcnemar_p() -> None:
    a, b = guesses(LABELS, 0.5, 0), guesses(LABELS, 0.8, 1)
    people = np.arange(len(LABELS)) % 40
    values = paired(LABELS, a, b, 4, groups=people)
    assert values["mcnemar_p"] is None and values["verdict"] == "better"
    seeds = paired_seeds(LABELS, np.stack([a, a]), np.stack([b, b]), 4, groups=people)
    assert seeds["accuracy"] == values["accuracy"] and seeds["verdict"] == "better"
