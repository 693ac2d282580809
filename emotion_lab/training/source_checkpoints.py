"""Checkpoints that a training run uses, and the images of the run that they learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data import contamination
from emotion_lab.data.contamination import TrainingImages, count_text, unknown_text
from emotion_lab.data.datamodule import EmotionData


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint or weights file that a run starts from, reads the outputs of or is taught by.

    Attributes:
        key: The config key that names it.
        path: Its value.
        images: The images that it learnt from.
    """

    key: str
    path: str
    images: TrainingImages


def read(cfg: dict[str, Any]) -> list[SourceCheckpoint]:
    """Return the checkpoints that the config of a run names.

    ``resume`` is not among them: it continues the same run, on the same images.
    """
    found = []
    weights = cfg["model"].get("weights")
    if weights:
        images = contamination.of_weights(weights, cfg["data"])
        found.append(SourceCheckpoint("model.weights", str(weights), images))
    others = {
        "model.frame_ckpt": cfg["model"].get("frame_ckpt"),
        "distill.teacher": cfg["distill"]["teacher"],
    }
    for key, path in others.items():
        if path:
            card = ckpt.read(find_checkpoint(path))[ckpt.CARD]
            images = contamination.of_card(card, cfg["data"])
            found.append(SourceCheckpoint(key, str(path), images))
    return found


def check(
    checkpoints: Sequence[SourceCheckpoint], data: EmotionData
) -> tuple[TrainingImages, list[dict[str, Any]]]:
    """Count the val images of a run that its source checkpoints learnt from; print one line each.

    Returns:
        The images that the run learns from: train, and those of its source checkpoints. Then for
        ``metrics.json`` a list of ``key``, ``checkpoint``, ``val`` (see
        :meth:`SeenImages.summary`), ``not_in_train`` (how many of these images are not in train
        of the run) and ``of`` (number of val images).
    """
    train, val = contamination.of_split(data.split("train")), data.split("val")
    facts = []
    for checkpoint in checkpoints:
        seen, in_train = checkpoint.images.seen(val), train.seen(val)
        fact = {
            "key": checkpoint.key,
            "checkpoint": checkpoint.path,
            "val": seen.summary(),
            "not_in_train": int((seen.mask & ~in_train.mask).sum()),
            "of": len(val),
        }
        facts.append(fact)
        print(_line(fact))
    return contamination.union([train, *(checkpoint.images for checkpoint in checkpoints)]), facts


def _line(fact: dict[str, Any]) -> str:
    """Return the printed line of one entry of :func:`check`."""
    name, unknown = f"{fact['key']}={fact['checkpoint']}", unknown_text(fact["val"])
    count = count_text(fact["val"], fact["of"], "val images")
    if count is None and fact["val"]["unknown"]:
        return (
            f"warning: it is unknown whether {name} learnt from val images of this run: {unknown}"
        )
    text = f"{name} learnt from " + (count or f"0 of {fact['of']:,} val images")
    text += f" ({unknown})" if unknown else ""
    if fact["not_in_train"]:
        count = f"{fact['not_in_train']:,}"
        return f"warning: {text}, {count} of them not in train: val scores are too high"
    return text if count is None else f"{text}, which are in train too"
