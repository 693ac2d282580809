"""Greedy ensemble selection: metrics, steps, and the nested estimate."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score

from emotion_lab.config import schema
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.ensemble.selection import (
    METRICS,
    counts,
    greedy,
    mix,
    nested,
    nll,
    random_half,
    score,
)

K = 4


def library(
    strengths: tuple[float, ...], n: int = 400, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (M, N, K) of members of different accuracy, and labels (N,)."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(K, n, p=(0.4, 0.3, 0.2, 0.1))
    probabilities = generator.dirichlet(np.ones(K), (len(strengths), n))
    probabilities[:, np.arange(n), labels] += np.array(strengths)[:, None]
    return probabilities / probabilities.sum(-1, keepdims=True), labels


@pytest.mark.parametrize("metric", METRICS)
def test_scores_agree_with_scikit_learn(metric: str) -> None:
    probabilities, labels = library((0.0, 0.2, 0.5))
    probabilities[2, :, 3] = 0  # a class that is never predicted
    probabilities /= probabilities.sum(-1, keepdims=True)
    scores = score(7 * probabilities, labels, metric)
    for value, member in zip(scores, probabilities, strict=True):
        predicted = member.argmax(1)
        if metric == "loss":
            expected = -log_loss(labels, np.maximum(member, 1e-12), labels=range(K))
        elif metric == "accuracy":
            expected = accuracy_score(labels, predicted)
        else:
            average, name = metric.split("_")
            function = {"precision": precision_score, "recall": recall_score, "f1": f1_score}[name]
            expected = function(labels, predicted, average=average, zero_division=0)
        assert value == pytest.approx(expected, abs=1e-9)


def test_macro_average_ignores_absent_classes() -> None:
    labels = np.array([0, 0, 1, 1])
    predictions = np.eye(K)[[0, 1, 1, 1]][None]
    assert score(predictions, labels, "macro_f1")[0] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_config_accepts_all_metrics() -> None:
    for name in (*METRICS, "monitor"):
        schema.check_value("metric", name, "ensemble")
    with pytest.raises(UserError, match="metric=f1 is not valid"):
        schema.check_value("metric", "f1", "ensemble")


@pytest.mark.parametrize("metric", ["loss", "accuracy", "macro_f1"])
def test_each_step_is_the_best_candidate(metric: str) -> None:
    probabilities, labels = library((0.1, 0.25, 0.3, 0.28, 0.0))
    steps = greedy(probabilities, labels, metric, 6)
    selected: list[int] = []

    def next_scores() -> list[float]:
        """Return the score of the average with each candidate added."""
        added = [np.bincount([*selected, i], minlength=5) for i in range(5)]
        return [float(score(mix(probabilities, n)[None], labels, metric)[0]) for n in added]

    for step in steps:
        scores = next_scores()
        assert step.score == pytest.approx(max(scores), abs=1e-9)
        assert scores[step.member] == pytest.approx(max(scores), abs=1e-9)
        selected.append(step.member)
    path = [step.score for step in steps]
    assert path == sorted(path) and len(set(path)) == len(path) > 1
    if len(steps) < 6:  # it stopped, because no candidate improves the score
        assert max(next_scores()) <= path[-1] + 1e-9
    weights = counts(steps, 5)
    assert weights.sum() == len(steps)
    assert steps[-1].nll == pytest.approx(float(nll(mix(probabilities, weights), labels)))


def test_first_member_replacement_and_stopping() -> None:
    probabilities, labels = library((0.05, 0.6, 0.0))
    single = score(probabilities, labels, "loss")
    steps = greedy(probabilities, labels, "loss", 20)
    assert steps[0].member == int(single.argmax()) == 1
    # The good member is selected several times.
    assert counts(steps, 3)[1] > counts(steps, 3)[0]
    assert len(greedy(probabilities, labels, "loss", 2)) <= 2
    # No step improves on a member that is always correct.
    perfect = np.concatenate([probabilities, np.eye(K)[labels][None]])
    assert [step.member for step in greedy(perfect, labels, "accuracy", 9)] == [3]


def test_lower_loss_breaks_ties() -> None:
    labels = np.array([0, 1, 0, 1])
    confident, unsure = (np.where(np.eye(2)[labels] > 0, p, 1 - p) for p in (0.9, 0.6))
    (step,) = greedy(np.stack([unsure, confident, unsure]), labels, "accuracy", 5)
    assert step.member == 1
    # Of identical members the first is selected.
    assert [s.member for s in greedy(np.stack([confident, confident]), labels, "loss", 5)] == [0]


def test_random_halves_are_stratified() -> None:
    _, labels = library((0.0,), 401)
    half = random_half(labels, 3)
    for label in range(K):
        of_class = half[labels == label]
        assert abs(int(of_class.sum()) * 2 - len(of_class)) <= 1
    np.testing.assert_array_equal(half, random_half(labels, 3))
    assert (half != random_half(labels, 4)).any()


def test_a_person_is_in_one_half() -> None:
    labels, groups = np.tile([0, 1], 15), [f"p{i // 6}" for i in range(30)]  # 5 persons
    masks = [random_half(labels, seed, groups).reshape(5, 6) for seed in range(20)]
    assert all((mask == mask[:, :1]).all() for mask in masks)
    assert {int(mask[:, 0].sum()) for mask in masks} == {2, 3}
    # Both members are right about three of five persons, the same in each image of a person.
    right = np.array([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).repeat(6, 1)
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
    by_person = nested(probabilities, labels, "accuracy", 1, 20, groups)[0]["accuracy"]
    assert by_person < nested(probabilities, labels, "accuracy", 1, 20)[0]["accuracy"]


def test_nested_estimate_is_not_biased_by_selection() -> None:
    """Twenty random members: selection inflates the score on val, not the nested estimate."""
    probabilities, labels = library((0.0,) * 20, 300, seed=1)
    chance = float(score(probabilities, labels, "accuracy").mean())
    steps = greedy(probabilities, labels, "accuracy", 8)
    rows = nested(probabilities, labels, "accuracy", 8, 10)
    assert steps[-1].score > chance + 0.06
    assert abs(rows[-1]["score"] - chance) < 0.03
    assert [row["size"] for row in rows] == list(range(1, 9))
    assert rows[0]["better"] == 0 and rows[-1]["score_std"] > 0
    assert rows[-1]["score"] == rows[-1]["accuracy"]


def test_nested_estimate_of_a_real_gain() -> None:
    probabilities, labels = library((0.3, 0.3, 0.3, 0.3), 600)
    rows = nested(probabilities, labels, "loss", 4, 4)
    assert rows[-1]["score"] < rows[0]["score"] and rows[-1]["better"] == 1
    assert rows[-1]["score"] == pytest.approx(rows[-1]["loss"])
    assert rows == nested(probabilities, labels, "loss", 4, 4)
    assert nested(probabilities, labels, "loss", 2, 1)[0]["score_std"] is None
