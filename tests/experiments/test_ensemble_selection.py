"""The greedy selection, its scores, and the estimate of what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support

from emotion_lab.config import schema
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.ensemble.selection import (
    METRICS,
    counts,
    greedy,
    halves,
    mix,
    nested,
    nll,
    score,
)

K = 4


def library(strengths: tuple[float, ...], n: int = 400, seed: int = 0):
    """Return (probabilities (M, N, K), labels) of members that know more or less."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(K, n, p=(0.4, 0.3, 0.2, 0.1))
    given = generator.dirichlet(np.ones(K), (len(strengths), n))
    given[:, np.arange(n), labels] += np.array(strengths)[:, None]
    return given / given.sum(-1, keepdims=True), labels


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_scikit_learn(metric: str) -> None:
    given, labels = library((0.0, 0.2, 0.5))
    given[2, :, 3] = 0  # a class that is never said
    given /= given.sum(-1, keepdims=True)
    found = score(7 * given, labels, metric)
    for value, one in zip(found, given, strict=True):
        said = one.argmax(1)
        if metric == "loss":
            expected = -log_loss(labels, np.maximum(one, 1e-12), labels=range(K))
        elif metric == "accuracy":
            expected = accuracy_score(labels, said)
        else:
            average, name = metric.split("_")
            three = precision_recall_fscore_support(labels, said, average=average, zero_division=0)
            expected = three[("precision", "recall", "f1").index(name)]
        assert value == pytest.approx(expected, abs=1e-9)


def test_macro_leaves_out_what_neither_occurs_nor_is_said() -> None:
    labels = np.array([0, 0, 1, 1])
    one = np.eye(K)[[0, 1, 1, 1]][None]
    assert score(one, labels, "macro_f1")[0] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_what_can_be_asked_for_is_what_there_is() -> None:
    for name in (*METRICS, "monitor"):
        schema.check_value("metric", name, "ensemble")
    with pytest.raises(UserError, match="metric=f1 is not valid"):
        schema.check_value("metric", "f1", "ensemble")


@pytest.mark.parametrize("metric", ["loss", "accuracy", "macro_f1"])
def test_each_step_is_the_best_there_is(metric: str) -> None:
    given, labels = library((0.1, 0.25, 0.3, 0.28, 0.0))
    steps = greedy(given, labels, metric, 6)
    chosen: list[int] = []
    for step in steps:
        values = [
            score(mix(given, counts_of([*chosen, i], 5))[None], labels, metric)[0] for i in range(5)
        ]
        assert step.score == pytest.approx(max(values), abs=1e-9)
        assert values[step.member] == pytest.approx(max(values), abs=1e-9)
        chosen.append(step.member)
    path = [step.score for step in steps]
    assert path == sorted(path) and len(set(path)) == len(path) > 1
    if len(steps) < 6:  # it stopped, for nothing would have helped
        after = [
            score(mix(given, counts_of([*chosen, i], 5))[None], labels, metric)[0] for i in range(5)
        ]
        assert max(after) <= path[-1] + 1e-9
    weights = counts(steps, 5)
    assert weights.sum() == len(steps)
    assert steps[-1].nll == pytest.approx(float(nll(mix(given, weights), labels)))


def counts_of(chosen: list[int], many: int) -> np.ndarray:
    return np.bincount(chosen, minlength=many)


def test_it_starts_with_the_best_stops_and_takes_one_again() -> None:
    given, labels = library((0.05, 0.6, 0.0))
    single = score(given, labels, "loss")
    steps = greedy(given, labels, "loss", 20)
    assert steps[0].member == int(single.argmax()) == 1
    # A good member and a weak one: the good one counts several times.
    assert counts(steps, 3)[1] > counts(steps, 3)[0]
    assert len(greedy(given, labels, "loss", 2)) <= 2
    # Nothing improves on a member that is always right: one step, whatever the size.
    perfect = np.concatenate([given, np.eye(K)[labels][None]])
    assert [step.member for step in greedy(perfect, labels, "accuracy", 9)] == [3]


def test_among_equal_scores_the_lower_loss_decides() -> None:
    labels = np.array([0, 1, 0, 1])
    sure, unsure = (np.where(np.eye(2)[labels] > 0, p, 1 - p) for p in (0.9, 0.6))
    (step,) = greedy(np.stack([unsure, sure, unsure]), labels, "accuracy", 5)
    assert step.member == 1
    # Members that are the same: the first, every time.
    assert [s.member for s in greedy(np.stack([sure, sure]), labels, "loss", 5)] == [0]


def test_halves_share_out_every_class() -> None:
    _, labels = library((0.0,), 401)
    inside = halves(labels, 3)
    for label in range(K):
        mine = inside[labels == label]
        assert abs(int(mine.sum()) * 2 - len(mine)) <= 1
    np.testing.assert_array_equal(inside, halves(labels, 3))
    assert (inside != halves(labels, 4)).any()


def test_the_estimate_sees_through_noise() -> None:
    """Twenty members that know nothing: val makes one look good, the estimate does not."""
    given, labels = library((0.0,) * 20, 300, seed=1)
    chance = float(np.mean([score(given[i][None], labels, "accuracy")[0] for i in range(20)]))
    steps = greedy(given, labels, "accuracy", 8)
    rows = nested(given, labels, "accuracy", 8, 10)
    assert steps[-1].score > chance + 0.06
    assert abs(rows[-1]["score"] - chance) < 0.03
    assert [row["size"] for row in rows] == list(range(1, 9))
    assert rows[0]["better"] == 0 and rows[-1]["score_std"] > 0
    assert rows[-1]["score"] == rows[-1]["accuracy"]


def test_the_estimate_finds_a_real_gain() -> None:
    given, labels = library((0.3, 0.3, 0.3, 0.3), 600)
    rows = nested(given, labels, "loss", 4, 4)
    assert rows[-1]["score"] < rows[0]["score"] and rows[-1]["better"] == 1
    assert rows[-1]["score"] == pytest.approx(rows[-1]["loss"])
    assert rows == nested(given, labels, "loss", 4, 4)
    assert nested(given, labels, "loss", 2, 1)[0]["score_std"] is None
