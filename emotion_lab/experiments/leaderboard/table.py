"""Compute the content of ``leaderboard.json``: ranks, scores over seeds, tests against the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.io import file_hash
from emotion_lab.core.progress import track
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.predictions_file import SavedPredictions, read_predictions
from emotion_lab.evaluation.statistics import ALPHA, ROUNDS, SEED, count, mean_std
from emotion_lab.experiments.compare.load import aligned_predictions, short_names
from emotion_lab.experiments.leaderboard.grouping import (
    SCORES,
    Configuration,
    Configurations,
    clean,
    fingerprint,
    json_safe,
)
from emotion_lab.experiments.leaderboard.latency import measure
from emotion_lab.experiments.leaderboard.significance import add_holm, compare_with_best

#: Predicted classes of each seed, int64 (N,).
SeedPredictions = dict[int, np.ndarray]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _row(
    configuration: Configuration,
    predictions: SeedPredictions,
    reference: SavedPredictions,
    names: dict[Path, str],
) -> dict[str, Any]:
    """Return the row of a configuration without rank and comparison with the best."""
    labels, k = reference.labels, len(reference.classes)
    runs = []
    for run in configuration.runs:
        counts = count(labels, predictions[run.seed], k)
        runs.append(
            {
                "folder": str(run.folder),
                "name": names[run.folder],
                "seed": run.seed,
                **{score: float(getattr(counts, score)) for score in SCORES},
                **{
                    key: json_safe(run.metrics.get(key))
                    for key in ("best_epoch", "seconds", "commit")
                },
            }
        )
    confusion = sum(
        np.bincount(labels * k + predicted, minlength=k * k) for predicted in predictions.values()
    )
    parameters = configuration.runs[0].metrics.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    return {
        "name": configuration.name,
        "values": configuration.values,
        "seeds": [run.seed for run in configuration.runs],
        **{score: mean_std([row[score] for row in runs]) for score in SCORES},
        "parameters": _count(parameters.get("total")),
        "trainable": _count(parameters.get("trainable")),
        "confusion": np.reshape(confusion, (k, k)).tolist(),
        "runs": runs,
    }


def count_openings(
    configurations: Sequence[Configuration], ledger: Path
) -> tuple[list[int], list[str]]:
    """Count how often the checkpoints of each configuration were scored on a test set.

    An opening belongs to a configuration if it has the hash of the ``best.ckpt`` of a run, or its
    run directory. An opening by an ensemble has neither.

    Returns:
        Number of openings of each configuration, and warnings.
    """
    lines, counts, warnings = test_ledger.lines(ledger), [], []
    recorded = [str(line.get("run")) for line in lines]
    run_dirs = [None if "\0" in text else Path(text).resolve() for text in recorded]
    for configuration in configurations:
        openings: set[int] = set()
        for run in configuration.runs:
            checkpoint = run.folder / "checkpoints" / "best.ckpt"
            digest = file_hash(checkpoint) if lines and checkpoint.is_file() else None
            run_dir = run.folder.resolve()
            matches = {
                i
                for i, line in enumerate(lines)
                if (digest and line.get("checkpoint") == digest) or run_dirs[i] == run_dir
            }
            if isinstance(run.metrics.get("test"), dict) and not matches:
                warnings.append(
                    f"{clean(run.folder)} has test scores that are not in the ledger "
                    f"{clean(ledger)}: set test_ledger=<the file it wrote>."
                )
            openings |= matches
        counts.append(len(openings))
    return counts, warnings


def _warnings(by: str, configurations: int, runs: int, opened: int) -> list[str]:
    """Return the warnings about selection on val and on test."""
    lines = []
    if configurations > 1:
        lines.append(
            f"The val score of the best of {configurations} configurations ({runs} runs) is "
            f"optimistic, because the same images selected it: expect a lower {SCORES[by]} on new "
            "images, the more so the more configurations were tried. Open the test split once, "
            "for the selected configuration only."
        )
    if opened > 1:
        lines.append(
            f"The test split was opened for {opened} of these configurations: selecting among them "
            "by test scores overestimates the best one."
        )
    return lines


def _notes(rows: list[dict[str, Any]], reference: SavedPredictions) -> list[str]:
    notes = []
    single = sum(len(row["seeds"]) == 1 for row in rows)
    if single:
        some = "1 configuration has" if single == 1 else f"{single} configurations have"
        subject = "Every configuration has" if single == len(rows) else some
        notes.append(
            f"{subject} one seed only: such a difference is between trained networks, and another "
            "seed can change it."
        )
    if len({tuple(row["seeds"]) for row in rows}) > 1:
        notes.append(
            "The configurations do not all have the same seeds: differences from the best use the "
            "common seeds only."
        )
    absent = [
        clean(name) for i, name in enumerate(reference.classes) if not (reference.labels == i).any()
    ]
    if absent:
        notes.append(f"No samples: {', '.join(absent)}.")
    return notes


def _read_predictions(
    configurations: Sequence[Configuration],
) -> tuple[SavedPredictions, list[SeedPredictions]]:
    """Return the predictions of the first run, and those of all runs aligned with it."""
    reference: SavedPredictions | None = None
    predictions: list[SeedPredictions] = []
    for configuration in track(configurations, "reading predictions"):
        by_seed = {}
        for run in configuration.runs:
            saved = read_predictions(run.folder, "val")
            reference = reference or saved
            by_seed[run.seed] = aligned_predictions(reference, saved)
        predictions.append(by_seed)
    assert reference is not None
    return reference, predictions


def _rank(
    rows: list[dict[str, Any]],
    predictions: list[SeedPredictions],
    reference: SavedPredictions,
    by: str,
) -> list[dict[str, Any]]:
    """Return the rows by rank, each compared with the best one."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i][by]["mean"])
    best, k = order[0], len(reference.classes)
    for i in track(order, "comparing"):
        rows[i]["against_best"] = None
        if i != best:
            rows[i]["against_best"] = compare_with_best(
                reference.labels, predictions[best], predictions[i], k, by, reference.groups
            )
    ranked = [{"rank": rank, **rows[i]} for rank, i in enumerate(order, 1)]
    add_holm([row["against_best"] for row in ranked[1:]])
    return ranked


def build_leaderboard(
    configurations: Configurations, ledger: Path, latency: bool = False
) -> dict[str, Any]:
    """Rank configurations by their mean score over seeds and compare each with the best.

    Returns:
        Builtins: ``by``, ``split``, ``n``, ``classes``, ``fingerprint``, ``keys`` (config keys that
        differ) and ``main`` (number of keys that identify a configuration), ``groups`` by rank,
        each with ``rank``, ``name``, ``values``, ``seeds``, ``accuracy`` and ``macro_f1`` (n, mean,
        std, min, max), ``parameters``, ``confusion`` (counts over all its seeds, rows true),
        ``openings``, ``latency`` (None if not measured), ``against_best`` (None for the best) and
        ``runs``; ``latency`` (conditions), ``comparisons``, ``notes``, ``warnings``.
    """
    by, groups = configurations.by, configurations.groups
    runs = [run for group in groups for run in group.runs]
    folders = [run.folder for run in runs]
    names = dict(zip(folders, map(clean, short_names(folders)), strict=True))
    reference, predictions = _read_predictions(groups)
    rows = [
        _row(group, by_seed, reference, names)
        for group, by_seed in zip(groups, predictions, strict=True)
    ]
    openings, warnings = count_openings(groups, ledger)
    conditions, latencies = measure(groups) if latency else (None, [None] * len(rows))
    for row, n_openings, milliseconds in zip(rows, openings, latencies, strict=True):
        row |= {"openings": n_openings, "latency": milliseconds}
    ranked = _rank(rows, predictions, reference, by)
    opened = sum(n_openings > 0 for n_openings in openings)
    return {
        "by": by,
        "split": "val",
        "n": len(reference.labels),
        "classes": [clean(name) for name in reference.classes],
        "fingerprint": fingerprint(groups[0].runs[0], "val") or None,
        "configurations": len(ranked),
        "total_runs": len(runs),
        "keys": configurations.keys,
        "main": configurations.main,
        "groups": ranked,
        "comparisons": len(ranked) - 1,
        "alpha": ALPHA,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED},
        "latency": conditions,
        "notes": [*configurations.notes, *_notes(ranked, reference)],
        "warnings": [*_warnings(by, len(ranked), len(runs), opened), *warnings],
    }
