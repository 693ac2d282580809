"""Intervals and verdicts, held against drawing rows one by one, scikit-learn and sums by hand."""

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


# --- scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["all", "absent", "absent but predicted", "never predicted"])
def test_scores_are_scikit_learns_and_torchmetrics(case: str) -> None:
    labels = LABELS[LABELS != 1] if "absent" in case else LABELS
    predicted = guesses(labels, 0.6, 0)
    if case in ("absent", "never predicted"):
        predicted[predicted == 1] = 0
    found = count(labels, predicted, 4)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-12)
    theirs = metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(theirs, abs=1e-12)
    one_by_one = metrics.f1_score(labels, predicted, average=None, labels=range(4), zero_division=0)
    np.testing.assert_allclose(found.f1, one_by_one, atol=1e-12)
    ours = scalar_metrics(4)(torch.from_numpy(predicted), torch.from_numpy(labels))
    assert found.macro_f1 == pytest.approx(float(ours["macro_f1"]), abs=1e-6)
    assert found.accuracy == pytest.approx(float(ours["accuracy"]), abs=1e-6)


def test_no_predictions_no_score() -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(UserError, match="split is empty"):
        intervals(empty, empty, 3)


# --- bootstrap ------------------------------------------------------------------------------


def slow(labels: np.ndarray, predictions: np.ndarray, k: int, rounds: int) -> statistics.Counts:
    """Draw row numbers within each class, and count: the plain stratified bootstrap."""
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


def test_drawing_cells_is_drawing_rows() -> None:
    """Ends, spread and correlation of the two bootstraps agree."""
    predictions = np.stack([guesses(LABELS, 0.6, 0), guesses(LABELS, 0.7, 1)])
    fast, direct = resample(LABELS, predictions, 4, 6000), slow(LABELS, predictions, 4, 6000)
    for name in ("accuracy", "macro_f1"):
        ours, theirs = getattr(fast, name), getattr(direct, name)
        assert ours.shape == theirs.shape == (2, 6000)
        np.testing.assert_allclose(ours.mean(1), theirs.mean(1), atol=0.002)
        np.testing.assert_allclose(ours.std(1), theirs.std(1), rtol=0.05)
        ends = (0.025, 0.975)
        ours_ends, theirs_ends = np.quantile(ours, ends, 1), np.quantile(theirs, ends, 1)
        np.testing.assert_allclose(ours_ends, theirs_ends, atol=0.006)
        difference = [np.quantile(x[1] - x[0], ends) for x in (ours, theirs)]
        np.testing.assert_allclose(*difference, atol=0.008)
        assert np.corrcoef(ours)[0, 1] == pytest.approx(np.corrcoef(theirs)[0, 1], abs=0.05)
    np.testing.assert_allclose(fast.f1.std(1), direct.f1.std(1), rtol=0.08)


def test_every_draw_keeps_the_classes() -> None:
    predictions = np.stack([guesses(LABELS, 0.5, 0), LABELS])
    drawn = resample(LABELS, predictions, 4, 50)
    assert (drawn.predicted.sum(-1) == len(LABELS)).all()
    np.testing.assert_array_equal(drawn.support, [90, 12, 60, 38])
    # The second model is always right, whatever is drawn.
    assert (drawn.correct[1] == drawn.support).all() and (drawn.macro_f1[1] == 1).all()


def test_small_pieces_draw_the_same_sort_of_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = guesses(LABELS, 0.6, 0)[None]
    whole = resample(LABELS, predictions, 4, 500).accuracy
    monkeypatch.setattr(statistics, "_DRAWS_PER_BATCH", 64)
    pieces = resample(LABELS, predictions, 4, 500).accuracy
    assert pieces.mean() == pytest.approx(whole.mean(), abs=0.01)
    assert pieces.std() == pytest.approx(whole.std(), rel=0.2)


def test_accuracy_interval_is_the_binomial_one() -> None:
    """Two strata, known shares: the variance of the mean is that of two binomials."""
    labels = np.repeat([0, 1], [600, 400])
    predicted = labels.copy()
    predicted[:150] = 1  # 75 % of class 0, all of class 1
    found = intervals(labels, predicted, 2, rounds=20000)
    spread = np.sqrt(600 * 0.75 * 0.25) / 1000
    low, high = found["accuracy_ci95"]
    assert found["accuracy"] == pytest.approx(0.85)
    assert (low, high) == pytest.approx((0.85 - 1.96 * spread, 0.85 + 1.96 * spread), abs=0.0012)


def test_intervals() -> None:
    predicted = guesses(LABELS, 0.6, 0)
    found = intervals(LABELS, predicted, 5)
    assert found == intervals(LABELS, predicted, 5), "the same seed draws the same"
    assert found != intervals(LABELS, predicted, 5, seed=1)
    for name in ("accuracy", "macro_f1"):
        low, high = found[f"{name}_ci95"]
        assert low < found[name] < high
    assert found["n"] == 200
    assert found["f1"][4] is None and found["f1_ci95"][4] is None, "class 4 has no samples"
    for value, (low, high) in zip(found["f1"][:4], found["f1_ci95"][:4], strict=True):
        assert low < value < high
    # Rare classes are less certain.
    width = [high - low for low, high in found["f1_ci95"][:4]]
    assert width[1] == max(width) and width[0] == min(width)


@pytest.mark.parametrize("n", [100, 400])
def test_intervals_cover_the_truth(n: int) -> None:
    """Of 300 splits drawn from a known truth, about 95 % of the intervals hold it."""
    held = 0
    for seed in range(300):
        labels = np.repeat([0, 1], n // 2)
        generator = np.random.default_rng(seed)
        right = generator.random(n) < np.where(labels == 0, 0.8, 0.6)
        low, high = intervals(labels, np.where(right, labels, 1 - labels), 2, 400)["accuracy_ci95"]
        held += low <= 0.7 <= high
    assert 0.90 <= held / 300 <= 0.985


# --- two models -----------------------------------------------------------------------------


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
    assert verdict([0.01, 0.03]) == "better"
    assert verdict([-0.03, -0.01]) == "worse"
    assert verdict([-0.01, 0.03]) == "not distinguishable"
    assert verdict([0.0, 0.03]) == "not distinguishable", "0 itself is not excluded"
    assert verdict([0.01, 0.03], 0.049) == "better"
    assert verdict([0.01, 0.03], 0.05) == "not distinguishable"
    assert verdict([-0.03, -0.01], 0.2) == "not distinguishable"


def test_five_rows_are_no_victory() -> None:
    """All five that differ speak for b: the bootstrap is sure, the exact test (1/16) is not."""
    labels = np.zeros(200, dtype=np.int64)
    labels[100:] = 1
    a, b = labels.copy(), labels.copy()
    a[:5] = 1
    found = paired(labels, a, b, 2)
    assert found["accuracy"] == pytest.approx(0.025)
    assert found["accuracy_ci95"][0] > 0
    assert found["mcnemar_p"] == pytest.approx(1 / 16)
    assert found["verdict"] == "not distinguishable"
    a[5] = 1
    assert paired(labels, a, b, 2)["verdict"] == "better"


def test_paired() -> None:
    a, b = guesses(LABELS, 0.4, 0), guesses(LABELS, 0.8, 1)
    found = paired(LABELS, a, b, 5)
    assert found["verdict"] == found["macro_f1_verdict"] == "better"
    score = metrics.accuracy_score
    assert found["accuracy"] == pytest.approx(score(LABELS, b) - score(LABELS, a))
    f1 = [metrics.f1_score(LABELS, x, average="macro") for x in (a, b)]
    assert found["macro_f1"] == pytest.approx(f1[1] - f1[0])
    assert found["only_b_right"] - found["only_a_right"] == round(200 * found["accuracy"])
    assert found["f1"][4] is None and found["f1_ci95"][4] is None
    other = paired(LABELS, b, a, 5)
    assert other["verdict"] == "worse" and other["mcnemar_p"] == found["mcnemar_p"]
    np.testing.assert_allclose(other["accuracy_ci95"][::-1], -np.array(found["accuracy_ci95"]),
                               atol=0.01)  # fmt: skip


def test_pairing_matters() -> None:
    """b corrects ten of a's mistakes: too little for two separate intervals, enough for pairs."""
    a = guesses(LABELS, 0.5, 0)
    b = a.copy()
    wrong = np.flatnonzero(a != LABELS)[:10]
    b[wrong] = LABELS[wrong]
    found = paired(LABELS, a, b, 4)
    assert found["verdict"] == "better"
    alone = [intervals(LABELS, x, 4)["accuracy_ci95"] for x in (a, b)]
    assert alone[0][1] > alone[1][0], "the intervals overlap"


def test_the_same_model_twice() -> None:
    a = guesses(LABELS, 0.6, 0)
    found = paired(LABELS, a, a, 4)
    assert found["accuracy"] == 0 and found["accuracy_ci95"] == [0, 0]
    assert found["verdict"] == found["macro_f1_verdict"] == "not distinguishable"


def test_false_alarms_are_few() -> None:
    """Two equally good models are told apart in at most 5 % of the splits, and a little noise."""
    alarms = 0
    for seed in range(200):
        a, b = guesses(LABELS, 0.6, 2 * seed), guesses(LABELS, 0.6, 2 * seed + 1)
        alarms += paired(LABELS, a, b, 4, rounds=300)["verdict"] != "not distinguishable"
    assert alarms <= 16


# --- several seeds --------------------------------------------------------------------------


def test_several() -> None:
    found = mean_std([0.5, 0.6, 0.7])
    assert found == pytest.approx({"n": 3, "mean": 0.6, "std": 0.1, "min": 0.5, "max": 0.7})
    assert mean_std([0.5]) == {"n": 1, "mean": 0.5, "std": None, "min": 0.5, "max": 0.5}


def test_seeds_join_both_doubts() -> None:
    labels = np.repeat([0, 1], 500)

    def model(wrong: int, shift: int) -> np.ndarray:
        predicted = labels.copy()
        rows = (np.arange(wrong) * 7 + shift) % 1000
        predicted[rows] = 1 - predicted[rows]
        return predicted

    a = np.stack([model(300, 0), model(300, 11), model(300, 23)])
    b = np.stack([model(290, 400), model(270, 500), model(250, 600)])
    found = paired_seeds(labels, a, b, 2)
    assert found["accuracy"] == pytest.approx(0.03)
    # By hand: the differences are 0.01, 0.03, 0.05; t for 2 degrees of freedom.
    seeds = 4.302653 * 0.02 / np.sqrt(3)
    drawn = resample(labels, np.concatenate([a, b]), 2)
    rows = np.quantile(drawn.accuracy[3:].mean(0) - drawn.accuracy[:3].mean(0), (0.025, 0.975))
    low, high = found["accuracy_ci95"]
    assert 0.03 - low == pytest.approx(np.hypot(0.03 - rows[0], seeds), abs=1e-6)
    assert high - 0.03 == pytest.approx(np.hypot(rows[1] - 0.03, seeds), abs=1e-6)
    assert found["verdict"] == "not distinguishable"
    # Seeds that agree leave the doubt about the rows.
    same = paired_seeds(labels, a[[0, 0]], b[[0, 0]], 2)
    alone = paired(labels, a[0], b[0], 2)
    np.testing.assert_allclose(same["accuracy_ci95"], alone["accuracy_ci95"], atol=1e-9)
    clear = paired_seeds(labels, b, np.stack([labels] * 3), 3)
    assert clear["verdict"] == clear["macro_f1_verdict"] == "better"
    assert clear["f1"][2] is None and clear["f1_ci95"][2] is None


def test_no_spread_is_not_certainty() -> None:
    """A model without a mistake, and one that always says the same."""
    labels = np.arange(24) % 4
    found = intervals(labels, labels, 4)
    assert found["accuracy_ci95"] == pytest.approx([0.862, 1.0], abs=1e-3)
    assert found["macro_f1_ci95"] is None and found["f1_ci95"] == [None] * 4
    constant = intervals(labels, np.zeros(24, np.int64), 4)
    assert constant["accuracy_ci95"] == pytest.approx([0.120, 0.449], abs=1e-3)


def test_one_image_is_no_verdict_on_f1() -> None:
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
