"""Label issues by confident learning on out-of-sample predictions."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.config.compose import defaults
from emotion_lab.core.csv_input import read_rows
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import class_key
from emotion_lab.core.paths import find_checkpoint

#: File in a run directory with predictions of images that are not in its training set.
PREDICTIONS = "predictions_val.csv"


@dataclass(frozen=True)
class LabelIssue:
    """A label that is probably wrong.

    Attributes:
        suggested: Label of the most probable class.
        quality: Self-confidence 0..1, the predicted probability of the given label.
        certainty: Predicted probability of the suggested class.
    """

    index: int
    suggested: int
    quality: float
    certainty: float


@dataclass
class LabelIssues:
    """Label issues ranked by self-confidence, with the predictions they are based on.

    Attributes:
        ranked: Label issues, lowest self-confidence first.
        predicted: Split -> number of its images with a prediction.
    """

    ranked: list[LabelIssue]
    predicted: dict[str, int]
    files: list[str]
    notes: list[str]


def find_predictions(paths: list[str]) -> list[Path]:
    """Return the prediction files in ``paths``; train and test predictions are refused.

    ``paths`` are run directories, folders of run directories (a sweep over ``data.fold``), or CSV
    files.
    """
    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            in_runs = sorted(path.glob(f"*/{PREDICTIONS}"))
            run_files = [path / PREDICTIONS] if (path / PREDICTIONS).is_file() else in_runs
            if not run_files:
                raise UserError(
                    f"predictions={text}: no {PREDICTIONS} in this folder or its subfolders. Give "
                    "run directories of train, or the directory of a sweep over data.fold."
                )
            files += run_files
        elif path.is_file():
            for split, reason in (
                ("train", "predictions of training images hide wrong labels"),
                ("test", "the test split must not influence training"),
            ):
                if path.stem.lower() == f"predictions_{split}":
                    raise UserError(f"predictions={text}: {reason}. Give {PREDICTIONS} files.")
            files.append(path)
        else:
            raise UserError(f"predictions={text}: no such folder or file.")
    return files


def read_predictions(file: Path, classes: list[str]) -> dict[str, np.ndarray]:
    """Return sample name -> float64 (K,) probabilities in the order of ``classes``."""
    try:
        rows = read_rows(file)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"Cannot read {file}: {error}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    columns = {class_key(name[2:]): i for i, name in enumerate(header) if name.startswith("p_")}
    missing = [f"p_{name}" for name in classes if class_key(name) not in columns]
    if "path" not in header:
        missing.insert(0, "path")
    if missing:
        raise UserError(
            f"{file} has no column {missing[0]}: expected path and p_<class> for each class of the "
            "data, as in the predictions_val.csv of train."
        )
    order = [columns[class_key(name)] for name in classes]
    predictions: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            values = np.array([float(row[column]) for column in order])
        except (ValueError, IndexError):
            values = np.array([np.nan])
        # The model may have more classes than the data: the sum can be below 1.
        if not (np.isfinite(values).all() and (values >= 0).all() and 0 < values.sum() <= 1.001):
            raise UserError(f"{file}, row {number}: expected a probability for each class.")
        name = row[header.index("path")]
        if name in predictions:
            raise UserError(f"{file}, row {number}: duplicate path '{name}'.")
        predictions[name] = values / values.sum()
    return predictions


def predict_val(
    ckpt_path: str,
    data_cfg: dict[str, Any],
    classes: list[str],
    out: Path,
    printed: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Predict the val split of a checkpoint, in the format of :func:`read_predictions`.

    Images that the checkpoint learnt from are left out: its predictions repeat their labels.

    Args:
        ckpt_path: A checkpoint or run directory.
        data_cfg: The ``data`` group of the audit; its paths replace those of the checkpoint.
        out: New folder for the prediction file.
        printed: Notes on the data that were printed before.

    Returns:
        The predictions, and notes on images that are left out.
    """
    from emotion_lab.core import checkpoint
    from emotion_lab.core.environment import choose_accelerator
    from emotion_lab.evaluation.evaluate import evaluate_checkpoint
    from emotion_lab.reports.run_files import save_results

    file = find_checkpoint(ckpt_path)
    card = checkpoint.read(file)[checkpoint.CARD]
    cfg = card["config"]["data"]
    if cfg["name"] != data_cfg["name"] or set(card["classes"]) != set(classes):
        raise UserError(
            f"ckpt={ckpt_path} was trained on data={cfg['name']} with the classes "
            f"{', '.join(card['classes'])}; audit that data, or give another checkpoint."
        )
    out.mkdir(parents=True, exist_ok=True)
    cfg = {**defaults("data", cfg["name"]), **cfg}
    for key in ("path", "ferplus_csv"):
        cfg[key] = data_cfg.get(key) or cfg[key]
    device = choose_accelerator("auto")
    result = evaluate_checkpoint(file, cfg, "val", device, printed=printed)
    save_results(out, result, PREDICTIONS)
    order = [result.classes.index(name) for name in classes]
    probabilities = result.probabilities[:, order].astype(np.float64)
    assert result.seen is not None
    count = int(result.seen.sum())
    if count == len(probabilities):
        raise UserError(
            f"ckpt={ckpt_path} learnt from all {count:,} val images of this data, so its "
            "predictions hide wrong labels: give a checkpoint that was trained without them."
        )
    predictions = {
        result.name(i): row / row.sum() for i, row in enumerate(probabilities) if not result.seen[i]
    }
    note = f"{count:,} val images that {ckpt_path} learnt from are left out of the label issues"
    return predictions, [note] if count else []


def average_predictions(
    stats: ImageStats, predictions: list[dict[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Average the predictions of each image of train and val, matched by sample name.

    Returns:
        Image indices int64 (M,), probabilities float64 (M, K), number of predictions without an
        image, number of predictions of the test split.
    """
    index = {name: i for i, name in enumerate(stats.names)}
    total = np.zeros((len(stats), len(stats.classes)))
    count = np.zeros(len(stats), np.int64)
    num_unknown = num_test = 0
    for table in predictions:
        for name, values in table.items():
            i = index.get(name)
            if i is None:
                num_unknown += 1
            elif stats.split_name(i) == "test":
                num_test += 1
            else:
                total[i] += values
                count[i] += 1
    indices = np.flatnonzero(count)
    return indices, total[indices] / count[indices, None], num_unknown, num_test


def find_label_issues(
    stats: ImageStats, predictions: list[dict[str, np.ndarray]], files: list[str]
) -> LabelIssues:
    """Rank label issues by confident learning, as implemented by cleanlab.

    Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels" (JAIR 70). ``cleanlab.filter.find_label_issues`` selects the issues with per-class
    thresholds; they are ranked by self-confidence.
    The predictions must be out of sample. ``files`` are named in the report.
    """
    from cleanlab import filter as cleanlab_filter
    from cleanlab.rank import get_label_quality_scores

    indices, probabilities, num_unknown, num_test = average_predictions(stats, predictions)
    labels = stats.label[indices]
    # Classes without a labelled image have no threshold and are excluded.
    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(
            f"{files[0]} has predictions for {len(indices)} images of this data, too few to "
            "compare classes: they are predictions of other data. Give runs on this data."
        )
    probabilities = probabilities[:, present]
    probabilities = probabilities / probabilities.sum(1, keepdims=True).clip(1e-12)
    compact = np.searchsorted(present, labels)
    order = cleanlab_filter.find_label_issues(
        compact, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    quality = get_label_quality_scores(compact, probabilities, method="self_confidence")
    best, certainty = present[probabilities.argmax(1)], probabilities.max(1)
    ranked = [
        LabelIssue(int(indices[m]), int(best[m]), float(quality[m]), float(certainty[m]))
        for m in np.asarray(order).tolist()
        if best[m] != labels[m]
    ]
    counts = {s: int((stats.split[indices] == i).sum()) for i, s in enumerate(stats.splits)}
    notes = []
    if num_unknown:
        notes.append(f"{num_unknown:,} predictions match no image of this data")
    if num_test:
        notes.append(f"{num_test:,} predictions of the test split are not used")
    return LabelIssues(ranked, {s: n for s, n in counts.items() if n}, files, notes)
