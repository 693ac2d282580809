"""Score a checkpoint on a split and leave the results in a run folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.config import check_appendable
from emotion_lab.data.base import Split
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.errors import UserError
from emotion_lab.evaluation import ledger as seal
from emotion_lab.evaluation import plots
from emotion_lab.evaluation.judged import Judged
from emotion_lab.evaluation.predict import predict
from emotion_lab.evaluation.scores import brief, report_text, score
from emotion_lab.files import write_whole
from emotion_lab.models.restore import restore


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, completely or not at all."""
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


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
    return result, notes


def judge(
    checkpoint: Path,
    data_cfg: dict[str, Any],
    split: str,
    run_dir: Path,
    device: str,
    ledger: Path | None = None,
    tta: str = "none",
    foreign: bool = False,
) -> Judged:
    """Score a checkpoint on one split; opening ``test`` writes the ledger.

    Args:
        checkpoint: A checkpoint of ours.
        data_cfg: The ``data`` group to read.
        split: ``train``, ``val`` or ``test``.
        run_dir: Where the files go: ``predictions_<split>.csv``, the report, the PNGs.
        device: ``cpu``, ``cuda`` or ``mps``.
        ledger: The test ledger; needed for ``test``.
        tta: Test-time augmentation, see :mod:`emotion_lab.evaluation.tta`.
        foreign: Whether this is other data than the checkpoint was trained on.

    Returns:
        The predictions, the scores, and all that belongs to them.

    Raises:
        UserError: For a bad checkpoint, missing data or split, or a ledger that cannot be written.
    """
    net, card = restore(checkpoint)
    if split == "test":
        if ledger is None:
            raise UserError("the test split is opened only through a ledger")
        check_appendable(ledger)
    data = EmotionData(data_cfg, (split,), card["seed"], carve=not foreign)
    part, notes = match_classes(data, card["classes"], split)
    data.source.classes, data.source.splits[split] = list(card["classes"]), part
    notes = [*data.source.notes, *notes]
    data.prepare_for(card["input"]["image_size"], card["input"]["channels"])
    fingerprint = data.fingerprints()[split]
    seen = card.get("fingerprints", {}).get(split)
    if not foreign and seen is not None and seen["hash"] != fingerprint["hash"]:
        notes.append(
            f"warning: {split} is not what the run saw ({fingerprint['n']} images, then "
            f"{seen['n']}): images it was trained on may be among them"
        )
    for note in notes:
        print(f"  {note}")
    before: list[dict[str, Any]] = []
    if split == "test" and ledger is not None:
        before = seal.openings(ledger, fingerprint["hash"])
        configs = {line.get("config") for line in before} | {seal.config_hash(card["config"])}
        print(
            f"test split opened: {len(before)} times before, {len(configs)} configurations in all"
        )
    accuracy = None
    try:
        predictions = predict(net, data.plain_loader(split), device, f"{split} ", tta)
        scores = {**score(predictions, card["classes"]), "tta": tta}
        accuracy = scores["accuracy"]
    finally:
        # Also when it fails half-way: an opening is an opening.
        if split == "test" and ledger is not None:
            seal.record(ledger, run_dir, checkpoint, card["config"], fingerprint, accuracy)
    scores["fingerprint"] = fingerprint
    if len(part) > scores["n"]:
        scores["skipped"] = len(part) - scores["n"]
        notes.append(f"{scores['skipped']} images could not be read and are left out")
        print(f"  {notes[-1]}")
    for name, labels in part.opinions.items():
        scores.setdefault("by_labels", {})[name] = brief(predictions, labels)
    fit = data.dataset(split).fit
    judged = Judged(
        net, card, split, part, predictions, scores, fit, device, foreign, notes, before
    )
    save_results(run_dir, judged)
    return judged


def save_results(run_dir: Path, judged: Judged) -> None:
    """Write predictions, report, confusion matrix and a grid of samples."""
    split, classes, scores = judged.split, judged.classes, judged.scores
    probabilities, predicted, labels = judged.probabilities, judged.predicted, judged.labels
    with open(run_dir / f"predictions_{split}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "true", "predicted", *(f"p_{name}" for name in classes)])
        for i, row in enumerate(probabilities.tolist()):
            names = (judged.name(i), classes[labels[i]], classes[predicted[i]])
            writer.writerow([*names, *(f"{p:.8g}" for p in row)])
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
