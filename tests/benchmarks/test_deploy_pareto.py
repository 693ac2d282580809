"""benchmark=deploy: Pareto front, choice within a budget, table and figure."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest

from emotion_lab.benchmarks.deploy import pareto
from emotion_lab.benchmarks.deploy.figure import draw
from emotion_lab.reports.style import DARK, LIGHT, render


def row(model: str, accuracy: float | None, ms: float, size: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "runtime": "torch",
        "precision": "fp32",
        "batch": 1,
        "threads": 1,
        "accuracy": accuracy,
        "agreement": None,
        "ms": ms,
        "ms_min": ms,
        "ms_max": ms,
        "ratio": 1.0,
        "size_mb": size,
        **more,
    }


BEST = row("best", 0.70, 20.0, 50.0)
FAST = row("fast", 0.60, 1.0, 20.0)
SMALL = row("small", 0.61, 4.0, 2.0)
POOR = row("poor", 0.60, 4.1, 20.0)
ROWS = [POOR, BEST, FAST, SMALL]


def test_front() -> None:
    assert pareto.front(ROWS) == [FAST, SMALL, BEST]
    # Formats of the same weights differ by their headers only.
    twin = {**FAST, "ms": 1.5, "size_mb": 19.8}
    assert pareto.front([FAST, twin]) == [FAST]
    assert pareto.front([FAST, {**FAST, "threads": 2}]) == [FAST, {**FAST, "threads": 2}]
    unknown = [{**r, "accuracy": None} for r in ROWS]
    assert [r["model"] for r in pareto.front(unknown)] == ["fast", "small"]
    assert pareto.front([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_front_agrees_with_numpy(seed: int) -> None:
    draws = random.Random(seed)
    sizes = (1.0, 2.0, 4.0)
    rows = [
        row(str(i), round(draws.random(), 1), round(draws.random(), 1), draws.choice(sizes))
        for i in range(40)
    ]
    front = pareto.front(rows)
    costs = np.array([(-r["accuracy"], r["ms"], r["size_mb"]) for r in rows])
    for candidate, cost in zip(rows, costs, strict=True):
        dominated = ((costs <= cost).all(1) & (costs < cost).any(1)).any()
        assert (candidate in front) == (not dominated)


@pytest.mark.parametrize(
    ("latency", "size", "model"),
    [
        (None, None, "best"),
        (5, None, "small"),
        (5, 10, "small"),
        (2, None, "fast"),
        (None, 30, "small"),
        (20, 50, "best"),
    ],
)
def test_most_accurate_row_within_the_budget(
    latency: float | None, size: float | None, model: str
) -> None:
    choice = pareto.choose(ROWS, latency, size)
    assert choice["row"]["model"] == model
    line = pareto.choice_line(choice, True)
    assert line.startswith("most accurate with") and f": {model}, torch fp32, 1 thread (" in line
    assert ("without a budget" in line) == (latency is None and size is None)


def test_nearest_row_if_none_fits_the_budget() -> None:
    choice = pareto.choose(ROWS, 0.5, 10)
    assert choice["row"] is None and choice["nearest"] == FAST and choice["over"] == 2.0
    line = pareto.choice_line(choice, True)
    assert line == (
        "nothing fits within 0.5 ms and 10 MB; nearest is fast, torch fp32, 1 thread "
        "(accuracy 60.00%, 1.00 ms, 20.0 MB), 2 times the budget"
    )
    assert "nothing was measured" in pareto.choice_line(pareto.choose([], 1, 1), True)


def test_fastest_row_of_equal_accuracy() -> None:
    rows = [row("a", 0.5, 3, 1), row("a", 0.5, 2, 1, threads=2), row("b", 0.4, 1, 1)]
    assert pareto.choose(rows, None, None)["row"] == rows[1]
    unknown = [{**r, "accuracy": None} for r in rows]
    choice = pareto.choose(unknown, None, None)
    assert choice["row"]["model"] == "b"
    assert pareto.choice_line(choice, False).startswith("fastest (accuracy not measured)")


def test_comparable_rows() -> None:
    eight = row("a", 0.9, 1, 1, batch=8)
    assert pareto.comparable_rows([*ROWS, eight]) == ROWS
    assert pareto.comparable_rows([eight]) == [eight]
    unknown = row("new", None, 0.1, 0.1)
    assert pareto.comparable_rows([*ROWS, unknown]) == ROWS
    assert pareto.comparable_rows([]) == []


def test_report() -> None:
    result = {
        "rounds": 5,
        "rows": [BEST, POOR, {**FAST, "agreement": 0.998}, SMALL],
        "pareto": pareto.front(ROWS),
        "choice": pareto.choose(ROWS, None, None),
        "left_out": [{"model": "fast", "runtime": "x", "precision": "y", "why": "no luck"}],
    }

    def printed(**changes: Any) -> str:
        return "\n".join(map(str, pareto.report({**result, **changes})))

    text = printed()
    assert any(line.startswith("*  best") and line.endswith("70.00%") for line in text.splitlines())
    assert any(line.lstrip().startswith("poor") for line in text.splitlines())
    assert "99.80%" in text and "not measured" not in text
    assert "left out: fast, x y: no luck" in text
    assert "accuracy not measured" in printed(rows=[{**r, "accuracy": None} for r in ROWS])
    for load, busy in ((None, False), (0.9, False), (6.7, True)):
        assert ("busy (load 6.7, 2 cores)" in printed(load=load, cores=2)) == busy


@pytest.mark.parametrize("has_accuracy", [True, False])
def test_figure(has_accuracy: bool, rendered_figures: None) -> None:
    rows = ROWS if has_accuracy else [{**r, "accuracy": None} for r in ROWS]
    front = pareto.front(rows)
    images = [render(partial(draw, rows, front), style) for style in (LIGHT, DARK)]
    assert images[0] != images[1] and min(map(len, images)) > 5000
    figure = draw(rows, front, LIGHT)
    axis = figure.axes[0]
    assert {text.get_text() for text in axis.texts} == {"best", "fast", "small", "poor"}
    areas = sorted(float(marks.get_sizes()[0]) for marks in axis.collections)
    assert len(areas) == 4 and areas[0] < areas[1] == areas[2] < areas[3]
    assert ("accuracy" in axis.get_ylabel()) == has_accuracy
