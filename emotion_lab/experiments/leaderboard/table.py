"""The numbers of a leaderboard, as builtins: what ``leaderboard.json`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.io import file_hash
from emotion_lab.core.progress import track
from emotion_lab.evaluation import test_ledger as seal
from emotion_lab.evaluation.predictions_file import SavedPredictions, read_predictions
from emotion_lab.evaluation.statistics import ALPHA, ROUNDS, count, mean_std
from emotion_lab.experiments.compare.load import aligned, titles
from emotion_lab.experiments.leaderboard.grouping import (
    SCORES,
    Configuration,
    Configurations,
    clean,
    fingerprint,
    json_safe,
)
from emotion_lab.experiments.leaderboard.latency import measure
from emotion_lab.experiments.leaderboard.significance import SEED, against, corrected

WORDS = {"accuracy": "accuracy", "macro_f1": "macro F1"}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _row(
    group: Configuration,
    guesses: dict[int, np.ndarray],
    saved: SavedPredictions,
    names: dict[Path, str],
) -> dict[str, Any]:
    """Return what is known of a configuration by itself."""
    labels, k = saved.labels, len(saved.classes)
    runs = []
    for run in group.runs:
        about = {
            key: json_safe(run.metrics.get(key)) for key in ("best_epoch", "seconds", "commit")
        }
        counts = count(labels, guesses[run.seed], k)
        scores = {score: float(getattr(counts, score)) for score in SCORES}
        place = {"folder": str(run.folder), "name": names[run.folder], "seed": run.seed}
        runs.append({**place, **scores, **about})
    confusion = sum(np.bincount(labels * k + row, minlength=k * k) for row in guesses.values())
    parameters = group.runs[0].metrics.get("parameters")
    sizes = parameters if isinstance(parameters, dict) else {}
    return {
        "name": group.name,
        "values": group.values,
        "seeds": [run.seed for run in group.runs],
        **{score: mean_std([row[score] for row in runs]) for score in SCORES},
        "parameters": _whole(sizes.get("total")),
        "trainable": _whole(sizes.get("trainable")),
        "confusion": np.reshape(confusion, (k, k)).tolist(),
        "runs": runs,
    }


def openings(groups: Sequence[Configuration], ledger: Path) -> tuple[list[int], list[str]]:
    """Count how often the checkpoints of each configuration saw a test set.

    An opening is theirs if it names the hash of a run's ``best.ckpt``, or its run folder. One of an
    ensemble names neither.

    Returns:
        Openings of each configuration, and warnings.
    """
    lines, counts, warnings = seal.lines(ledger), [], []
    told = [str(line.get("run")) for line in lines]
    places = [None if "\0" in text else Path(text).resolve() for text in told]
    for group in groups:
        found = set()
        for run in group.runs:
            checkpoint = run.folder / "checkpoints" / "best.ckpt"
            ours = file_hash(checkpoint) if lines and checkpoint.is_file() else None
            place = run.folder.resolve()
            own = {
                i
                for i, line in enumerate(lines)
                if (ours and line.get("checkpoint") == ours) or places[i] == place
            }
            if isinstance(run.metrics.get("test"), dict) and not own:
                warnings.append(
                    f"{clean(run.folder)} scored its test split, and the ledger {clean(ledger)} "
                    "does not say so: set test_ledger=<the file it wrote>."
                )
            found |= own
        counts.append(len(found))
    return counts, warnings


def _warnings(by: str, configurations: int, runs: int, opened: int) -> list[str]:
    """Return what a reader of any such table must know."""
    lines = []
    if configurations > 1:
        lines.append(
            f"The best of {configurations} configurations ({runs} runs) by val is optimistic: the "
            f"images that chose it are those it is scored on, so its {WORDS[by]} on new images is "
            "likely lower, the more so the more were tried. Open the test split once, for it alone."
        )
    if opened > 1:
        lines.append(
            f"The test split was opened for {opened} of these configurations: choosing among them "
            "by it makes the best one look better than it is."
        )
    return lines


def _notes(rows: list[dict[str, Any]], saved: SavedPredictions) -> list[str]:
    notes = []
    single = sum(len(row["seeds"]) == 1 for row in rows)
    if single:
        some = "1 configuration has" if single == 1 else f"{single} configurations have"
        which = "Every configuration has" if single == len(rows) else some
        notes.append(
            f"{which} one seed only: such a difference is between trained networks, and another "
            "seed may turn out otherwise."
        )
    if len({tuple(row["seeds"]) for row in rows}) > 1:
        notes.append(
            "The configurations do not all have the same seeds: differences from the best are over "
            "the seeds both have."
        )
    absent = [clean(name) for i, name in enumerate(saved.classes) if not (saved.labels == i).any()]
    if absent:
        notes.append(f"No samples: {', '.join(absent)}.")
    return notes


def board(found: Configurations, ledger: Path, latency: bool = False) -> dict[str, Any]:
    """Rank configurations by the mean of their score over seeds, and judge each against the best.

    Args:
        found: Of :func:`emotion_lab.experiments.leaderboard.grouping.read`.
        ledger: The test ledger; it is read only.
        latency: Whether to measure how long each network takes.

    Returns:
        Builtins: ``by``, ``split``, ``n``, ``classes``, ``fingerprint``, ``keys`` and ``main`` (the
        config keys that differ, and how many of them tell all apart), ``groups`` by rank, each with
        ``rank``, ``name``, ``values``, ``seeds``, ``accuracy`` and ``macro_f1`` (n, mean, std, min,
        max), ``parameters``, ``confusion`` (counts over all its seeds, rows true), ``openings``,
        ``latency`` (None where not measured), ``against_best`` (None for the best) and ``runs``;
        ``latency`` (conditions), ``comparisons``, ``notes``, ``warnings``.

    Raises:
        UserError: For runs whose predictions are missing, damaged or not of the same images.
    """
    runs = [run for group in found.groups for run in group.runs]
    names = dict(
        zip([run.folder for run in runs], map(clean, titles([r.folder for r in runs])), strict=True)
    )
    first: SavedPredictions | None = None
    guesses: list[dict[int, np.ndarray]] = []
    for group in track(found.groups, "reading predictions"):
        rows = {}
        for run in group.runs:
            saved = read_predictions(run.folder, "val")
            first = first or saved
            rows[run.seed] = aligned(first, saved)
        guesses.append(rows)
    assert first is not None
    k = len(first.classes)
    table = [
        _row(group, rows, first, names) for group, rows in zip(found.groups, guesses, strict=True)
    ]
    opened, warnings = openings(found.groups, ledger)
    conditions: dict[str, Any] | None = None
    times: list[Any] = [None] * len(table)
    if latency:
        conditions, times = measure(found.groups)
    for row, count_of, time in zip(table, opened, times, strict=True):
        row |= {"openings": count_of, "latency": time}
    by = found.by
    order = sorted(range(len(table)), key=lambda i: -table[i][by]["mean"])
    best = order[0]
    for i in track(order, "comparing"):
        other = None
        if i != best:
            other = against(first.labels, guesses[best], guesses[i], k, by)
        table[i]["against_best"] = other
    ranked = [{"rank": place, **table[i]} for place, i in enumerate(order, 1)]
    corrected([row["against_best"] for row in ranked[1:]])
    return {
        "by": by,
        "split": "val",
        "n": len(first.labels),
        "classes": [clean(name) for name in first.classes],
        "fingerprint": fingerprint(found.groups[0].runs[0], "val") or None,
        "configurations": len(ranked),
        "total_runs": len(runs),
        "keys": found.keys,
        "main": found.main,
        "groups": ranked,
        "comparisons": len(ranked) - 1,
        "alpha": ALPHA,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED},
        "latency": conditions,
        "notes": [*found.notes, *_notes(ranked, first)],
        "warnings": [
            *_warnings(by, len(ranked), len(runs), sum(times > 0 for times in opened)),
            *warnings,
        ],
    }
