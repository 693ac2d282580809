"""Write, read and check the predictions file of a run; no torch import."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, to_bytes

SPLITS = ("train", "val", "test")
#: The first columns; those of the probabilities follow.
PREDICTION_COLUMNS = ["path", "true", "predicted"]
#: Column after these if ``data.group`` was set.
_GROUP = "group"
#: Tolerance of probabilities: float32, written with eight digits.
_ROUNDING = 1e-4
#: Tolerance of the scores in metrics.json, which are float32.
_FLOAT32 = 1e-6


def differ(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two fingerprints of splits are known to be of different images.

    Hashes of pixels and of files cannot be compared.
    """
    return first.get("of") == other.get("of") and first["hash"] != other["hash"]


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions of a run on a split, read from its files.

    Attributes:
        run: The run directory.
        split: ``train``, ``val`` or ``test``.
        classes: K names, in the order of the probabilities.
        names: N unique image names.
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        probabilities: float64 (N, K), rows sum to 1.
        metrics: Content of ``report.json`` and ``metrics.json``.
        groups: N names of groups (``data.group``), or None.
    """

    run: Path
    split: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    metrics: dict[str, Any]
    groups: list[str] | None = None

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """The fingerprint of the split, None if the run has none."""
        fingerprint = self.scores.get("fingerprint")
        if fingerprint is None and self.metrics.get("split") == self.split:
            fingerprint = self.metrics.get("fingerprint")
        return fingerprint if isinstance(fingerprint, dict) and "hash" in fingerprint else None

    @property
    def scores(self) -> dict[str, Any]:
        """The scores of the split in ``metrics.json``, empty if the run has none."""
        scores = self.metrics.get(self.split)
        return scores if isinstance(scores, dict) else {}

    @property
    def seed(self) -> int | None:
        """The training seed, None if unknown."""
        seed = self.metrics.get("seed")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    def subset(self, rows: np.ndarray) -> SavedPredictions:
        """Return the predictions of some rows, int64 (M,); ``metrics`` are those of all rows."""
        groups = None if self.groups is None else [self.groups[i] for i in rows]
        return replace(
            self,
            names=[self.names[i] for i in rows],
            labels=self.labels[rows],
            predicted=self.predicted[rows],
            probabilities=self.probabilities[rows],
            groups=groups,
        )


def write_predictions(
    path: Path,
    names: Sequence[str],
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
) -> None:
    """Write predictions to a CSV file for :func:`read_predictions`.

    The arrays are those of :class:`SavedPredictions`.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    header = PREDICTION_COLUMNS if groups is None else [*PREDICTION_COLUMNS, _GROUP]
    writer.writerow([*header, *(f"p_{name}" for name in classes)])
    for i, row in enumerate(probabilities.tolist()):
        first = [names[i], classes[labels[i]], classes[predicted[i]]]
        first += [] if groups is None else [groups[i]]
        writer.writerow([*first, *(f"{p:.8g}" for p in row)])
    atomic_write(path, to_bytes(out.getvalue()))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object. Evaluate that run again.")
    return content


def _files(run: Path, metrics: dict[str, Any]) -> dict[str, Path]:
    """Return split -> predictions file of a run directory."""
    paths = {split: run / f"predictions_{split}.csv" for split in SPLITS}
    files = {split: path for split, path in paths.items() if path.is_file()}
    evaluated = run / "predictions.csv"
    if evaluated.is_file():
        scored = [split for split in SPLITS if isinstance(metrics.get(split), dict)]
        split = metrics.get("split", scored[0] if len(scored) == 1 else None)
        if split not in SPLITS:
            raise UserError(
                f"the split of {evaluated} is unknown: neither report.json nor metrics.json in its "
                "folder names it. Evaluate that run again."
            )
        files.setdefault(split, evaluated)
    return files


def restore_hint(run: Path, split: str) -> str:
    """Return the command that recreates the predictions of a run."""
    required = [run / "config.yaml", run / "metrics.json", run / "checkpoints" / "best.ckpt"]
    if split == "val" and all(file.is_file() for file in required):
        ckpt = shlex.quote(f"ckpt={run}")
        return f"Recreate them with python -m emotion_lab.evaluate {ckpt} rescore=true"
    if split == "test":
        return "Only evaluate split=test opens the test split."
    return f"Run python -m emotion_lab.evaluate split={split} and give its run directory."


def find_predictions(run: Path, split: str) -> tuple[Path, dict[str, Any]]:
    """Return (predictions file of a split, metrics of the run) without reading the predictions."""
    if not run.exists():
        raise UserError(f"no such run: {run}. Give the run directory of train or evaluate.")
    if not run.is_dir():
        raise UserError(f"{run} is a file: give the run directory of train or evaluate.")
    metrics = {**_json(run / "report.json"), **_json(run / "metrics.json")}
    files = _files(run, metrics)
    if split not in files:
        others = f"it has those of {', '.join(files)}" if files else "it has none at all"
        raise UserError(f"no predictions of {split} in {run}: {others}. {restore_hint(run, split)}")
    if not metrics:
        raise UserError(f"{run} has predictions but no metrics.json: the run is incomplete.")
    return files[split], metrics


def _index(name: str, indices: dict[str, int], location: str) -> int:
    if name not in indices:
        raise UserError(
            f"{location}: the class '{name}' has no column p_{name}; the classes are "
            f"{', '.join(indices)}."
        )
    return indices[name]


def _classes(columns: list[str], num_first: int, path: Path) -> list[str]:
    """Return the names in the columns of probabilities, which follow the first ones."""
    rest = columns[num_first:]
    names = [column[2:] for column in rest]
    if columns[:3] != PREDICTION_COLUMNS or not all(column.startswith("p_") for column in rest):
        raise UserError(
            f"{path}, row 1: expected the columns path,true,predicted,p_<class>,... but got "
            f"{','.join(columns)[:120] or 'nothing'}."
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}, row 1: a class has two columns.")
    if len(names) < 2:
        raise UserError(
            f"{path}, row 1: {len(names)} class{'' if len(names) == 1 else 'es'}; at least 2 are "
            "needed."
        )
    return names


def _check_probabilities(
    values: np.ndarray, predicted: np.ndarray, locations: list[str], hint: str
) -> None:
    """Refuse invalid probabilities, and predictions that are not the most probable class."""
    with np.errstate(invalid="ignore"):
        checks = {
            "a probability is NaN or infinite": ~np.isfinite(values).all(1),
            "a probability is negative": (values < 0).any(1),
            "the probabilities do not sum to 1": np.abs(values.sum(1) - 1) > _ROUNDING,
            "the predicted class is not the most probable one": (
                values[np.arange(len(values)), predicted] < values.max(1) - _ROUNDING
            ),
        }
    for message, bad in checks.items():
        if bad.any():
            raise UserError(f"{locations[int(np.argmax(bad))]}: {message}. {hint}")


def _read(
    path: Path, rows: Any, run: Path, split: str, metrics: dict[str, Any]
) -> SavedPredictions:
    """Read the rows of a ``csv.reader``."""
    hint = restore_hint(run, split)
    header = next(rows, None) or []
    has_groups = header[3:4] == [_GROUP]
    num_first = 4 if has_groups else 3
    classes = _classes(header, num_first, path)
    indices = {name: i for i, name in enumerate(classes)}
    names: dict[str, int] = {}
    locations, labels, predicted, values, groups = [], [], [], [], []
    for row in rows:
        location = f"{path}, row {rows.line_num}"
        if len(row) != len(header):
            raise UserError(
                f"{location}: {len(row)} columns, expected {len(header)} as in row 1. The file is "
                f"truncated or damaged. {hint}"
            )
        if row[0] in names:
            raise UserError(f"{location}: '{row[0]}' is already in row {names[row[0]]}.")
        names[row[0]] = rows.line_num
        labels.append(_index(row[1], indices, location))
        predicted.append(_index(row[2], indices, location))
        groups.append(row[3])
        try:
            values.append([float(text) for text in row[num_first:]])
        except ValueError:
            raise UserError(f"{location}: a probability is not a number.") from None
        locations.append(location)
    if not names:
        raise UserError(f"{path} has no predictions: the split was empty.")
    saved = SavedPredictions(
        run,
        split,
        classes,
        list(names),
        np.array(labels, dtype=np.int64),
        np.array(predicted, dtype=np.int64),
        np.array(values, dtype=np.float64),
        metrics,
        groups if has_groups else None,
    )
    _check_probabilities(saved.probabilities, saved.predicted, locations, hint)
    return saved


def _check_scores(saved: SavedPredictions) -> None:
    """Refuse predictions whose number, accuracy or confusion matrix differ from ``metrics``."""
    scores = saved.metrics.get(saved.split)
    scores = scores if isinstance(scores, dict) else {}
    correct, k = saved.labels == saved.predicted, len(saved.classes)
    prefix = f"{saved.run} is inconsistent: its metrics.json has {saved.split}"
    hint = restore_hint(saved.run, saved.split)
    n, accuracy, confusion = scores.get("n"), scores.get("accuracy"), scores.get("confusion")
    if isinstance(n, int) and n != len(correct):
        raise UserError(f"{prefix} with {n} images, its predictions file {len(correct)}. {hint}")
    if isinstance(accuracy, float) and abs(accuracy - correct.mean()) > _FLOAT32:
        raise UserError(
            f"{prefix} accuracy {accuracy:.4f}, its predictions give {correct.mean():.4f} "
            f"({correct.sum()} of {len(correct)} correct). {hint}"
        )
    if confusion is not None and scores.get("classes") == saved.classes:
        counts = np.bincount(saved.labels * k + saved.predicted, minlength=k * k)
        if confusion != counts.reshape(k, k).tolist():
            raise UserError(
                f"{prefix} with another confusion matrix than its predictions: they are from "
                f"another run, or were edited. {hint}"
            )


def read_predictions(run: Path, split: str) -> SavedPredictions:
    """Read the predictions of a run on a split and compare them with its scores.

    In error messages, "row" is the line number of the file.

    Args:
        run: A run directory of train (``predictions_<split>.csv``) or evaluate
            (``predictions.csv``).
        split: ``train``, ``val`` or ``test``.
    """
    path, metrics = find_predictions(run, split)
    saved = read_predictions_file(path, run, split, metrics)
    _check_scores(saved)
    return saved


def read_predictions_file(
    path: Path, run: Path, split: str, metrics: dict[str, Any]
) -> SavedPredictions:
    """Read a file of :func:`write_predictions`; the other arguments describe its run."""
    try:
        # surrogateescape: paths that are not valid Unicode are read back unchanged.
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            try:
                return _read(path, rows, run, split, metrics)
            except csv.Error as error:
                raise UserError(f"{path}, row {rows.line_num}: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
