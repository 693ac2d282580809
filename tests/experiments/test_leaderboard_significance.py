"""Comparison with the best: pairing by seed, p-values that agree with intervals, correction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from emotion_lab.evaluation.statistics import count, interval, paired, paired_seeds, resample
from emotion_lab.experiments.compare.result import compare
from emotion_lab.experiments.leaderboard import report, significance
from tests.experiments.test_leaderboard import LABELS, guesses, ranked, three, write_run


def test_comparison_with_the_best_agrees_with_compare(tmp_path: Path) -> None:
    runs_dir = three(tmp_path)
    for by in ("accuracy", "macro_f1"):
        result = ranked(runs_dir, by)
        best = [Path(run["folder"]) for run in result["groups"][0]["runs"]]
        for row in result["groups"][1:]:
            runs = [Path(run["folder"]) for run in row["runs"]]
            expected = compare(best, runs, "val", runs_dir / "none")["difference"]
            comparison = row["against_best"]
            assert comparison["difference"] == expected[by]
            assert comparison["ci95"] == expected[f"{by}_ci95"]
            verdict = expected["verdict" if by == "accuracy" else "macro_f1_verdict"]
            assert comparison["alone"] == verdict
            assert comparison["seeds"] == [[1, 1], [2, 2], [3, 3]]
        verdicts = [report.verdict(row) for row in result["groups"]]
        assert verdicts == ["best", "not distinguishable", "worse"]


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ([1], [1], [[1, 1]]),
        ([1, 2], [2, 3], [[2, 2]]),
        ([1, 2], [3, 4], [[1, 3]]),
        ([1, 2, 3], [2, 3, 4, 5], [[2, 2], [3, 3]]),
    ],
)
def test_common_seeds_are_paired(
    first: list[int], second: list[int], pairs: list[list[int]]
) -> None:
    best = {seed: guesses(0.9, seed) for seed in first}
    other = {seed: guesses(0.5, 50 + seed) for seed in second}
    comparison = significance.compare_with_best(LABELS, best, other, 3, "accuracy")
    assert comparison["seeds"] == pairs
    if len(pairs) > 1:
        sides = [np.stack([best[a] for a, _ in pairs]), np.stack([other[b] for _, b in pairs])]
        expected = paired_seeds(LABELS, *sides, 3)
    else:
        expected = paired(LABELS, best[pairs[0][0]], other[pairs[0][1]], 3)
        assert comparison["p"] == expected["mcnemar_p"]
    assert comparison["ci95"] == expected["accuracy_ci95"]
    assert comparison["alone"] == expected["verdict"]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_p_and_the_interval_agree(seeds: int) -> None:
    """p is below 0.05 if and only if the 95 % interval excludes 0."""
    significant = []
    for trial in range(25):
        best = [guesses(0.8, 1000 + 10 * trial + i) for i in range(seeds)]
        other = [guesses(0.55 + trial / 100, 5000 + 10 * trial + i) for i in range(seeds)]
        if seeds == 1:
            comparison = paired(LABELS, best[0], other[0], 3)
        else:
            comparison = paired_seeds(LABELS, np.stack(best), np.stack(other), 3)
        scores = [[count(LABELS, row, 3).macro_f1 for row in side] for side in (best, other)]
        low, high = comparison["macro_f1_ci95"]
        over_seeds = np.subtract(scores[1], scores[0])
        p = significance.p_value(comparison["macro_f1"], (low, high), over_seeds)
        assert 0 < p <= 1
        assert (p < 0.05) == (low > 0 or high < 0)
        significant.append(p < 0.05)
    assert seeds == 2 or len(set(significant)) == 2, "all trials have the same result"


def test_p_of_one_pair_is_close_to_a_normal_test() -> None:
    """Reference: a normal distribution with the standard deviation of the bootstrap."""
    a, b = guesses(0.8, 1), guesses(0.7, 2)
    comparison = paired(LABELS, a, b, 3)
    drawn = resample(LABELS, np.stack([a, b]), 3)
    draws = drawn.macro_f1[1] - drawn.macro_f1[0]
    assert interval(draws) == comparison["macro_f1_ci95"]
    p = significance.p_value(comparison["macro_f1"], comparison["macro_f1_ci95"], np.zeros(1))
    z = comparison["macro_f1"] / draws.std()
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.25)


def test_p_without_image_variance_is_students_t() -> None:
    over = np.array([0.02, 0.05, 0.03, 0.04])
    mean = over.mean()
    half = stats.t.ppf(0.975, 3) * over.std(ddof=1) / 2
    p = significance.p_value(mean, (mean - half, mean + half), over)
    assert p == pytest.approx(stats.ttest_1samp(over, 0).pvalue, rel=1e-6)


def test_bounds_of_p() -> None:
    assert significance.p_value(0.0, (0.0, 0.0), np.zeros(1)) == 1
    assert significance.p_value(0.5, (0.5, 0.5), np.zeros(1)) == significance.MIN_P
    assert significance.p_value(-0.5, (-0.5001, -0.4999), np.full(3, -0.5)) == significance.MIN_P


def test_holm() -> None:
    """The example of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.6, 0.7]) == [1.0, 1.0] and significance.holm([]) == []


def test_multiple_comparisons_are_corrected(tmp_path: Path) -> None:
    """A difference that is significant by itself is not among thirty."""
    for i in range(30):
        write_run(tmp_path / str(i), 0.8, seed=7, predicted=guesses(0.8, i), optim__lr=0.1 + i)
    result = ranked(tmp_path, "accuracy")
    rows = [row["against_best"] for row in result["groups"][1:]]
    assert any(row["alone"] == "worse" and row["verdict"] != "worse" for row in rows)
    for row in rows:
        assert row["p_holm"] >= row["p"]
        assert (row["verdict"] == "worse") == (row["alone"] == "worse" and row["p_holm"] < 0.05)
    assert "best of 30 configurations (30 runs) is optimistic" in result["warnings"][0]


def test_few_differing_images_are_not_significant_in_macro_f1(tmp_path: Path) -> None:
    """An exact test needs at least six differing rows for p < 0.05."""
    other = LABELS.copy()
    other[:4] = 1
    write_run(tmp_path / "a", 0, predicted=LABELS)
    write_run(tmp_path / "b", 0, predicted=other, loss__name="focal")
    comparison = ranked(tmp_path)["groups"][1]["against_best"]
    assert comparison["ci95"][1] < 0 and comparison["p"] == 1
    assert comparison["verdict"] == "not distinguishable"
