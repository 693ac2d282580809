"""Labels that are probably wrong: confident learning on predictions of images not trained on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.config.compose import defaults
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import canonical

#: What a run folder leaves of images it did not train on.
PREDICTIONS = "predictions_val.csv"


@dataclass(frozen=True)
class LabelIssue:
    """A label that is probably wrong.

    Attributes:
        index: Number of the image.
        suggested: Position of the most probable class.
        quality: Label quality 0..1, the probability given to the label (self-confidence).
        certainty: Probability of the suggested class.
    """

    index: int
    suggested: int
    quality: float
    certainty: float


@dataclass
class LabelIssues:
    """The ranked list, the least credible label first, and what it was made from.

    Attributes:
        ranked: Doubtful labels.
        predicted: Split -> how many of its images had a prediction.
        files: The predictions read.
        notes: Lines worth printing.
    """

    ranked: list[LabelIssue]
    predicted: dict[str, int]
    files: list[str]
    notes: list[str]


def find_predictions(places: list[str]) -> list[Path]:
    """Return the predictions that the folders hold.

    Args:
        places: Run folders, folders of run folders (a sweep over ``data.fold``), or CSV files.

    Raises:
        UserError: If one holds none, or holds predictions of images the model was trained on or
            of the sealed test split.
    """
    files: list[Path] = []
    for place in places:
        path = Path(str(place)).expanduser()
        if path.is_dir():
            own = [path / PREDICTIONS] if (path / PREDICTIONS).is_file() else []
            found = own or sorted(path.glob(f"*/{PREDICTIONS}"))
            if not found:
                raise UserError(
                    f"predictions={place}: no {PREDICTIONS} in it or in a folder of it. Give run "
                    "folders of train, or the folder of a sweep over data.fold."
                )
            files += found
        elif path.is_file():
            for split, why in (
                ("train", "predictions of images that were trained on hide wrong labels"),
                ("test", "the test split is sealed"),
            ):
                if path.stem.lower() == f"predictions_{split}":
                    raise UserError(f"predictions={place}: {why}. Give {PREDICTIONS} files.")
            files.append(path)
        else:
            raise UserError(f"predictions={place}: no such folder or file.")
    return files


def read_predictions(file: Path, classes: list[str]) -> dict[str, np.ndarray]:
    """Return image name -> float64 (K,) probabilities in the order of ``classes``.

    Raises:
        UserError: If the file has a wrong header, lacks a class, or a value is no probability.
    """

    def key(name: str) -> str:
        return canonical(name) or name.strip().lower()

    try:
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = list(csv.reader(stream))
    except (OSError, csv.Error) as error:
        raise UserError(f"Cannot read {file}: {error}.") from error
    header = [name.strip() for name in rows[0]] if rows else []
    columns = {key(name[2:]): i for i, name in enumerate(header) if name.startswith("p_")}
    lacking = [name for name in classes if key(name) not in columns]
    if "path" not in header or lacking:
        wanted = "path" if "path" not in header else f"p_{lacking[0]}"
        raise UserError(
            f"{file} has no column {wanted}: expected path and p_<class> for each class of the "
            "data, as train writes predictions_val.csv."
        )
    order = [columns[key(name)] for name in classes]
    result: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            values = np.array([float(row[column]) for column in order])
        except (ValueError, IndexError):
            values = np.array([np.nan])
        # More than the classes of the data may be predicted: a sum below 1 is right there.
        good = np.isfinite(values).all() and (values >= 0).all() and 0 < values.sum() <= 1.001
        if not good:
            raise UserError(f"{file}, row {number}: not a probability for each class.")
        name = row[header.index("path")]
        if name in result:
            raise UserError(f"{file}, row {number}: '{name}' is there already.")
        result[name] = values / values.sum()
    return result


def predict_val(
    place: str, data_cfg: dict[str, Any], classes: list[str], out: Path
) -> dict[str, np.ndarray]:
    """Let a checkpoint predict its own val: images it was not trained on.

    Args:
        place: A checkpoint or run folder.
        data_cfg: The ``data`` group of the audit; its path replaces the checkpoint's.
        classes: The data's classes.
        out: New folder for the files that scoring leaves.

    Returns:
        As :func:`read_predictions`.

    Raises:
        UserError: If the checkpoint is bad, of other data or of other classes.
    """
    from emotion_lab.core import checkpoint as ckpt
    from emotion_lab.core.environment import choose_accelerator
    from emotion_lab.evaluation.evaluate import evaluate_checkpoint, save_results

    file = ckpt.find(place)
    card = ckpt.read(file)[ckpt.CARD]
    own = card["config"]["data"]
    if own["name"] != data_cfg["name"] or set(card["classes"]) != set(classes):
        raise UserError(
            f"ckpt={place} was trained on data={own['name']} with the classes "
            f"{', '.join(card['classes'])}; audit that data, or give another checkpoint."
        )
    out.mkdir(parents=True, exist_ok=True)
    own = {**defaults("data", own["name"]), **own}
    own["path"] = data_cfg.get("path") or own["path"]
    judged = evaluate_checkpoint(file, own, "val", out, choose_accelerator("auto"))
    save_results(out, judged, PREDICTIONS)
    order = [judged.classes.index(name) for name in classes]
    values = judged.probabilities[:, order].astype(np.float64)
    return {judged.name(i): row / row.sum() for i, row in enumerate(values)}


def join(
    looked: ImageStats, predictions: list[dict[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Give the images their predictions; several of one image are averaged. Test gets none.

    Returns:
        Numbers of the images int64 (M,), probabilities float64 (M, K), how many predictions
        belong to no image, and how many to the test split.
    """
    number = {name: i for i, name in enumerate(looked.names)}
    total = np.zeros((len(looked), len(looked.classes)))
    times = np.zeros(len(looked), np.int64)
    strangers = sealed = 0
    for table in predictions:
        for name, values in table.items():
            i = number.get(name)
            if i is None:
                strangers += 1
            elif looked.split_of(i) == "test":
                sealed += 1
            else:
                total[i] += values
                times[i] += 1
    known = np.flatnonzero(times)
    return known, total[known] / times[known, None], strangers, sealed


def find_label_issues(
    looked: ImageStats, predictions: list[dict[str, np.ndarray]], files: list[str]
) -> LabelIssues:
    """Rank doubtful labels by confident learning.

    Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels" (JAIR 70), as cleanlab implements it: ``find_label_issues`` decides which, with
    thresholds for each class, and the probability of the given label ranks them.

    Args:
        looked: The images with their labels.
        predictions: Of images the models were not trained on, see :func:`read_predictions`.
        files: Where they came from, for the record.

    Raises:
        UserError: If no prediction belongs to an image of train or val, or only one class has
            any.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    known, probabilities, strangers, sealed = join(looked, predictions)
    labels = looked.label[known]
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"{files[0]} has predictions for {len(known)} images of this data, too few to compare "
            "classes: it was made from other data. Give runs on this data."
        )
    # Classes without a labelled image have no threshold of their own: they are set aside.
    present = np.unique(labels)
    kept = probabilities[:, present] / probabilities[:, present].sum(1, keepdims=True).clip(1e-12)
    compact = np.searchsorted(present, labels)
    order = find_label_issues(
        compact, kept, return_indices_ranked_by="self_confidence", n_jobs=1, verbose=False
    )
    quality = get_label_quality_scores(compact, kept, method="self_confidence")
    best = present[kept.argmax(1)]
    ranked = [
        LabelIssue(int(known[m]), int(best[m]), float(quality[m]), float(kept[m].max()))
        for m in np.asarray(order).tolist()
        if best[m] != labels[m]
    ]
    predicted = {
        name: int((looked.split[known] == s).sum()) for s, name in enumerate(looked.splits)
    }
    notes = []
    if strangers:
        notes.append(f"{strangers:,} predictions name no image of this data")
    if sealed:
        notes.append(f"{sealed:,} predictions of the test split are not used: it is sealed")
    return LabelIssues(ranked, {k: v for k, v in predicted.items() if v}, files, notes)
