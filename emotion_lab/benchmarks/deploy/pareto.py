"""Which network, runtime and precision to take: Pareto front, budget, and tables. No torch here.

A row is what :mod:`emotion_lab.benchmarks.deploy.matrix` measured of one network in one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

#: Runtimes keep the same weights in files that differ by their headers: no reason to prefer one.
SAME_SIZE = 1.02


def contenders(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are chosen from: those of the smallest batch, with any threads.

    Where the accuracy of some networks is known, the others have no part in it.
    """
    if not rows:
        return []
    least = min(row["batch"] for row in rows)
    part = [row for row in rows if row["batch"] == least]
    known = [row for row in part if row["accuracy"] is not None]
    return known or part


def _costs(row: Row) -> tuple[float, float, float]:
    """Return what is to be small; an accuracy that nobody knows decides nothing."""
    return (-(row["accuracy"] or 0.0), row["ms"], row["size_mb"])


def beats(other: Row, row: Row) -> bool:
    """Tell whether ``other`` is as good in accuracy, latency and size, and better in one."""
    (a, ms, size), (own_a, own_ms, own_size) = _costs(other), _costs(row)
    if a > own_a or ms > own_ms or size > SAME_SIZE * own_size:
        return False
    return a < own_a or ms < own_ms or SAME_SIZE * size < own_size


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other beats, fastest first."""
    best = [row for row in rows if not any(beats(other, row) for other in rows)]
    return sorted(best, key=lambda row: row["ms"])


def choose(rows: Sequence[Row], latency_ms: float | None, size_mb: float | None) -> dict[str, Any]:
    """Return the best row within the budget: the most accurate; of equals the fastest.

    Args:
        rows: See :func:`contenders`.
        latency_ms: Most milliseconds of a call; None for any.
        size_mb: Most 10**6 bytes of the file; None for any.

    Returns:
        ``budget``; ``row``, None where nothing fits; then ``nearest``, the row that goes over the
        budget by the smallest factor, and ``over``, that factor.
    """
    limits = {"ms": latency_ms, "size_mb": size_mb}

    def over(row: Row) -> float:
        return max((row[key] / limit for key, limit in limits.items() if limit), default=0.0)

    found: dict[str, Any] = {"budget": {"latency_ms": latency_ms, "size_mb": size_mb}, "row": None}
    fitting = [row for row in rows if over(row) <= 1]
    if fitting:
        found["row"] = min(fitting, key=_costs)
    elif rows:
        nearest = min(rows, key=lambda row: (over(row), _costs(row)))
        found |= {"nearest": nearest, "over": round(over(nearest), 2)}
    return found


def name(row: Row) -> str:
    """Say which row this is."""
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return f"{row['model']}, {row['runtime']} {row['precision']}, {threads}"


def numbers(row: Row) -> str:
    """Say what a row is worth."""
    known = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.2%}, "
    return f"{known}{row['ms']:.2f} ms, {row['size_mb']:.1f} MB"


def choice_line(choice: dict[str, Any], known: bool) -> str:
    """Say in one line what the budget's choice is, or what comes nearest.

    Args:
        choice: What :func:`choose` returned.
        known: Whether accuracies were measured.
    """
    latency, size = choice["budget"]["latency_ms"], choice["budget"]["size_mb"]
    parts = [f"{latency:g} ms"] if latency else []
    parts += [f"{size:g} MB"] if size else []
    within = f"within {' and '.join(parts)}" if parts else "without a budget"
    if choice["row"] is not None:
        kind = "most accurate" if known else "fastest (accuracy not measured)"
        return f"{kind} {within}: {name(choice['row'])} ({numbers(choice['row'])})"
    if "nearest" not in choice:
        return f"nothing {within}: nothing was measured"
    nearest = choice["nearest"]
    return (
        f"nothing fits {within}; nearest is {name(nearest)} ({numbers(nearest)}), "
        f"{choice['over']:.3g} times the budget"
    )


def _width(rows: Sequence[Row], key: str) -> int:
    return max(len(str(row[key])) for row in rows)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the results of ``benchmark=deploy`` as lines for people; a star marks the front."""
    rows, best = found["rows"], found["pareto"]
    shown = [f"\ndeploy: milliseconds of a call, median of {found['rounds']} rounds in turn"]
    known = any(row["accuracy"] is not None for row in rows)
    if rows:
        model, runtime = _width(rows, "model"), max(_width(rows, "runtime"), 7)
        shown.append(
            f"    {'':<{model}}  {'runtime':<{runtime}}  prec.  batch  threads        ms"
            f"          (range)  times eager     MB  {'accuracy' if known else ''}"
        )
    for row in rows:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        if row["agreement"] is not None:
            accuracy += f", agrees {row['agreement']:.2%}"
        spread = f"({row['ms_min']:.2f} to {row['ms_max']:.2f})"
        shown.append(
            f"  {'*' if row in best else ' '} {row['model']:<{model}}  {row['runtime']:<{runtime}}"
            f"  {row['precision']:<5}  {row['batch']:>5}  {row['threads']:>7}  {row['ms']:>8.2f}"
            f"  {spread:>17}  {row['ratio']:>11.2f}  {row['size_mb']:>5.1f}  {accuracy}".rstrip()
        )
    for row in found["left_out"]:
        shown.append(
            f"  left out: {row['model']}, {row['runtime']} {row['precision']}: {row['why']}"
        )
    if (found.get("load") or 0) > found.get("cores", 1) / 2:
        shown.append(
            f"  the machine was busy (load {found['load']:.1f}, {found['cores']} cores): times and "
            "ratios say little, above all those of several threads"
        )
    if not known:
        shown.append("  accuracy not measured: random weights, or runs without metrics.json")
    shown.append(
        f"  * nothing is better in {'accuracy, ' if known else ''}latency and size at once"
    )
    return [*shown, choice_line(found["choice"], known)]
