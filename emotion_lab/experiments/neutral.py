"""Does a neutral image of each person help a model? Choice of the strength, and its effect.

Persons are divided into folds. The average neutral face and the strength that are applied to the
persons of a fold are measured on the persons of the other folds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.core.progress import track
from emotion_lab.core.tables import TextTable
from emotion_lab.data.groups import group_numbers
from emotion_lab.data.types import LoadedDataset, Split
from emotion_lab.evaluation.statistics import count, intervals, paired
from emotion_lab.inference.classifier import Classifier
from emotion_lab.inference.loader import load
from emotion_lab.inference.metadata import relabel_onnx
from emotion_lab.inference.neutral import correct, log_probabilities

#: Strengths that are tried.
STRENGTHS = tuple(round(0.1 * step, 1) for step in range(11))
FOLDS = 5
_BATCH = 64


def load_faces(
    source: LoadedDataset, split: str, classes: list[str], has_persons: bool
) -> tuple[Split, np.ndarray]:
    """Return the images of a split and their labels in the order of the model's classes."""
    part = source.splits[split]
    if part.groups is None and has_persons:
        raise UserError(
            "data.group is not set: give a regular expression for the person in the path of an "
            "image, for instance 'data.group=^([^/]+)/'. For images without persons set strength=."
        )
    missing = [name for name in source.classes if name not in classes]
    if missing or "neutral" not in source.classes:
        raise UserError(
            f"{source.location} has the classes {', '.join(source.classes)}, the model "
            f"{', '.join(classes)}: the data needs neutral and no class that the model lacks. Set "
            "data.exclude=[<names>]."
        )
    return part, np.array([classes.index(name) for name in source.classes])[part.labels]


def classify(part: Split, classifier: Classifier) -> np.ndarray:
    """Return the probabilities of all images, float32 (N, K), as live computes them."""
    starts = range(0, len(part), _BATCH)
    batches = [
        classifier([part.image(i) for i in range(start, min(start + _BATCH, len(part)))])
        for start in track(starts, "classifying")
    ]
    return np.concatenate(batches)


def average_face(
    part: Split, labels: np.ndarray, classifier: Classifier, strength: float
) -> dict[str, Any]:
    """Return the average of all neutral images, for a strength that other data has given.

    Returns:
        Builtins: ``n`` (neutral images), ``classes``, ``strength`` and ``average`` (K,).
    """
    neutral = part.subset(np.flatnonzero(labels == classifier.classes.index("neutral")))
    if not len(neutral):
        raise UserError("this split has no neutral image: set another split.")
    average = log_probabilities(classify(neutral, classifier)).mean(0)
    return {
        "n": len(neutral),
        "classes": classifier.classes,
        "strength": strength,
        "average": average.tolist(),
    }


def store(ckpt_or_file: str, result: dict[str, Any], split: str) -> Path:
    """Write average and strength into a checkpoint or an ONNX file, and return its path.

    The network does not change.
    """
    path = Path(ckpt_or_file)
    path = path if path.suffix == ".onnx" else find_checkpoint(path)
    average = [round(value, 6) for value in result["average"]]
    entry = {"average": average, "strength": result["strength"], "split": split, "n": result["n"]}
    if path.suffix == ".onnx":
        relabel_onnx(path, load(path).meta, {"neutral": entry})
    else:
        content = ckpt.read(path)
        ckpt.write(path, {**content, ckpt.CARD: {**content[ckpt.CARD], "neutral": entry}})
    return path


def enrolled_images(
    labels: np.ndarray, persons: np.ndarray, neutral: int, num_enrolled: int
) -> np.ndarray:
    """Return bool (N,): the first ``num_enrolled`` neutral images of every person."""
    chosen = np.zeros(len(labels), bool)
    for person in range(int(persons.max()) + 1):
        images = np.flatnonzero((persons == person) & (labels == neutral))
        chosen[images[:num_enrolled]] = True
    return chosen


def _person_means(values: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """Return the mean of the rows of each person, (P, K)."""
    sums = np.zeros((int(persons.max()) + 1, values.shape[1]))
    np.add.at(sums, persons, values)
    return sums / np.bincount(persons)[:, None]


def best_strength(
    probabilities: np.ndarray, labels: np.ndarray, faces: np.ndarray, average: np.ndarray
) -> float:
    """Return the strength with the highest macro F1, the smallest of equal ones.

    Args:
        probabilities: (N, K).
        labels: int64 (N,).
        faces: Neutral face of the person of each image, (N, K).
        average: (K,).
    """
    k = probabilities.shape[1]
    scores = [
        float(count(labels, correct(probabilities, faces, average, s).argmax(1), k).macro_f1)
        for s in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(scores))]


def measure(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: list[str],
    classes: list[str],
    num_enrolled: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the labels without and with correction, for persons not used to choose it.

    Args:
        probabilities: float32 (N, K).
        labels: int64 (N,).
        groups: Person of each image.
        num_enrolled: Neutral images of each person that measure its neutral face; they are not
            scored.

    Returns:
        Builtins: ``persons``, ``n`` (images scored), ``without`` and ``with`` (scores with
        intervals over persons), ``difference`` (paired), ``fold_strengths``, and of all persons
        ``strength`` and ``average`` (K,).
    """
    persons, k = group_numbers(groups), len(classes)
    chosen = enrolled_images(labels, persons, classes.index("neutral"), num_enrolled)
    for person, name in enumerate(sorted(set(groups))):
        images = chosen[persons == person]
        if not images.any() or images.all():
            lack = "no other image" if images.any() else "no neutral image"
            raise UserError(f"'{name}' (data.group) has {lack}: every person needs one of each.")
    num_persons = int(persons.max()) + 1
    if num_persons < 2 * FOLDS:
        raise UserError(f"{num_persons} persons are too few: {2 * FOLDS} or more are needed.")
    neutral_faces = _person_means(log_probabilities(probabilities[chosen]), persons[chosen])
    fold_of = np.random.default_rng(seed).permutation(num_persons) % FOLDS
    scored = np.flatnonzero(~chosen)
    probabilities, labels, persons = probabilities[scored], labels[scored], persons[scored]
    corrected, strengths = np.zeros(len(scored), np.int64), []
    for fold in range(FOLDS):
        average = neutral_faces[fold_of != fold].mean(0)
        inside = fold_of[persons] == fold
        others = (probabilities[~inside], labels[~inside], neutral_faces[persons[~inside]])
        strengths.append(best_strength(*others, average))
        values = (probabilities[inside], neutral_faces[persons[inside]], average, strengths[-1])
        corrected[inside] = correct(*values).argmax(1)
    plain = probabilities.argmax(1)
    average = neutral_faces.mean(0)
    return {
        "persons": num_persons,
        "n": len(scored),
        "num_enrolled": num_enrolled,
        "classes": classes,
        "without": intervals(labels, plain, k, groups=persons),
        "with": intervals(labels, corrected, k, groups=persons),
        "difference": paired(labels, plain, corrected, k, groups=persons),
        "fold_strengths": strengths,
        "strength": best_strength(probabilities, labels, neutral_faces[persons], average),
        "average": average.tolist(),
    }


def _cell(values: dict[str, Any], key: str, index: int | None, sign: str) -> str:
    """Return a score with its interval; ``index`` is the class of an F1."""
    value, ends = values[key], values[f"{key}_ci95"]
    if index is not None:
        value, ends = value[index], ends[index]
    if value is None:
        return "no samples"
    span = "" if ends is None else f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
    return f"{value:{sign}.3f}{span}"


def lines(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the result as lines for the terminal."""
    if "persons" not in result:
        return [f"average of {result['n']:,} neutral images; strength {result['strength']:g}"]
    scores: list[tuple[str, str, int | None]] = [
        ("accuracy", "accuracy", None),
        ("macro F1", "macro_f1", None),
        *((f"F1 {name}", "f1", index) for index, name in enumerate(result["classes"])),
    ]
    sides = {"without": "", "with": "", "difference": "+"}
    rows = [
        [title, *(_cell(result[side], key, index, sign) for side, sign in sides.items())]
        for title, key, index in scores
    ]
    enrolled = result["num_enrolled"]
    images = "1 neutral image" if enrolled == 1 else f"up to {enrolled} neutral images"
    low, high = min(result["fold_strengths"]), max(result["fold_strengths"])
    return [
        f"{result['persons']} persons, {result['n']:,} images scored; {images} of each is enrolled",
        "",
        TextTable(["score", "without", "with", "difference"], rows, left=range(4)),
        f"in brackets: 95 % intervals over {result['persons']} persons",
        "",
        f"strength {result['strength']:g} (for each fold of persons chosen on the others: {low:g} "
        f"to {high:g})",
        f"macro F1 with the neutral baseline: {result['difference']['macro_f1_verdict']}",
    ]
