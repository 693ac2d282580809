"""Evaluate a checkpoint on one split: load, prepare the data, predict, score.

:func:`evaluate_checkpoint` runs all steps. Its parts can be called separately:
:class:`Predictor` (network and prediction settings),
:class:`~emotion_lab.data.checkpoint_data.CheckpointData` (the images), :func:`evaluate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.paths import check_appendable
from emotion_lab.data import contamination
from emotion_lab.data.checkpoint_data import CheckpointData
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.calibration import check
from emotion_lab.evaluation.episodes import episode_scores
from emotion_lab.evaluation.metrics import score, score_against, unseen_text
from emotion_lab.evaluation.predict import Predictions, predict
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.inference.frame_outputs import FrameOutputs
from emotion_lab.models.load import combine, load
from emotion_lab.models.network import Network
from emotion_lab.models.quantities_head import join


@dataclass(frozen=True)
class Predictor:
    """A network loaded from checkpoints, and how it predicts.

    Attributes:
        net: In eval mode.
        card: Metadata of the checkpoint; see :func:`emotion_lab.models.load.combine`.
        checkpoints: The checkpoint, or the members of an ensemble.
        device: ``cpu``, ``cuda`` or ``mps``.
        tta: Test-time augmentation, see :mod:`emotion_lab.evaluation.tta`.
        run: Inference backend that replaces ``net``, see :func:`predict`.
    """

    net: Network
    card: dict[str, Any]
    checkpoints: tuple[Path, ...]
    device: str = "cpu"
    tta: str = "none"
    run: Callable[[np.ndarray], np.ndarray] | None = None

    @classmethod
    def load(
        cls, checkpoints: Path | Sequence[Path], device: str = "cpu", tta: str = "none"
    ) -> Predictor:
        """Load a checkpoint, or several as an ensemble of equal weights."""
        paths = (checkpoints,) if isinstance(checkpoints, Path) else tuple(checkpoints)
        return cls(*combine(load(paths)), paths, device, tta)

    @property
    def setup(self) -> dict[str, Any]:
        """Identity of the configuration, see :func:`test_ledger.setup`."""
        return test_ledger.setup(self.card, self.tta)

    def predict(self, data: CheckpointData) -> Predictions:
        """Predict all readable images of a split."""
        net, names = join(self.net), self.card.get("quantities", [])
        title = f"{data.split} "
        return predict(net, data.loader(), self.device, title, self.tta, self.run, names)


@dataclass(frozen=True)
class LedgerEntry:
    """Where an access to the test split is recorded.

    Attributes:
        ledger: The ledger file (JSON lines); it is created if missing.
        run_dir: Run directory named in the entry.
    """

    ledger: Path
    run_dir: Path


def identity(checkpoints: Sequence[Path]) -> str:
    """Return the sha256 of a checkpoint; of several, the sha256 of their sorted hashes."""
    hashes = sorted(file_hash(path) for path in checkpoints)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def check_ledger(split: str, entry: LedgerEntry | None) -> None:
    """Refuse to open the test split if the access cannot be recorded."""
    if split == "test":
        if entry is None:
            raise UserError("the test split is opened only through a ledger")
        check_appendable(entry.ledger)


def previous_accesses(
    predictor: Predictor, data: CheckpointData, entry: LedgerEntry | None
) -> list[dict[str, Any]]:
    """Return earlier accesses to a test split and print their number; empty for other splits."""
    check_ledger(data.split, entry)
    if data.split != "test" or entry is None:
        return []
    # Earlier versions recorded image files by the hash of their bytes.
    hashes = [
        fingerprint(data.part, data.module.classes, digest_of)["hash"]
        for digest_of in ("pixels", "file")
    ]
    previous = test_ledger.openings(entry.ledger, *hashes)
    opening = {**predictor.setup, "checkpoint": identity(predictor.checkpoints)}
    count = test_ledger.configurations([*previous, opening])
    print(f"test split opened: {len(previous)} earlier accesses, configurations so far: {count}")
    return previous


def shared_scores(
    predictions: Predictions, mapping: list[dict[str, Any]], classes: list[str]
) -> dict[str, Any]:
    """Score foreign data over the shared classes, and over all its images.

    Args:
        predictions: Predictions of the images of shared classes.
        mapping: See :func:`emotion_lab.data.checkpoint_data.class_mapping`.
        classes: Classes of the checkpoint.

    Returns:
        ``classes`` (the shared ones); ``n``, images of shared classes; ``accuracy`` if only
        shared classes can be predicted; ``n_all`` and ``accuracy_all`` over every image, where
        images of other classes count as wrong.
    """
    targets = {row["to"] for row in mapping}
    shared = [name for name in classes if name in targets]
    columns = torch.tensor([classes.index(name) for name in shared])
    restricted = columns[predictions.logits[:, columns].argmax(1)]
    n_all = sum(row["n"] for row in mapping)
    correct = int((predictions.logits.argmax(1) == predictions.labels).sum())
    return {
        "classes": shared,
        "n": len(predictions.labels),
        "accuracy": float((restricted == predictions.labels).float().mean()),
        "n_all": n_all,
        "accuracy_all": correct / n_all,
    }


def score_split(
    predictions: Predictions, data: CheckpointData, classes: list[str], tta: str
) -> dict[str, Any]:
    """Return the scores of a split, with its fingerprint; see :func:`score`."""
    check(predictions.logits.numpy(), predictions.labels.numpy())
    scores = {**score(predictions, classes), "tta": tta, "fingerprint": data.fingerprint}
    for name, labels in data.part.label_sets.items():
        scores.setdefault("by_labels", {})[name] = score_against(predictions, labels)
    if data.part.looks is not None:
        positions = predictions.positions.numpy()
        probabilities, labels = predictions.probabilities.numpy(), predictions.labels.numpy()
        groups = data.part.groups
        of_looks = None if groups is None else [groups[i] for i in positions]
        looks = data.part.looks.subset(positions)
        scores["episodes"] = episode_scores(probabilities, labels, looks, of_looks)
    if data.mapping:
        scores["shared"] = shared_scores(predictions, data.mapping, classes)
    return scores


def selection_bias_warning(card: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    """Return a warning if members or weights of an ensemble were chosen on these images."""
    if card.get("weights_fitted_on") == fingerprint["hash"]:
        return [
            "warning: the weights of the ensemble were fitted on these images: the score is too "
            "high"
        ]
    selection = card.get("ensemble") or {}
    if selection.get("choose") != "val" or selection.get("hash") != fingerprint["hash"]:
        return []
    warning = "warning: the ensemble members were selected on these images: the score is too high"
    if selection.get("nested"):
        metric = str(selection["metric"]).replace("_", " ").replace("f1", "F1")
        warning += (
            f" ({metric} {selection['score']:.4f} here, {selection['nested']:.4f} on images that "
            "were not used for the selection)"
        )
    return [warning]


def score_unseen(
    predictions: Predictions, data: CheckpointData, card: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Count the scored images that the checkpoint learnt from, and score the others.

    Returns:
        The counts of :meth:`contamination.SeenImages.summary`, and ``others``: ``n`` and
        ``accuracy`` (None without images) of the images that are neither exact nor near copies.
        Then bool (N,): which of the N predicted images are copies.
    """
    images = contamination.of_card(card, data.module.cfg)
    seen = images.seen(data.part).subset(predictions.positions.numpy())
    correct = (predictions.logits.argmax(1) == predictions.labels).numpy()[~seen.mask]
    accuracy = float(correct.mean()) if len(correct) else None
    others = {"n": len(correct), "accuracy": accuracy}
    return {**seen.summary(), "others": others}, seen.mask


def evaluate(
    predictor: Predictor,
    data: CheckpointData,
    entry: LedgerEntry | None = None,
    predictions: Predictions | None = None,
    printed: Collection[str] = (),
) -> EvaluationResult:
    """Predict and score a split; print class mapping, notes and test accesses.

    Args:
        predictor: The network.
        data: The images, opened for ``predictor.card``.
        entry: Where the access is recorded; required for the test split.
        predictions: Predictions of the split, if already computed.
        printed: Notes that were printed before; they are not repeated.
    """
    card = predictor.card
    notes = [*data.notes, *selection_bias_warning(card, data.fingerprint)]
    for row in data.mapping:
        print(f"  {row['from']} -> {row['to'] or 'left out'} ({row['n']:,} images)")
    for note in notes:
        if note not in printed:
            print(f"  {note}")
    previous = previous_accesses(predictor, data, entry)
    accuracy = None
    try:
        if predictions is None:
            predictions = predictor.predict(data)
        scores = score_split(predictions, data, card["classes"], predictor.tta)
        accuracy = scores["accuracy"]
        scores["trained_on"], seen = score_unseen(predictions, data, card)
    finally:
        # Record the access even if scoring fails.
        if data.split == "test" and entry is not None:
            test_ledger.record(
                entry.ledger,
                entry.run_dir,
                identity(predictor.checkpoints),
                predictor.setup,
                data.fingerprint,
                accuracy,
            )
    if (warning := unseen_text(scores)) is not None:
        notes.append(f"warning: {warning}")
    return EvaluationResult(
        net=predictor.net,
        card=card,
        split=data.split,
        part=data.part,
        predictions=predictions,
        scores=scores,
        resize=data.resize,
        device=predictor.device,
        foreign=data.foreign,
        notes=notes,
        openings=previous,
        mapping=data.mapping,
        seen=seen,
    )


def evaluate_checkpoint(
    checkpoints: Path | Sequence[Path],
    data_cfg: dict[str, Any],
    split: str = "val",
    device: str = "cpu",
    tta: str = "none",
    foreign: bool = False,
    entry: LedgerEntry | None = None,
    printed: Collection[str] = (),
) -> EvaluationResult:
    """Load a checkpoint and evaluate it on one split.

    Args:
        checkpoints: A checkpoint, or the members of an ensemble.
        data_cfg: The ``data`` group to read.
        split: ``train``, ``val`` or ``test``.
        device: ``cpu``, ``cuda`` or ``mps``.
        tta: Test-time augmentation, see :mod:`emotion_lab.evaluation.tta`.
        foreign: Whether the config names other data than that of the checkpoint.
        entry: Where the access is recorded; required for the test split.
        printed: Notes that were printed before; they are not repeated.

    Returns:
        Predictions and scores.
    """
    predictor = Predictor.load(checkpoints, device, tta)
    check_ledger(split, entry)
    frame = FrameOutputs.of_card(predictor.card)
    data = CheckpointData.open(predictor.card, data_cfg, split, foreign, frame)
    return evaluate(predictor, data, entry, printed=printed)
