"""Score a checkpoint on a split, and leave what was predicted in a run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.paths import check_appendable
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.types import Split
from emotion_lab.evaluation import test_ledger as seal
from emotion_lab.evaluation.calibration import check
from emotion_lab.evaluation.metrics import report_text, score, score_against
from emotion_lab.evaluation.predict import Predictions, predict
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import restore_all
from emotion_lab.reports import plots


def match_classes(data: EmotionData, classes: list[str], split: str) -> tuple[Split, list[str]]:
    """Return the split relabelled into the checkpoint's class order, by name.

    Samples of classes the checkpoint does not know are left out.

    Returns:
        The split and one line for each class left out.

    Raises:
        UserError: If no class is shared.
    """
    part = data.split(split)
    target = {name: index for index, name in enumerate(classes)}
    mapping = np.array([target.get(name, -1) for name in data.classes], dtype=np.int64)
    labels = mapping[part.labels]
    notes = []
    for index, name in enumerate(data.classes):
        missing = int((part.labels == index).sum())
        if name not in target and missing:
            notes.append(f"class '{name}' is unknown to the checkpoint: {missing} images left out")
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise UserError(
            f"no class is shared: the data has {', '.join(data.classes)}, "
            f"the checkpoint {', '.join(classes)}."
        )
    result = part.subset(kept)
    result.labels = labels[kept]
    result.opinions = {
        name: np.where(values >= 0, mapping[values], -1) for name, values in result.opinions.items()
    }
    if result.votes is not None:
        known = mapping >= 0
        votes = np.zeros((len(kept), len(classes)), result.votes.dtype)
        votes[:, mapping[known]] = result.votes[:, known]
        result.votes = votes
    return result, notes


def identity(checkpoints: Sequence[Path]) -> str:
    """Return the sha256 of a checkpoint; of several, that of their hashes in any order."""
    hashes = sorted(file_hash(path) for path in checkpoints)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def class_mapping(data: EmotionData, classes: list[str], split: str) -> list[dict[str, Any]]:
    """Say what becomes of every class of the data, in its order.

    Returns:
        For each class ``from`` (what the data calls it), ``to`` (the checkpoint's class, None
        where it has none) and ``n``, images in the split.
    """
    labels = data.split(split).labels
    return [
        {
            "from": ", ".join(data.source.folders.get(name, [name])),
            "to": name if name in classes else None,
            "n": int((labels == index).sum()),
        }
        for index, name in enumerate(data.classes)
    ]


def shared_scores(
    predictions: Predictions, mapping: list[dict[str, Any]], classes: list[str]
) -> dict[str, Any]:
    """Score over the classes that data and checkpoint share, and over all images of the data.

    Returns:
        ``classes`` shared; ``n`` images of them; ``accuracy`` when the network may only answer
        with these; ``n_all`` and ``accuracy_all`` over every image, those of classes that the
        checkpoint does not know counted as wrong.
    """
    shared = [name for name in classes if name in {row["to"] for row in mapping}]
    columns = torch.tensor([classes.index(name) for name in shared])
    restricted = columns[predictions.logits[:, columns].argmax(1)]
    everything = sum(row["n"] for row in mapping)
    right = int((predictions.logits.argmax(1) == predictions.labels).sum())
    return {
        "classes": shared,
        "n": len(predictions.labels),
        "accuracy": float((restricted == predictions.labels).float().mean()),
        "n_all": everything,
        "accuracy_all": right / everything,
    }


def leakage_warnings(
    known: Sequence[dict[str, Any]], split: str, fingerprint: dict[str, Any], foreign: bool
) -> list[str]:
    """Return warnings where images may have been trained on.

    Args:
        known: The fingerprints in each checkpoint's card.
        split: Which split is scored.
        fingerprint: Of the images that are scored.
        foreign: Whether the data is known to be other data.
    """
    hashes = {prints["train"]["hash"] for prints in known if "train" in prints}
    if fingerprint["hash"] in hashes:
        return ["warning: these are the images the checkpoint was trained on"]
    for prints in known if not foreign else ():
        seen = prints.get(split)
        if seen is not None and seen["hash"] != fingerprint["hash"]:
            return [
                f"warning: {split} is not what the run saw ({fingerprint['n']} images, then "
                f"{seen['n']}): images it was trained on may be among them"
            ]
    return []


def selection_bias_warning(card: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    """Return a warning where the images that are scored chose the members of an ensemble."""
    how = card.get("ensemble") or {}
    if how.get("choose") != "val" or how.get("hash") != fingerprint["hash"]:
        return []
    words = "warning: these images chose the members of the ensemble: its score is too good"
    if how.get("nested"):
        metric = str(how["metric"]).replace("_", " ").replace("f1", "F1")
        words += (
            f" ({metric} {how['nested']:.4f} where one half chose and the other was scored, "
            f"{how['score']:.4f} so)"
        )
    return [words]


def evaluate_checkpoint(
    checkpoints: Path | Sequence[Path],
    data_cfg: dict[str, Any],
    split: str,
    run_dir: Path,
    device: str,
    ledger: Path | None = None,
    tta: str = "none",
    foreign: bool = False,
    weights: Sequence[float] | None = None,
    network: tuple[EmotionNet | Ensemble, dict[str, Any]] | None = None,
    predictions: Predictions | None = None,
    run: Callable[[np.ndarray], np.ndarray] | None = None,
) -> EvaluationResult:
    """Score a checkpoint on one split; opening ``test`` writes the ledger.

    Args:
        checkpoints: A checkpoint of ours, or the members of an ensemble.
        data_cfg: The ``data`` group to read.
        split: ``train``, ``val`` or ``test``.
        run_dir: The run folder that the ledger names.
        device: ``cpu``, ``cuda`` or ``mps``.
        ledger: The test ledger; needed for ``test``.
        tta: Test-time augmentation, see :mod:`emotion_lab.evaluation.tta`.
        foreign: Whether this is other data than the checkpoint was trained on.
        weights: Shares of an ensemble's members; None weighs all the same.
        network: What the checkpoints make, with its card, where they were read already.
        predictions: What it says of the split, where it was asked already.
        run: A runtime that answers in its place, see :func:`predict`.

    Returns:
        The predictions, the scores, and all that belongs to them.

    Raises:
        UserError: For a bad checkpoint, missing data or split, or a ledger that cannot be written.
    """
    paths = [checkpoints] if isinstance(checkpoints, Path) else list(checkpoints)
    net, card = network or restore_all(paths, weights)
    members = card.get("members", [card])
    if split == "test":
        if ledger is None:
            raise UserError("the test split is opened only through a ledger")
        check_appendable(ledger)
    data = EmotionData(data_cfg, (split,), card["seed"], carve=not foreign)
    mapping = class_mapping(data, card["classes"], split) if foreign else []
    part, notes = match_classes(data, card["classes"], split)
    data.source.classes, data.source.splits[split] = list(card["classes"]), part
    data.prepare_for(card["input"]["image_size"], card["input"]["channels"])
    fingerprint = data.fingerprints()[split]
    seen = [card.get("fingerprints", {}) for card in members]
    if foreign and any(known.get(split, {}).get("hash") == fingerprint["hash"] for known in seen):
        # Named anew, but the very split of the run.
        foreign, mapping = False, []
    notes = [*data.source.notes, *notes, *leakage_warnings(seen, split, fingerprint, foreign)]
    notes += selection_bias_warning(card, fingerprint)
    for row in mapping:
        print(f"  {row['from']} -> {row['to'] or 'left out'} ({row['n']:,} images)")
    for note in notes:
        print(f"  {note}")
    before: list[dict[str, Any]] = []
    setup = seal.setup(card, tta)
    if split == "test" and ledger is not None:
        before = seal.openings(ledger, fingerprint["hash"])
        print(
            f"test split opened: {len(before)} times before, "
            f"{seal.configurations([*before, setup])} configurations in all"
        )
    accuracy = None
    try:
        if predictions is None:
            loader = data.plain_loader(split)
            predictions = predict(net, loader, device, f"{split} ", tta, run)
        check(predictions.logits.numpy(), predictions.labels.numpy())
        scores = {**score(predictions, card["classes"]), "tta": tta}
        accuracy = scores["accuracy"]
    finally:
        # Also when it fails half-way: an opening is an opening.
        if split == "test" and ledger is not None:
            seal.record(ledger, run_dir, identity(paths), setup, fingerprint, accuracy)
    scores["fingerprint"] = fingerprint
    if len(part) > scores["n"]:
        scores["skipped"] = len(part) - scores["n"]
        notes.append(f"{scores['skipped']} images could not be read and are left out")
        print(f"  {notes[-1]}")
    for name, labels in part.opinions.items():
        scores.setdefault("by_labels", {})[name] = score_against(predictions, labels)
    if mapping:
        scores["shared"] = shared_scores(predictions, mapping, card["classes"])
    fit = data.dataset(split).fit
    return EvaluationResult(
        net, card, split, part, predictions, scores, fit, device, foreign, notes, before, mapping
    )


def save_results(run_dir: Path, judged: EvaluationResult, predictions: str) -> None:
    """Write the predictions under that name, report, confusion matrix and a grid of samples."""
    split, classes, scores = judged.split, judged.classes, judged.scores
    probabilities, predicted, labels = judged.probabilities, judged.predicted, judged.labels
    names = [judged.name(i) for i in range(len(labels))]
    write_predictions(run_dir / predictions, names, labels, predicted, probabilities, classes)
    (run_dir / f"classification_report_{split}.txt").write_text(
        report_text(scores, split), encoding="utf-8"
    )
    title = f"{split}: n = {scores['n']}, accuracy {scores['accuracy']:.2%}"
    plots.confusion(scores, run_dir / f"confusion_{split}.png", title)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(labels), generator=generator)[:32].tolist()
    right = [bool(labels[i] == predicted[i]) for i in chosen]
    captions = [
        f"{classes[predicted[i]]} {probabilities[i, predicted[i]]:.0%}"
        + ("" if good else f"\n(is {classes[labels[i]]})")
        for i, good in zip(chosen, right, strict=True)
    ]
    images = [judged.image(i) for i in chosen]
    plots.samples(images, captions, right, run_dir / f"samples_{split}.png")
