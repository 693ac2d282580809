"""Scores of a cross-validation: summary, terminal lines and the files of the run directory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.tables import TextTable
from emotion_lab.evaluation.statistics import drawn_units, interval_text, intervals, mean_std
from emotion_lab.experiments.crossval.pool import OutOfFoldPredictions

#: Scores of each fold.
SCORES = ("accuracy", "macro_f1", "loss")


def fingerprint(pooled: OutOfFoldPredictions) -> dict[str, Any]:
    """Return the fingerprint of the pool; its hash is that of the val hashes in fold order.

    It is equal for the same images in the same folds only, which ``compare`` requires.
    """
    counts = np.bincount(pooled.labels, minlength=len(pooled.classes)).tolist()
    hashes = [run.metrics["fingerprints"]["val"]["hash"] for run in pooled.runs]
    return {
        "n": len(pooled.names),
        "counts": dict(zip(pooled.classes, counts, strict=True)),
        "hash": hashlib.blake2b("\n".join(hashes).encode(), digest_size=16).hexdigest(),
        "known_as": None,
        "folds": len(hashes),
    }


def _warnings(pooled: OutOfFoldPredictions) -> list[str]:
    """Return the warnings on the interpretation of the scores."""
    stage, metric = str(pooled.runs[0].config["monitor"]).split("/", 1)
    lines = [
        "any two folds share most of their training images: the standard deviation over folds is "
        "not a standard error of the mean and must not be used in a test",
        f"the interval is over {'images' if pooled.groups is None else 'persons'}, for these "
        "networks only: another seed changes the score too",
    ]
    if stage == "val":
        metric = metric.replace("_", " ").replace("f1", "F1")
        lines.append(
            f"the best epoch of each fold was selected on its val ({metric}): the scores are "
            "slightly optimistic"
        )
    return lines


def summary(pooled: OutOfFoldPredictions) -> dict[str, Any]:
    """Return the content of ``folds.json``, builtins only.

    ``accuracy`` and ``macro_f1`` of the pool with 95 % intervals over the images, ``per_class``
    F1, ``per_fold`` scores, ``over_folds`` (their mean, std, min, max), ``notes``, ``warnings``.
    """
    arguments = (pooled.labels, pooled.predicted, len(pooled.classes))
    scores = intervals(*arguments, groups=pooled.groups)
    per_class = {
        name: {
            "f1": scores["f1"][i],
            "f1_ci95": scores["f1_ci95"][i],
            "support": int((pooled.labels == i).sum()),
        }
        for i, name in enumerate(pooled.classes)
    }
    per_fold: list[dict[str, Any]] = [
        {
            "fold": index,
            "run": str(run.folder),
            "n": int((pooled.folds == index).sum()),
            **{key: float(run.metrics["val"][key]) for key in SCORES},
            "best_epoch": run.metrics.get("best_epoch"),
        }
        for index, run in enumerate(pooled.runs)
    ]
    config = pooled.runs[0].config
    return {
        "folds": len(pooled.runs),
        "split_seed": config["data"].get("split_seed"),
        "seed": pooled.runs[0].seed,
        "model": config["model"]["name"],
        "classes": pooled.classes,
        **{key: value for key, value in scores.items() if not key.startswith("f1")},
        "per_class": per_class,
        "per_fold": per_fold,
        "over_folds": {key: mean_std([row[key] for row in per_fold]) for key in SCORES},
        "fingerprint": fingerprint(pooled),
        "notes": pooled.notes,
        "warnings": _warnings(pooled),
    }


def lines(content: dict[str, Any]) -> list[str | TextTable]:
    """Return :func:`summary` as lines for the terminal."""
    rows: list[list[str]] = [
        [str(row["fold"]), f"{row['n']:,}", *(f"{row[key]:.4f}" for key in SCORES)]
        for row in content["per_fold"]
    ]
    rows.append([])
    for name in ("mean", "std"):
        rows.append([name, "", *(f"{content['over_folds'][key][name]:.4f}" for key in SCORES)])
    return [
        TextTable(["fold", "n", "accuracy", "macro F1", "loss"], rows),
        "",
        f"out-of-fold predictions of {content['folds']} folds, each image once "
        f"(n = {content['n']:,}):",
        f"accuracy {content['accuracy']:.4f} {interval_text(content['accuracy_ci95'])}, "
        f"macro F1 {content['macro_f1']:.4f} {interval_text(content['macro_f1_ci95'])} "
        f"(95 % intervals over {drawn_units(content['groups'])})",
        *(f"  note: {note}" for note in content["notes"]),
        *(f"  warning: {warning}" for warning in content["warnings"]),
    ]


def write(pooled: OutOfFoldPredictions, run_dir: Path, command: str) -> dict[str, Any]:
    """Write predictions, scores, report and figures to the run directory.

    ``predictions_val.csv`` and ``metrics.json`` have the format of a run of train, so that
    ``compare`` can read the directory.

    Returns:
        The content of ``folds.json``.
    """
    # torch is slow to import, and the functions above do not need it.
    import torch

    from emotion_lab.core.environment import git_commit
    from emotion_lab.core.io import write_json
    from emotion_lab.evaluation.metrics import report_text, score
    from emotion_lab.evaluation.predict import Predictions
    from emotion_lab.evaluation.predictions_file import write_predictions
    from emotion_lab.experiments.crossval.figure import figure
    from emotion_lab.reports.run_files import write_confusion
    from emotion_lab.reports.style import both

    content = summary(pooled)
    logits = torch.from_numpy(pooled.probabilities).clamp_min(1e-12).log().float()
    positions = torch.arange(len(pooled.names))
    scores = score(Predictions(logits, torch.from_numpy(pooled.labels), positions), pooled.classes)
    scores |= {"fingerprint": content["fingerprint"], "tta": "none"}
    write_predictions(
        run_dir / "predictions_val.csv",
        pooled.names,
        pooled.labels,
        pooled.predicted,
        pooled.probabilities,
        pooled.classes,
        pooled.groups,
    )
    report_file = run_dir / "classification_report_val.txt"
    report_file.write_text(report_text(scores, "val"), encoding="utf-8")
    title = f"out-of-fold: n = {content['n']}, accuracy {content['accuracy']:.2%}"
    write_confusion(scores, run_dir / "confusion_val.png", title)
    both(lambda style: figure(content, style), run_dir, "folds")
    run = {key: content[key] for key in ("seed", "model", "folds")}
    folders = [str(fold.folder) for fold in pooled.runs]
    provenance = {"runs": folders, "commit": git_commit(), "command": command}
    write_json(run_dir / "metrics.json", {"val": scores, **run, **provenance})
    write_json(run_dir / "folds.json", {**content, **provenance})
    return content
