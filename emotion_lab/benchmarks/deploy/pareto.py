"""Choose a network, backend and precision: Pareto front, budget and tables. No torch here.

A row is one measurement of :func:`emotion_lab.benchmarks.deploy.matrix.measure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emotion_lab.core.tables import TextTable

Row = dict[str, Any]

#: File sizes within this factor count as equal: formats differ in their headers.
SAME_SIZE = 1.02


def comparable_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows to choose from: those of the smallest batch, with any number of threads.

    If the accuracy of some networks is known, rows without accuracy are left out.
    """
    if not rows:
        return []
    smallest = min(row["batch"] for row in rows)
    comparable = [row for row in rows if row["batch"] == smallest]
    return [row for row in comparable if row["accuracy"] is not None] or comparable


def _costs(row: Row) -> tuple[float, float, float]:
    """Return the values to minimise; an unknown accuracy counts as 0."""
    return (-(row["accuracy"] or 0.0), row["ms"], row["size_mb"])


def dominates(a: Row, b: Row) -> bool:
    """Return whether ``a`` is no worse in accuracy, latency and size, and better in one."""
    (a_error, a_ms, a_size), (b_error, b_ms, b_size) = _costs(a), _costs(b)
    if a_error > b_error or a_ms > b_ms or a_size > SAME_SIZE * b_size:
        return False
    return a_error < b_error or a_ms < b_ms or SAME_SIZE * a_size < b_size


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the Pareto front, fastest first."""
    best = [row for row in rows if not any(dominates(other, row) for other in rows)]
    return sorted(best, key=lambda row: row["ms"])


def choose(rows: Sequence[Row], latency_ms: float | None, size_mb: float | None) -> dict[str, Any]:
    """Return the most accurate row within the budget; the fastest of several.

    Args:
        rows: See :func:`comparable_rows`.
        latency_ms: Maximum milliseconds of a call.
        size_mb: Maximum file size in 10**6 bytes.

    Returns:
        ``budget``; ``row``, None if no row fits. In that case also ``nearest``, the row that
        exceeds the budget by the smallest factor, and ``over``, that factor.
    """
    limits = {"ms": latency_ms, "size_mb": size_mb}

    def excess(row: Row) -> float:
        return max((row[key] / limit for key, limit in limits.items() if limit), default=0.0)

    choice: dict[str, Any] = {"budget": {"latency_ms": latency_ms, "size_mb": size_mb}, "row": None}
    fitting = [row for row in rows if excess(row) <= 1]
    if fitting:
        choice["row"] = min(fitting, key=_costs)
    elif rows:
        nearest = min(rows, key=lambda row: (excess(row), _costs(row)))
        choice |= {"nearest": nearest, "over": round(excess(nearest), 2)}
    return choice


def _describe(row: Row) -> str:
    """Return a row's network, backend and measurements in words."""
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.2%}, "
    return (
        f"{row['model']}, {row['runtime']} {row['precision']}, {threads} "
        f"({accuracy}{row['ms']:.2f} ms, {row['size_mb']:.1f} MB)"
    )


def choice_line(choice: dict[str, Any], has_accuracy: bool) -> str:
    """Return one line with the result of :func:`choose`."""
    latency, size = choice["budget"]["latency_ms"], choice["budget"]["size_mb"]
    limits = [f"{latency:g} ms"] if latency else []
    limits += [f"{size:g} MB"] if size else []
    within = f"within {' and '.join(limits)}" if limits else "without a budget"
    if choice["row"] is not None:
        criterion = "most accurate" if has_accuracy else "fastest (accuracy not measured)"
        return f"{criterion} {within}: {_describe(choice['row'])}"
    if "nearest" not in choice:
        return f"nothing {within}: nothing was measured"
    return (
        f"nothing fits {within}; nearest is {_describe(choice['nearest'])}, "
        f"{choice['over']:.3g} times the budget"
    )


def table(rows: Sequence[Row], pareto_front: Sequence[Row]) -> TextTable:
    """Return the measurements as a table; a star marks the Pareto front."""
    header = ("", "model", "backend", "precision", "batch", "threads", "ms", "range")
    cells = [
        (
            "*" if row in pareto_front else "",
            *(row[key] for key in ("model", "runtime", "precision", "batch", "threads")),
            f"{row['ms']:.2f}",
            f"{row['ms_min']:.2f} to {row['ms_max']:.2f}",
            f"{row['ratio']:.2f}x",
            f"{row['size_mb']:.1f}",
            *("" if row[key] is None else f"{row[key]:.2%}" for key in ("accuracy", "agreement")),
        )
        for row in rows
    ]
    return TextTable((*header, "vs eager", "MB", "accuracy", "agreement"), cells, left=(0, 1, 2, 3))


def report(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the printed results of ``benchmark=deploy``."""
    rows = result["rows"]
    has_accuracy = any(row["accuracy"] is not None for row in rows)
    blocks: list[str | TextTable] = [
        f"\ndeploy: milliseconds per call, median of {result['rounds']} rounds; vs eager: speedup "
        "over eager PyTorch fp32",
        table(rows, result["pareto"]),
        f"* Pareto front of {'accuracy, latency' if has_accuracy else 'latency'} and size",
    ]
    blocks += [
        f"left out: {row['model']}, {row['runtime']} {row['precision']}: {row['why']}"
        for row in result["left_out"]
    ]
    if (result.get("load") or 0) > result.get("cores", 1) / 2:
        blocks.append(
            f"warning: the machine was busy (load {result['load']:.1f}, {result['cores']} cores): "
            "times and ratios are unreliable, especially with several threads"
        )
    if not has_accuracy:
        blocks.append("accuracy not measured: random weights, or runs without metrics.json")
    return [*blocks, choice_line(result["choice"], has_accuracy)]
