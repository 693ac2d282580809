"""Compute the content of ``compare.json``: scores, paired differences and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import runs as find_runs
from emotion_lab.core.runs import Run
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.predictions_file import SavedPredictions
from emotion_lab.evaluation.statistics import (
    ROUNDS,
    SEED,
    intervals,
    mean_std,
    paired,
    paired_seeds,
)
from emotion_lab.experiments.compare.load import (
    aligned_predictions,
    kept_rows,
    read_pairs,
    short_names,
    trained_on_lines,
)
from emotion_lab.experiments.leaderboard import grouping
from emotion_lab.experiments.leaderboard.grouping import SCORES
from emotion_lab.experiments.leaderboard.significance import VERDICTS


def _by_class_name(values: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    """Return scores with F1 by class name instead of by index."""
    per_class = {
        name: {"f1": values["f1"][i], "f1_ci95": values["f1_ci95"][i]}
        for i, name in enumerate(classes)
    }
    rest = {key: value for key, value in values.items() if key not in ("f1", "f1_ci95")}
    return {**rest, "per_class": per_class}


def _side(
    runs: list[SavedPredictions],
    predictions: np.ndarray,
    names: list[str],
    reference: SavedPredictions,
    title: str | None,
) -> dict[str, Any]:
    """Return the scores of each run of one side, and their statistics over the runs.

    ``title`` is the name of the side; None: the names of its runs.
    """
    rows = []
    for saved, predicted, name in zip(runs, predictions, names, strict=True):
        k = len(reference.classes)
        values = intervals(reference.labels, predicted, k, groups=reference.groups)
        run = {
            "run": str(saved.run),
            "name": name,
            "seed": saved.seed,
            "commit": saved.metrics.get("commit"),
        }
        rows.append({**run, **_by_class_name(values, reference.classes)})
    listed = ", ".join(names) if len(names) < 4 else f"{len(names)} runs from {names[0]}"
    per_class_f1 = {
        name: mean_std([row["per_class"][name]["f1"] for row in rows])
        if rows[0]["per_class"][name]["f1"] is not None
        else None
        for name in reference.classes
    }
    return {
        "name": title or listed,
        "runs": rows,
        **{score: mean_std([row[score] for row in rows]) for score in SCORES},
        "per_class_f1": per_class_f1,
    }


def _differences(
    runs: list[SavedPredictions],
    predictions: np.ndarray,
    names: list[str],
    reference: SavedPredictions,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the paired difference of each seed, and that over all seeds.

    The first half of the runs, of their predictions and of their names is side a.
    """
    labels, classes, seeds = reference.labels, reference.classes, len(runs) // 2
    k, groups = len(classes), reference.groups
    pairs = []
    for i in range(seeds):
        values = paired(labels, predictions[i], predictions[seeds + i], k, groups=groups)
        seeds_of_pair = [runs[i].seed, runs[seeds + i].seed]
        pair = {"a": names[i], "b": names[seeds + i], "seeds": seeds_of_pair}
        pairs.append({**pair, **_by_class_name(values, classes)})
    if seeds == 1:
        return pairs, pairs[0]
    values = paired_seeds(labels, predictions[:seeds], predictions[seeds:], k, groups=groups)
    return pairs, _by_class_name(values, classes)


def _test_openings(
    fingerprint: dict[str, Any] | None, ledger: Path
) -> tuple[dict[str, Any], list[str]]:
    """Return the number of openings of this test set according to the ledger, and warnings."""
    if fingerprint is None:
        return {"openings": None, "configurations": None}, [
            "the runs have no fingerprint of the test split: its openings cannot be counted"
        ]
    lines = test_ledger.openings(ledger, fingerprint["hash"])
    configurations = test_ledger.configurations(lines)
    warnings = []
    if not lines:
        warnings.append(
            f"the ledger {ledger} has no opening of this test set although it was opened: set "
            "test_ledger=<the file that evaluate wrote>"
        )
    if configurations > 1:
        warnings.append(
            f"this test set was opened for {configurations} configurations: selecting among them "
            "by test scores overestimates the best one; select on val"
        )
    return {"openings": len(lines), "configurations": configurations}, warnings


def _points(difference: dict[str, Any], by: str) -> str:
    low, high = (f"{end * 100:+.2f}" for end in difference[f"{by}_ci95"])
    return f"{SCORES[by]} {difference[by] * 100:+.2f} points [{low}, {high}]"


def verdict_sentence(
    difference: dict[str, Any], a: str, b: str, n: int, seeds: int, by: str = "accuracy"
) -> str:
    """Return the verdict on ``by`` with the difference, its interval and the sample sizes."""
    values = _points(difference, by)
    if seeds > 1:
        values = f"mean {values} over {seeds} seeds"
    elif by == "accuracy" and difference["mcnemar_p"] is not None:
        values += f", McNemar p = {difference['mcnemar_p']:.2g}"
    verdict = difference[VERDICTS[by]]
    if verdict in ("better", "worse"):
        return f"b ({b}) is {verdict} than a ({a}): {values}, n = {n}"
    return f"b ({b}) and a ({a}) are {verdict} at n = {n}: {values}"


def _notes(seeds: int, support: dict[str, int]) -> list[str]:
    """Return notes on the number of seeds and on classes without samples."""
    notes = []
    if seeds == 1:
        notes.append(
            "One run per side: the verdict is about these two trained models. Another seed can "
            "change it; to compare training methods give several seeds, run_a=[...] run_b=[...]."
        )
    elif seeds < 5:
        notes.append(
            f"{seeds} seeds give a rough estimate of the variance over seeds: the interval is wide."
        )
    absent = [name for name, n in support.items() if not n]
    return [*notes, f"No samples: {', '.join(absent)}."] if absent else notes


def _num_groups(saved: SavedPredictions) -> int | None:
    """Return the number of groups (``data.group``), None without."""
    return None if saved.groups is None else len(set(saved.groups))


def _trained_on_lines(
    names: list[str], runs: list[SavedPredictions], drop_csv: str | None
) -> tuple[list[str], list[str]]:
    """Return :func:`trained_on_lines`; notes only if images are left out, which it counts."""
    warnings, notes = trained_on_lines(names, [saved.scores for saved in runs])
    if drop_csv is None:
        return warnings, notes
    return [], [f"before drop_csv: {text}" for text in [*warnings, *notes]]


def _trained(runs: Sequence[SavedPredictions]) -> list[Run]:
    """Return the runs of ``train`` among the runs that are compared."""
    return [find_runs.read(saved.run) for saved in runs if find_runs.is_run(saved.run)]


def _titles(a: list[SavedPredictions], b: list[SavedPredictions]) -> tuple[str | None, str | None]:
    """Return what differs between the settings of two sides; None for runs without a config."""
    trained_a, trained_b = _trained(a), _trained(b)
    all_trained = len(trained_a) + len(trained_b) == len(a) + len(b)
    return (grouping.side_names(trained_a, trained_b) if all_trained else None) or (None, None)


def verdict_metric(sort_by: str | None, runs: Sequence[SavedPredictions]) -> str:
    """Return the metric of the verdict: ``sort_by``, else the metric that selected the runs.

    Runs of ``evaluate`` have no such metric; without another run, it is the accuracy.
    """
    trained = _trained(runs)
    return grouping.sort_metric(sort_by, trained) if trained else sort_by or "accuracy"


def compare(
    a: list[Path],
    b: list[Path],
    split: str,
    ledger: Path,
    sort_by: str | None = None,
    drop_csv: str | None = None,
) -> dict[str, Any]:
    """Compare the runs of two sides on the same images; every difference is b - a.

    Args:
        a: Run directories of train or evaluate, one per seed.
        b: Run directories with the same seeds.
        sort_by: Metric of the verdict, see :func:`verdict_metric`.
        drop_csv: List of images to leave out, see :func:`kept_rows`; None: compare on all.

    Returns:
        Builtins: ``verdict`` (on b's score), ``by`` (its metric), ``line``, ``split``, ``n``,
        ``classes``, ``fingerprint``, ``a`` and ``b`` (scores of each run with intervals; mean, std,
        min and max over the runs), ``pairs``, ``difference`` (over all pairs), ``test``
        (openings, for the test split only), ``notes`` and ``warnings``.
    """
    runs_a, runs_b, notes = read_pairs(a, b, split)
    reference, seeds = runs_a[0], len(runs_a)
    runs = [*runs_a, *runs_b]
    names = short_names([saved.run for saved in runs])
    predictions = np.stack([aligned_predictions(reference, saved) for saved in runs])
    if drop_csv is not None:
        kept = kept_rows(reference.names, drop_csv)
        notes.append(f"{len(reference.names) - len(kept):,} images of {drop_csv} are left out.")
        reference, predictions = reference.subset(kept), predictions[:, kept]
    labels, classes, n = reference.labels, reference.classes, len(reference.names)
    by = verdict_metric(sort_by, runs)
    title_a, title_b = _titles(runs_a, runs_b)
    side_a = _side(runs_a, predictions[:seeds], names[:seeds], reference, title_a)
    side_b = _side(runs_b, predictions[seeds:], names[seeds:], reference, title_b)
    pairs, difference = _differences(runs, predictions, names, reference)
    support = {name: int((labels == i).sum()) for i, name in enumerate(classes)}
    warnings, seen_notes = _trained_on_lines(names, runs, drop_csv)
    line = verdict_sentence(difference, side_a["name"], side_b["name"], n, seeds, by)
    result = {
        **{"verdict": difference[VERDICTS[by]], "by": by, "line": line, "split": split, "n": n},
        "classes": classes,
        "support": support,
        "fingerprint": reference.fingerprint,
        "drop_csv": drop_csv,
        "seeds": seeds,
        "a": side_a,
        "b": side_b,
        "difference": difference,
        "pairs": pairs,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED, "groups": _num_groups(reference)},
        "notes": notes + seen_notes + _notes(seeds, support),
        "warnings": warnings,
    }
    if split == "test":
        result["test"], opened = _test_openings(reference.fingerprint, ledger)
        result["warnings"] += opened
    return result
