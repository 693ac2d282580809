"""One model on several datasets: ``cross_dataset.html``, ``cross_dataset.json`` and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, write_json
from emotion_lab.core.paths import as_list
from emotion_lab.core.tables import TextTable, show
from emotion_lab.data.checkpoint_data import CheckpointData, data_config, is_foreign
from emotion_lab.data.contamination import count_text, unknown_text
from emotion_lab.evaluation.dataset_list import OWN, kind_of
from emotion_lab.evaluation.evaluate import LedgerEntry, Predictor, evaluate
from emotion_lab.evaluation.predictions_file import read_predictions_file, write_predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import intervals
from emotion_lab.experiments.compare.load import short_names
from emotion_lab.reports import html
from emotion_lab.reports.evaluation_page import count, decimal, interval, percent


def _names(paths: Sequence[str]) -> list[str]:
    """Return a short name of every dataset."""
    given = iter(short_names([Path(path).expanduser() for path in paths if path != OWN]))
    return ["data of the checkpoint" if path == OWN else next(given) for path in paths]


def _open(predictor: Predictor, cfg: dict[str, Any], path: str) -> CheckpointData:
    """Open one dataset; further typed keys of ``data`` hold for every dataset."""
    typed = {key: value for key, value in cfg["data"].items() if value is not None}
    if path != OWN:
        name = kind_of(path)
        typed = {**compose.defaults("data", name), **typed, "name": name, "path": path}
    member = predictor.card.get("members", [predictor.card])[0]
    foreign = is_foreign(typed, member)
    return CheckpointData.open(predictor.card, data_config(typed, member), cfg["split"], foreign)


def _check_distinct(names: Sequence[str], opened: Sequence[CheckpointData | None]) -> None:
    """Refuse two datasets with the same images and labels."""
    known: dict[str, str] = {}
    for name, data in zip(names, opened, strict=True):
        if data is None:
            continue
        digest = data.fingerprint["hash"]
        if digest in known:
            raise UserError(
                f"datasets: {known[digest]} and {name} hold the same images and labels: give "
                "every dataset once."
            )
        known[digest] = name


def _own_row(result: EvaluationResult, model: str) -> dict[str, Any]:
    """Return the row of an evaluated dataset; see :func:`run_cross_dataset`."""
    scores = result.scores
    shared = scores.get("shared", {"classes": result.classes})
    return {
        "model": model,
        **_scores(result.labels, result.predicted, len(result.classes), result.groups),
        "classes": shared["classes"],
        "accuracy_shared": shared.get("accuracy"),
        "n_all": shared.get("n_all", scores["n"]),
        "mapping": result.mapping,
        "trained_on": scores["trained_on"],
        "fingerprint": scores["fingerprint"],
        "notes": result.notes,
    }


def _foreign_row(path: str, split: str) -> dict[str, Any]:
    """Return the row of the predictions of another program."""
    file = Path(path).expanduser()
    saved = read_predictions_file(file, file, split, {})
    return {
        "model": "predictions of another program",
        **_scores(saved.labels, saved.predicted, len(saved.classes), saved.groups),
        "classes": saved.classes,
        **dict.fromkeys(("accuracy_shared", "trained_on", "fingerprint")),
        "n_all": len(saved.labels),
        "mapping": [],
        "notes": [],
    }


def _scores(
    labels: np.ndarray, predicted: np.ndarray, k: int, groups: list[str] | None
) -> dict[str, Any]:
    values = intervals(labels, predicted, k, groups=groups)
    keys = ("n", "accuracy", "accuracy_ci95", "macro_f1", "macro_f1_ci95")
    return {key: values[key] for key in keys}


def contamination_text(row: dict[str, Any]) -> str:
    """Return how many images of a row were trained on, and the accuracy on the others."""
    if row["trained_on"] is None:
        return "unknown"
    found, unknown = count_text(row["trained_on"], row["n"]), unknown_text(row["trained_on"])
    if found is None:
        return "none" if unknown is None else f"unknown: {unknown}"
    others = row["trained_on"]["others"]
    rest = f"{others['accuracy']:.2%} on the {others['n']:,} others" if others["n"] else "all"
    return f"{found} ({rest})" + (f"; {unknown}" if unknown else "")


def table(rows: Sequence[dict[str, Any]]) -> TextTable:
    """Return the rows as a table for the terminal."""
    header = ("data", "n", "classes", "accuracy", "95 %", "macro F1", "95 %", "in training data")
    cells = [
        (
            row["name"],
            count(row["n"]),
            len(row["classes"]),
            f"{row['accuracy']:.2%}",
            interval(row["accuracy_ci95"], 2, as_percent=True),
            decimal(row["macro_f1"]),
            interval(row["macro_f1_ci95"]),
            contamination_text(row),
        )
        for row in rows
    ]
    return TextTable(header, cells, left=(0, 7))


def write_page(run_dir: Path, content: dict[str, Any]) -> None:
    """Write ``cross_dataset.html``, a self-contained page."""
    environment = html.environment("emotion_lab.experiments.run")
    for function in (count, decimal, interval, percent, contamination_text):
        environment.filters[function.__name__] = function
    page = environment.get_template("cross_dataset.html").render(r=content)
    atomic_write(run_dir / "cross_dataset.html", page.encode("utf-8", "backslashreplace"))


def run_cross_dataset(
    predictor: Predictor, cfg: dict[str, Any], run_dir: Path, facts: dict[str, Any]
) -> float:
    """Evaluate a model on every dataset of ``datasets``; return the accuracy on the first.

    ``cross_dataset.json`` has the facts of ``metrics.json`` and ``datasets``, a list of ``name``,
    ``location``, ``model``, the scores with their intervals, ``classes`` (those shared),
    ``accuracy_shared`` (predictions restricted to these), ``n_all`` (images of all classes),
    ``mapping``, ``trained_on``, ``fingerprint``, ``notes`` and ``predictions`` (file).
    """
    paths = as_list(cfg["datasets"])
    names = _names(paths)
    kinds = [kind_of(path) for path in paths]
    pairs = list(zip(paths, kinds, strict=True))
    opened = [None if kind == "predictions" else _open(predictor, cfg, p) for p, kind in pairs]
    _check_distinct(names, opened)
    rows = []
    for i, (path, name, data) in enumerate(zip(paths, names, opened, strict=True)):
        print(f"{name}: {path if data is None else data.module.source.location}")
        if data is None:
            row, file = _foreign_row(path, cfg["split"]), Path(path).name
        else:
            entry = LedgerEntry(Path(cfg["test_ledger"]), run_dir)
            result, file = evaluate(predictor, data, entry), f"predictions_{i + 1}.csv"
            row = _own_row(result, facts["model"])
            arrays = (result.labels, result.predicted, result.probabilities)
            write_predictions(run_dir / file, result.names, *arrays, result.classes, result.groups)
        rows.append({"name": name, "location": path, **row, "predictions": file})
    content = {"split": cfg["split"], "tta": cfg["tta"], **facts, "datasets": rows}
    write_json(run_dir / "cross_dataset.json", content)
    write_page(run_dir, content)
    show("", table(rows))
    print(f"report: {run_dir / 'cross_dataset.html'}")
    return float(rows[0]["accuracy"])
