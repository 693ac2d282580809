"""benchmark=deploy: what it chooses of what it timed, and how it shows it."""

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


def test_the_front() -> None:
    assert pareto.front(ROWS) == [FAST, SMALL, BEST]
    # The same weights in another wrapping are no smaller file.
    twin = {**FAST, "ms": 1.5, "size_mb": 19.8}
    assert pareto.front([FAST, twin]) == [FAST]
    assert pareto.front([FAST, {**FAST, "threads": 2}]) == [FAST, {**FAST, "threads": 2}]
    unknown = [{**one, "accuracy": None} for one in ROWS]
    assert [r["model"] for r in pareto.front(unknown)] == ["fast", "small"]
    assert pareto.front([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_nothing_on_the_front_is_beaten_and_all_else_is(seed: int) -> None:
    draws = random.Random(seed)
    sizes = (1.0, 2.0, 4.0)
    rows = [
        row(str(i), round(draws.random(), 1), round(draws.random(), 1), draws.choice(sizes))
        for i in range(40)
    ]
    front = pareto.front(rows)
    costs = np.array([(-r["accuracy"], r["ms"], r["size_mb"]) for r in rows])
    for one, cost in zip(rows, costs, strict=True):
        beaten = ((costs <= cost).all(1) & (costs < cost).any(1)).any()
        assert (one in front) == (not beaten)


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
def test_the_budget_names_the_most_accurate(
    latency: float | None, size: float | None, model: str
) -> None:
    found = pareto.choose(ROWS, latency, size)
    assert found["row"]["model"] == model
    line = pareto.choice_line(found, True)
    assert line.startswith("most accurate with") and f": {model}, torch fp32, 1 thread (" in line
    assert ("without a budget" in line) == (latency is None and size is None)


def test_an_impossible_budget_names_the_nearest() -> None:
    found = pareto.choose(ROWS, 0.5, 10)
    assert found["row"] is None and found["nearest"] == FAST and found["over"] == 2.0
    line = pareto.choice_line(found, True)
    assert line == (
        "nothing fits within 0.5 ms and 10 MB; nearest is fast, torch fp32, 1 thread "
        "(accuracy 60.00%, 1.00 ms, 20.0 MB), 2 times the budget"
    )
    assert "nothing was measured" in pareto.choice_line(pareto.choose([], 1, 1), True)


def test_of_equal_accuracy_the_fastest() -> None:
    rows = [row("a", 0.5, 3, 1), row("a", 0.5, 2, 1, threads=2), row("b", 0.4, 1, 1)]
    assert pareto.choose(rows, None, None)["row"] == rows[1]
    unknown = [{**one, "accuracy": None} for one in rows]
    found = pareto.choose(unknown, None, None)
    assert found["row"]["model"] == "b"
    assert pareto.choice_line(found, False).startswith("fastest (accuracy not measured)")


def test_what_is_chosen_from() -> None:
    eight = row("a", 0.9, 1, 1, batch=8)
    assert pareto.contenders([*ROWS, eight]) == ROWS
    assert pareto.contenders([eight]) == [eight]
    unknown = row("new", None, 0.1, 0.1)
    assert pareto.contenders([*ROWS, unknown]) == ROWS
    assert pareto.contenders([]) == []


def test_the_table_says_what_there_is() -> None:
    found = {
        "rounds": 5,
        "rows": [BEST, POOR, {**FAST, "agreement": 0.998}, SMALL],
        "pareto": pareto.front(ROWS),
        "choice": pareto.choose(ROWS, None, None),
        "left_out": [{"model": "fast", "runtime": "x", "precision": "y", "why": "no luck"}],
    }
    lines = pareto.lines(found)
    by_name = {line.split()[1 if line.split()[0] == "*" else 0]: line for line in lines[2:6]}
    assert by_name["best"].lstrip().startswith("*") and by_name["best"].endswith("70.00%")
    assert not by_name["poor"].lstrip().startswith("*")
    assert not any("not measured" in line for line in lines)
    assert any("left out: fast, x y: no luck" in line for line in lines)
    found["rows"] = [{**one, "accuracy": None} for one in ROWS]
    assert any("accuracy not measured" in line for line in pareto.lines(found))
    for load, busy in ((None, False), (0.9, False), (6.7, True)):
        said = pareto.lines({**found, "load": load, "cores": 2})
        assert any("busy (load 6.7, 2 cores)" in line for line in said) == busy


@pytest.mark.parametrize("known", [True, False])
def test_the_picture(known: bool) -> None:
    rows = ROWS if known else [{**one, "accuracy": None} for one in ROWS]
    front = pareto.front(rows)
    pictures = [render(partial(draw, rows, front), style) for style in (LIGHT, DARK)]
    assert pictures[0] != pictures[1] and min(map(len, pictures)) > 5000
    figure = draw(rows, front, LIGHT)
    axis = figure.axes[0]
    assert {text.get_text() for text in axis.texts} == {"best", "fast", "small", "poor"}
    areas = sorted(float(marks.get_sizes()[0]) for marks in axis.collections)
    assert len(areas) == 4 and areas[0] < areas[1] == areas[2] < areas[3]
    assert ("accuracy" in axis.get_ylabel()) == known
