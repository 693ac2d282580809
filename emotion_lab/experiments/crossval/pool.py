"""The folds of one cross-validation as one: every image scored by the network that never saw it.

Sources:
    Stone 1974, J. R. Statist. Soc. B 36(2) (cross-validation).
    Bengio, Grandvalet 2004, JMLR 5 (the spread over folds does not tell the error of their mean).
    Forman, Scholz 2010, SIGKDD Explorations 12(1) (F1 of the pool, not the mean over folds).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.config import schema
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run
from emotion_lab.evaluation.predictions_file import read_predictions
from emotion_lab.evaluation.statistics import intervals, mean_std

#: Settings that leave images out of train or val, so that a fold does not hold all of them.
_THINNED = ("limit", "drop_csv", "drop_not_face")


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Out-of-fold predictions.

    Attributes:
        runs: The k runs, by fold.
        classes: K names, in the order of the probabilities.
        names: N names of images, all different, fold by fold.
        folds: The fold that held the image out, int64 (N,).
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        probabilities: float64 (N, K).
        notes: Worth showing.
    """

    runs: list[Run]
    classes: list[str]
    names: list[str]
    folds: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    notes: list[str]


def _listed(runs: Sequence[Run]) -> str:
    return f"runs=[{','.join(str(run.folder) for run in runs)}]"


def _same_config(runs: Sequence[Run]) -> None:
    """Refuse runs that differ in more than the fold.

    Raises:
        UserError: Naming the key and what there is, with the runs of the first configuration.
    """
    flat = [schema.identity(run.config, exclude=("data.fold",)) for run in runs]
    first = flat[0]
    for key in dict.fromkeys(key for one in flat for key in one):
        values = [json.dumps(one.get(key), sort_keys=True, default=str) for one in flat]
        if len(set(values)) > 1:
            alike = [run for run, one in zip(runs, flat, strict=True) if one == first]
            raise UserError(
                f"these runs are not one cross-validation: {key} is "
                f"{', '.join(dict.fromkeys(values))}. Give those of one configuration, for "
                f"instance {_listed(alike)}."
            )


def ordered(runs: Sequence[Run]) -> list[Run]:
    """Return the k runs of one cross-validation by fold.

    Raises:
        UserError: If they are none: another config, a fold that is missing or there twice.
    """
    for run in runs:
        if not (run.config.get("data") or {}).get("folds"):
            raise UserError(
                f"{run.folder} is no fold of a cross-validation. Train them with "
                "-m data.folds=5 'data.fold=range(5)'."
            )
    _same_config(runs)
    k = int(runs[0].config["data"]["folds"])
    by_fold: dict[int, Run] = {}
    for run in runs:
        index = int(run.config["data"]["fold"] or 0)
        if index in by_fold:
            raise UserError(
                f"fold {index} is there twice: {by_fold[index].folder} and {run.folder}. Give "
                "every fold once, runs=[<run>,<run>]."
            )
        by_fold[index] = run
    missing = [index for index in range(k) if index not in by_fold]
    if missing:
        there = ", ".join(map(str, sorted(by_fold)))
        lost = ",".join(map(str, missing))
        raise UserError(
            f"of {k} folds there are {there} only. Train data.fold={lost} with the same options "
            f"({'-m ' if len(missing) > 1 else ''}data.fold={lost})."
        )
    return [by_fold[index] for index in range(k)]


def _check_cover(runs: Sequence[Run]) -> list[str]:
    """Refuse folds that together do not hold out all that they were cut from.

    Each knows how many images of each class it trained on and held out; all of them were cut from
    the same images only if that sum is the same for all, and is what all together hold out.

    Returns:
        A note where images were left out on purpose, so that nothing can be counted.

    Raises:
        UserError: If the counts do not fit.
    """
    data = runs[0].config["data"]
    prints = [run.metrics.get("fingerprints") or {} for run in runs]
    for run, found in zip(runs, prints, strict=True):
        if not all({"counts", "hash"} <= set(found.get(split, ())) for split in ("train", "val")):
            raise UserError(
                f"{run.folder}: its metrics.json tells no fingerprints of train and val, so it "
                "cannot be checked. Train that fold again."
            )
    thinned = [f"data.{key}={data[key]}" for key in _THINNED if data.get(key)]
    if thinned:
        return [
            f"{', '.join(thinned)} leaves images out of the folds: that the pool is all of train "
            "and val cannot be checked"
        ]
    classes = list(prints[0]["val"]["counts"])
    held = {name: sum(found["val"]["counts"].get(name, 0) for found in prints) for name in classes}
    if data.get("relabel_csv"):
        # Train has other labels then, val has not.
        classes, held = ["n"], {"n": sum(held.values())}
    for run, found in zip(runs, prints, strict=True):
        both = [found[split]["counts"] for split in ("train", "val")]
        if classes == ["n"]:
            both = [{"n": sum(counts.values())} for counts in both]
        for name in classes:
            here = sum(counts.get(name, 0) for counts in both)
            if here != held[name]:
                what = "images" if name == "n" else f"images of {name}"
                raise UserError(
                    f"{run.folder} was cut out of {here:,} {what}, and all folds together hold "
                    f"out {held[name]:,}: they were not trained on the same data."
                )
    return []


def pool(runs: Sequence[Run]) -> OutOfFoldPredictions:
    """Put the val predictions of the folds of one cross-validation together.

    Args:
        runs: In any order.

    Raises:
        UserError: If they are not one cross-validation, overlap, leave images out, or their
            predictions are damaged.
    """
    runs = ordered(runs)
    saved = [read_predictions(run.folder, "val") for run in runs]
    classes = saved[0].classes
    for one in saved[1:]:
        if set(one.classes) != set(classes):
            raise UserError(
                f"{saved[0].run} and {one.run} do not have the same classes: only one of them has "
                f"{', '.join(sorted(set(one.classes) ^ set(classes)))}."
            )
    owner: dict[str, int] = {}
    for index, one in enumerate(saved):
        twice = next((name for name in one.names if name in owner), None)
        if twice is not None:
            raise UserError(
                f"folds {owner[twice]} and {index} overlap: both hold out '{twice}'. They were "
                "not cut alike; train the folds in one sweep."
            )
        owner.update(dict.fromkeys(one.names, index))
    notes = _check_cover(runs)
    unread = sum(int(run.metrics["val"].get("skipped", 0)) for run in runs)
    if unread:
        notes.append(f"{unread:,} images could not be read and are left out")
    columns = [[one.classes.index(name) for name in classes] for one in saved]
    places = [np.argsort(order) for order in columns]
    return OutOfFoldPredictions(
        runs,
        classes,
        list(owner),
        np.concatenate([np.full(len(one.names), i) for i, one in enumerate(saved)]),
        np.concatenate([place[one.labels] for place, one in zip(places, saved, strict=True)]),
        np.concatenate([place[one.predicted] for place, one in zip(places, saved, strict=True)]),
        np.concatenate([one.probabilities[:, c] for c, one in zip(columns, saved, strict=True)]),
        notes,
    )


def fingerprint(pooled: OutOfFoldPredictions) -> dict[str, Any]:
    """Describe the pool: its hash is that of the hashes of the folds' val, in order.

    It is the same only for the same images, cut into the same folds: what ``compare`` asks for.
    """
    counts = np.bincount(pooled.labels, minlength=len(pooled.classes)).tolist()
    parts = [run.metrics["fingerprints"]["val"]["hash"] for run in pooled.runs]
    return {
        "n": len(pooled.names),
        "counts": dict(zip(pooled.classes, counts, strict=True)),
        "hash": hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest(),
        "known_as": None,
        "folds": len(parts),
    }


def warnings_of(pooled: OutOfFoldPredictions) -> list[str]:
    """Return what a reader of the numbers has to know."""
    stage, metric = str(pooled.runs[0].config["monitor"]).split("/", 1)
    lines = [
        "any two folds share most of their training images: the standard deviation over folds is "
        "no standard error of their mean, and no test may be built on it",
        "the interval is over images, for these networks: another seed moves the score as well",
    ]
    if stage == "val":
        metric = metric.replace("_", " ").replace("f1", "F1")
        lines.append(
            f"each fold chose its epoch by its own val ({metric}): the scores are a little too good"
        )
    return lines


def summary(pooled: OutOfFoldPredictions) -> dict[str, Any]:
    """Return the content of ``folds.json``, builtins only.

    ``accuracy`` and ``macro_f1`` of the pool with 95 % intervals over the images, ``per_class``
    F1, ``per_fold`` scores, ``over_folds`` (mean, std, min, max of these), ``notes``, ``warnings``.
    """
    sure = intervals(pooled.labels, pooled.predicted, len(pooled.classes))
    per_class = {
        name: {
            "f1": sure["f1"][i],
            "f1_ci95": sure["f1_ci95"][i],
            "support": int((pooled.labels == i).sum()),
        }
        for i, name in enumerate(pooled.classes)
    }
    rows = []
    for index, run in enumerate(pooled.runs):
        val = run.metrics["val"]
        scores = {key: float(val[key]) for key in ("accuracy", "macro_f1", "loss")}
        about = {"fold": index, "run": str(run.folder), "n": int((pooled.folds == index).sum())}
        rows.append({**about, **scores, "best_epoch": run.metrics.get("best_epoch")})
    data = pooled.runs[0].config["data"]
    return {
        "folds": len(pooled.runs),
        "split_seed": data.get("split_seed"),
        "seed": pooled.runs[0].seed,
        "model": pooled.runs[0].config["model"]["name"],
        "classes": pooled.classes,
        **{key: value for key, value in sure.items() if not key.startswith("f1")},
        "per_class": per_class,
        "per_fold": rows,
        "over_folds": {
            key: mean_std([row[key] for row in rows]) for key in ("accuracy", "macro_f1", "loss")
        },
        "fingerprint": fingerprint(pooled),
        "notes": pooled.notes,
        "warnings": warnings_of(pooled),
    }


def _between(pair: list[float] | None, digits: int = 4) -> str:
    return "[no spread]" if pair is None else f"[{pair[0]:.{digits}f}, {pair[1]:.{digits}f}]"


def lines(found: dict[str, Any]) -> list[str]:
    """Return :func:`summary` as lines for the terminal."""
    k, n, over = found["folds"], found["n"], found["over_folds"]
    shown = [f"{'fold':<10}{'n':>8}{'accuracy':>10}{'macro F1':>10}{'loss':>10}"]
    for row in found["per_fold"]:
        shown.append(
            f"{row['fold']:<10}{row['n']:>8,}{row['accuracy']:>10.4f}{row['macro_f1']:>10.4f}"
            f"{row['loss']:>10.4f}"
        )
    for word in ("mean", "std"):
        values = "".join(f"{over[key][word]:>10.4f}" for key in ("accuracy", "macro_f1", "loss"))
        shown.append(f"{word:<18}{values}")
    shown += [
        "",
        f"out-of-fold, {k} folds, every image once (n = {n:,}):",
        f"accuracy {found['accuracy']:.4f} {_between(found['accuracy_ci95'])}, "
        f"macro F1 {found['macro_f1']:.4f} {_between(found['macro_f1_ci95'])} (95 % intervals)",
    ]
    shown += [f"  {note}" for note in found["notes"]]
    shown += [f"  warning: {warning}" for warning in found["warnings"]]
    return shown


def write(pooled: OutOfFoldPredictions, run_dir: Path, command: str) -> dict[str, Any]:
    """Write the run folder: predictions, scores, report, pictures.

    ``predictions_val.csv`` and ``metrics.json`` are as those of a run of train, so that
    ``compare`` reads the folder.

    Returns:
        The content of ``folds.json``.
    """
    # torch is slow to import, and nothing above needs it.
    import torch

    from emotion_lab.core.environment import git_commit
    from emotion_lab.core.io import write_json
    from emotion_lab.evaluation.metrics import report_text, score
    from emotion_lab.evaluation.predict import Predictions
    from emotion_lab.evaluation.predictions_file import write_predictions
    from emotion_lab.experiments.crossval.figure import figure
    from emotion_lab.reports.run_files import write_confusion
    from emotion_lab.reports.style import both

    found = summary(pooled)
    logits = torch.from_numpy(pooled.probabilities).clamp_min(1e-12).log().float()
    count = torch.arange(len(pooled.names))
    scores = score(Predictions(logits, torch.from_numpy(pooled.labels), count), pooled.classes)
    scores |= {"fingerprint": found["fingerprint"], "tta": "none"}
    write_predictions(
        run_dir / "predictions_val.csv",
        pooled.names,
        pooled.labels,
        pooled.predicted,
        pooled.probabilities,
        pooled.classes,
    )
    (run_dir / "classification_report_val.txt").write_text(
        report_text(scores, "val"), encoding="utf-8"
    )
    title = f"out-of-fold: n = {found['n']}, accuracy {found['accuracy']:.2%}"
    write_confusion(scores, run_dir / "confusion_val.png", title)
    both(lambda style: figure(found, style), run_dir, "folds")
    about = {"seed": found["seed"], "model": found["model"], "folds": found["folds"]}
    runs = [str(run.folder) for run in pooled.runs]
    made = {"runs": runs, "commit": git_commit(), "command": command}
    write_json(run_dir / "metrics.json", {"val": scores, **about, **made})
    write_json(run_dir / "folds.json", {**found, **made})
    return found
