"""The numbers of a comparison, as builtins: what ``compare.json`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.evaluation import test_ledger as seal
from emotion_lab.evaluation.predictions_file import SavedPredictions
from emotion_lab.evaluation.statistics import ROUNDS, intervals, mean_std, paired, paired_seeds
from emotion_lab.experiments.compare.load import aligned, read_sides, titles

#: Seed of the bootstrap draws: the same comparison gives the same intervals.
SEED = 0
SCORES = ("accuracy", "macro_f1")


def _named(values: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """Return scores with F1 by class name instead of by position."""
    per_class = {
        name: {"f1": values["f1"][i], "f1_ci95": values["f1_ci95"][i]}
        for i, name in enumerate(classes)
    }
    rest = {key: value for key, value in values.items() if key not in ("f1", "f1_ci95")}
    return {**rest, "per_class": per_class}


def _side(
    runs: list[SavedPredictions], predicted: np.ndarray, names: list[str], first: SavedPredictions
) -> dict[str, Any]:
    """Return the scores of the runs of one side, and over them."""
    k = len(first.classes)
    rows = []
    for saved, guesses, name in zip(runs, predicted, names, strict=True):
        values = intervals(first.labels, guesses, k, ROUNDS, SEED)
        about = {
            "run": str(saved.run),
            "name": name,
            "seed": saved.seed,
            "commit": saved.metrics.get("commit"),
        }
        rows.append({**about, **_named(values, first.classes)})
    over = {
        name: mean_std([row["per_class"][name]["f1"] for row in rows])
        if rows[0]["per_class"][name]["f1"] is not None
        else None
        for name in first.classes
    }
    return {
        "name": ", ".join(names) if len(names) < 4 else f"{len(names)} runs from {names[0]}",
        "runs": rows,
        **{score: mean_std([row[score] for row in rows]) for score in SCORES},
        "per_class_f1": over,
    }


def _sealed(fingerprint: dict[str, Any] | None, ledger: Path) -> tuple[dict[str, Any], list[str]]:
    """Return how often this test set was opened, and warnings."""
    if fingerprint is None:
        return {"openings": None, "configurations": None}, [
            "the runs tell no fingerprint of the test split: its openings cannot be counted"
        ]
    lines = seal.openings(ledger, fingerprint["hash"])
    configurations = seal.configurations(lines)
    warnings = []
    if not lines:
        warnings.append(
            f"the ledger {ledger} has no opening of this test set though it was opened: set "
            "test_ledger=<the file that evaluate wrote>"
        )
    if configurations > 1:
        warnings.append(
            f"this test set was opened for {configurations} configurations: choosing among them by "
            "it makes the best one look better than it is; choose on val"
        )
    return {"openings": len(lines), "configurations": configurations}, warnings


def _points(difference: dict[str, Any]) -> str:
    low, high = (f"{end * 100:+.2f}" for end in difference["accuracy_ci95"])
    return f"accuracy {difference['accuracy'] * 100:+.2f} points [{low}, {high}]"


def sentence(difference: dict[str, Any], a: str, b: str, n: int, seeds: int) -> str:
    """Return the verdict in one line: never a bare difference.

    Args:
        difference: Of :func:`emotion_lab.evaluation.statistics.paired` or ``paired_seeds``.
        a: Name of a.
        b: Name of b.
        n: Images.
        seeds: Runs a side.
    """
    values = _points(difference)
    if seeds > 1:
        values = f"mean {values} over {seeds} seeds"
    elif "mcnemar_p" in difference:
        values += f", McNemar p = {difference['mcnemar_p']:.2g}"
    word = difference["verdict"]
    if word in ("better", "worse"):
        return f"b ({b}) is {word} than a ({a}): {values}, n = {n}"
    return f"b ({b}) and a ({a}) are {word} at n = {n}: {values}"


def compare(a: list[Path], b: list[Path], split: str, ledger: Path) -> dict[str, Any]:
    """Compare the runs of two sides on the same images; every difference is b - a.

    Args:
        a: Run folders of train or evaluate, one a seed.
        b: As many.
        split: ``train``, ``val`` or ``test``.
        ledger: The test ledger, read for ``test``.

    Returns:
        Builtins: ``verdict`` (on b's accuracy), ``line``, ``split``, ``n``, ``classes``,
        ``fingerprint``, ``a`` and ``b`` (scores of each run with intervals; mean, std, min and max
        over them), ``pairs`` (each pair of runs), ``difference`` (over all), ``test`` (openings,
        for that split), ``notes`` and ``warnings``.

    Raises:
        UserError: For runs that are missing, damaged or not to be compared.
    """
    first, second, notes = read_sides(a, b, split)
    whole = first[0]
    k, n, seeds = len(whole.classes), len(whole.names), len(first)
    names = titles([saved.run for saved in [*first, *second]])
    guesses = np.stack([aligned(whole, saved) for saved in [*first, *second]])
    sides = [
        _side(first, guesses[:seeds], names[:seeds], whole),
        _side(second, guesses[seeds:], names[seeds:], whole),
    ]
    pairs = []
    for i in range(seeds):
        found = paired(whole.labels, guesses[i], guesses[seeds + i], k, ROUNDS, SEED)
        about = {
            "a": names[i],
            "b": names[seeds + i],
            "seeds": [first[i].seed, second[i].seed],
        }
        pairs.append({**about, **_named(found, whole.classes)})
    if seeds == 1:
        difference = pairs[0]
        notes.append(
            "One run a side: this is a verdict on two trained models. Another seed may turn out "
            "otherwise; to compare ways of training give several, run_a=[...] run_b=[...]."
        )
    else:
        found = paired_seeds(whole.labels, guesses[:seeds], guesses[seeds:], k, ROUNDS, SEED)
        difference = _named(found, whole.classes)
        if seeds < 5:
            notes.append(
                f"{seeds} seeds tell little of the spread over seeds: the interval is wide."
            )
    absent = [name for i, name in enumerate(whole.classes) if not (whole.labels == i).any()]
    if absent:
        notes.append(f"No samples: {', '.join(absent)}.")
    result = {
        "verdict": difference["verdict"],
        "line": sentence(difference, sides[0]["name"], sides[1]["name"], n, seeds),
        "split": split,
        "n": n,
        "classes": whole.classes,
        "support": {name: int((whole.labels == i).sum()) for i, name in enumerate(whole.classes)},
        "fingerprint": whole.fingerprint,
        "seeds": seeds,
        "a": sides[0],
        "b": sides[1],
        "difference": difference,
        "pairs": pairs,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED},
        "notes": notes,
        "warnings": [],
    }
    if split == "test":
        result["test"], result["warnings"] = _sealed(whole.fingerprint, ledger)
    return result
