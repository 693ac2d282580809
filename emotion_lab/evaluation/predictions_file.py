"""Predictions that a run leaves behind, read back and checked. Nothing here imports torch."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write

SPLITS = ("train", "val", "test")
_FIRST = ["path", "true", "predicted"]
#: Probabilities are written with eight digits, of float32.
_ROUNDING = 1e-4
#: Scores are kept as float32 in metrics.json; one row of ten million is more than this.
_FLOAT32 = 1e-6


@dataclass(frozen=True)
class SavedPredictions:
    """What a run said of a split.

    Attributes:
        run: The run folder.
        split: ``train``, ``val`` or ``test``.
        classes: K names, in the order of the probabilities.
        names: N names of images, all different.
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        probabilities: float64 (N, K), rows sum to 1.
        metrics: The run's ``metrics.json``, with what only ``report.json`` has.
    """

    run: Path
    split: str
    classes: list[str]
    names: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    metrics: dict[str, Any]

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """The split's fingerprint, None where the run wrote none."""
        own = self.metrics.get(self.split)
        found = own.get("fingerprint") if isinstance(own, dict) else None
        if found is None and self.metrics.get("split") == self.split:
            found = self.metrics.get("fingerprint")
        return found if isinstance(found, dict) and "hash" in found else None

    @property
    def seed(self) -> int | None:
        """The training seed, None where the run did not write it down."""
        seed = self.metrics.get("seed")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def write_predictions(
    path: Path,
    names: Sequence[str],
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Write predictions as :func:`read_predictions` reads them.

    Args:
        path: The file.
        names: N names of images.
        labels: True classes, int64 (N,).
        predicted: Predicted classes, int64 (N,).
        probabilities: float (N, K).
        classes: K names.

    Raises:
        OSError: If it cannot be written.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*_FIRST, *(f"p_{name}" for name in classes)])
    for i, row in enumerate(probabilities.tolist()):
        about = (names[i], classes[labels[i]], classes[predicted[i]])
        writer.writerow([*about, *(f"{p:.8g}" for p in row)])
    # A path that is not valid Unicode is still written, its odd bytes as \\udcxx.
    atomic_write(path, out.getvalue().encode("utf-8", errors="backslashreplace"))


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
        raise UserError(f"{path} is damaged: it is no JSON object. Evaluate that run again.")
    return content


def _files(run: Path, metrics: dict[str, Any]) -> dict[str, Path]:
    """Return split -> predictions file of a run folder."""
    found = {split: run / f"predictions_{split}.csv" for split in SPLITS}
    found = {split: path for split, path in found.items() if path.is_file()}
    plain = run / "predictions.csv"
    if plain.is_file():
        scored = [split for split in SPLITS if isinstance(metrics.get(split), dict)]
        split = metrics.get("split", scored[0] if len(scored) == 1 else None)
        if split not in SPLITS:
            raise UserError(
                f"cannot tell of which split {plain} is: neither report.json nor metrics.json "
                "beside it says so. Evaluate that run again."
            )
        found.setdefault(split, plain)
    return found


def restore_hint(run: Path, split: str) -> str:
    """Return what to type so that a run has its predictions of a split again."""
    whole = [run / "config.yaml", run / "metrics.json", run / "checkpoints" / "best.ckpt"]
    if split == "val" and all(file.is_file() for file in whole):
        typed = shlex.join(["python", "-m", "emotion_lab.evaluate", f"ckpt={run}", "rescore=true"])
        return f"Bring them back with {typed}"
    if split == "test":
        return "Nothing is opened here; only evaluate split=test does that."
    return f"Score it with python -m emotion_lab.evaluate split={split}, give that run folder."


def find_predictions(run: Path, split: str) -> tuple[Path, dict[str, Any]]:
    """Return (file with the predictions of ``split``, the run's metrics), without reading them all.

    Raises:
        UserError: If there is no such run, or it has no predictions of the split.
    """
    if not run.exists():
        raise UserError(f"no such run: {run}. Give the run folder of train or evaluate.")
    if not run.is_dir():
        raise UserError(f"{run} is a file: give the run folder of train or evaluate.")
    metrics = {**_json(run / "report.json"), **_json(run / "metrics.json")}
    found = _files(run, metrics)
    if split not in found:
        there = f"it has those of {', '.join(found)}" if found else "it has none at all"
        raise UserError(f"no predictions of {split} in {run}: {there}. {restore_hint(run, split)}")
    if not metrics:
        raise UserError(f"{run} has no metrics.json beside its predictions: the run is not whole.")
    return found[split], metrics


def _index(name: str, places: dict[str, int], where: str) -> int:
    if name not in places:
        raise UserError(
            f"{where}: the class '{name}' has no column p_{name}; the classes are "
            f"{', '.join(places)}."
        )
    return places[name]


def _classes(header: list[str] | None, path: Path) -> list[str]:
    columns = header or []
    names = [column[2:] for column in columns[3:]]
    if columns[:3] != _FIRST or not all(column.startswith("p_") for column in columns[3:]):
        raise UserError(
            f"{path}, row 1: expected the columns path,true,predicted,p_<class>,... but found "
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
    values: np.ndarray, predicted: np.ndarray, where: list[str], again: str
) -> None:
    """Refuse rows that are no probabilities, or whose prediction is not the most probable class."""
    with np.errstate(invalid="ignore"):
        checks = {
            "a probability is NaN or infinite": ~np.isfinite(values).all(1),
            "a probability is negative": (values < 0).any(1),
            "the probabilities do not sum to 1": np.abs(values.sum(1) - 1) > _ROUNDING,
            "the predicted class is not the most probable one": values[
                np.arange(len(values)), predicted
            ]
            < values.max(1) - _ROUNDING,
        }
    for words, bad in checks.items():
        if bad.any():
            raise UserError(f"{where[int(np.argmax(bad))]}: {words}. {again}")


def _read(path: Path, rows: Any, run: Path, split: str) -> dict[str, Any]:
    """Return the fields of :class:`SavedPredictions` that a csv.reader gives."""
    again = restore_hint(run, split)
    classes = _classes(next(rows, None), path)
    places = {name: i for i, name in enumerate(classes)}
    names: dict[str, int] = {}
    where, labels, predicted, values = [], [], [], []
    for row in rows:
        here = f"{path}, row {rows.line_num}"
        if len(row) != 3 + len(classes):
            raise UserError(
                f"{here}: {len(row)} columns, expected {3 + len(classes)} as in row 1. The file is "
                f"cut off or damaged. {again}"
            )
        if row[0] in names:
            raise UserError(f"{here}: '{row[0]}' is there already, in row {names[row[0]]}.")
        names[row[0]] = rows.line_num
        labels.append(_index(row[1], places, here))
        predicted.append(_index(row[2], places, here))
        try:
            values.append([float(text) for text in row[3:]])
        except ValueError:
            raise UserError(f"{here}: a probability is no number.") from None
        where.append(here)
    if not names:
        raise UserError(f"{path} holds no predictions: the split was empty.")
    result = {
        "run": run,
        "split": split,
        "classes": classes,
        "names": list(names),
        "labels": np.array(labels, dtype=np.int64),
        "predicted": np.array(predicted, dtype=np.int64),
        "probabilities": np.array(values, dtype=np.float64),
    }
    _check_probabilities(result["probabilities"], result["predicted"], where, again)
    return result


def _check_told(saved: SavedPredictions) -> None:
    """Refuse predictions that are not those the run scored: another run's, or edited.

    Raises:
        UserError: If number, accuracy or confusion matrix in ``metrics.json`` say otherwise.
    """
    told = saved.metrics.get(saved.split)
    told = told if isinstance(told, dict) else {}
    right, k = saved.labels == saved.predicted, len(saved.classes)
    where = f"{saved.run} is not whole: its metrics.json says {saved.split}"
    again = restore_hint(saved.run, saved.split)
    n, accuracy, confusion = told.get("n"), told.get("accuracy"), told.get("confusion")
    if isinstance(n, int) and n != len(right):
        raise UserError(f"{where} has {n} images, its predictions are of {len(right)}. {again}")
    if isinstance(accuracy, float) and abs(accuracy - right.mean()) > _FLOAT32:
        raise UserError(
            f"{where} accuracy {accuracy:.4f}, its predictions give {right.mean():.4f} "
            f"({right.sum()} of {len(right)} right). {again}"
        )
    if confusion is not None and told.get("classes") == saved.classes:
        counts = np.bincount(saved.labels * k + saved.predicted, minlength=k * k)
        if confusion != counts.reshape(k, k).tolist():
            raise UserError(
                f"{where} has another confusion matrix than its predictions give: they are "
                f"another run's, or were edited. {again}"
            )


def read_predictions(run: Path, split: str) -> SavedPredictions:
    """Read the predictions that a run saved of a split, and hold them against its scores.

    Args:
        run: A run folder of train (``predictions_<split>.csv``) or evaluate (``predictions.csv``).
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: If there is no such run or no predictions of the split, the file is damaged
            ("row" is the line number an editor shows), or it is not what was scored.
    """
    path, metrics = find_predictions(run, split)
    try:
        # A path that is not valid Unicode comes back as it went in.
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            try:
                content = _read(path, rows, run, split)
            except csv.Error as error:
                raise UserError(f"{path}, row {rows.line_num}: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    saved = SavedPredictions(**content, metrics=metrics)
    _check_told(saved)
    return saved
