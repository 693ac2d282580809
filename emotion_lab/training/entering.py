"""Checkpoints that enter a training run, and the images of the run that they learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.data import contamination
from emotion_lab.data.contamination import TrainingImages
from emotion_lab.data.datamodule import EmotionData


@dataclass(frozen=True)
class EnteringCheckpoint:
    """A checkpoint or weights file that a run starts from or is taught by.

    Attributes:
        key: The config key that names it.
        path: Its value.
        images: The images that it learnt from.
    """

    key: str
    path: str
    images: TrainingImages


def read(cfg: dict[str, Any]) -> list[EnteringCheckpoint]:
    """Return the checkpoints that the config of a run names.

    ``resume`` is not among them: it continues the same run, on the same images.
    """
    entering = []
    weights, teacher = cfg["model"].get("weights"), cfg["distill"]["teacher"]
    if weights:
        images = contamination.of_weights(weights, cfg["data"])
        entering.append(EnteringCheckpoint("model.weights", str(weights), images))
    if teacher:
        card = ckpt.read(find_checkpoint(teacher))[ckpt.CARD]
        images = contamination.of_card(card, cfg["data"])
        entering.append(EnteringCheckpoint("distill.teacher", str(teacher), images))
    return entering


def check(cfg: dict[str, Any], data: EmotionData) -> tuple[TrainingImages, list[dict[str, Any]]]:
    """Count the val images of a run that entering checkpoints learnt from; print one line each.

    Returns:
        The images that the run learns from: train, and those of the entering checkpoints. Then for
        ``metrics.json`` a list of ``key``, ``checkpoint``, ``val`` (see
        :meth:`TrainingImages.summary`), ``not_in_train`` (how many of these images are not in train
        of the run) and ``of`` (number of val images).
    """
    train, val = contamination.of_split(data.split("train")), data.split("val")
    in_train, facts = train.seen(val), []
    entering = read(cfg)
    for checkpoint in entering:
        seen = checkpoint.images.seen(val)
        fact = {
            "key": checkpoint.key,
            "checkpoint": checkpoint.path,
            "val": checkpoint.images.summary(seen),
            "not_in_train": int((seen & ~in_train).sum()),
            "of": len(val),
        }
        facts.append(fact)
        print(_line(fact))
    return contamination.union([train, *(checkpoint.images for checkpoint in entering)]), facts


def _line(fact: dict[str, Any]) -> str:
    """Return the printed line of one entry of :func:`check`."""
    name, count, total = f"{fact['key']}={fact['checkpoint']}", fact["val"]["n"], fact["of"]
    unknown = ", ".join(fact["val"]["unknown"])
    if count is None:
        return (
            f"warning: it is unknown whether {name} learnt from val images of this run: no list of "
            f"images in {unknown}"
        )
    text = f"{name} learnt from {count:,} of the {total:,} val images"
    if unknown:
        text += f" or more (no list of images in {unknown})"
    if fact["not_in_train"]:
        count = fact["not_in_train"]
        return f"warning: {text}, {count:,} of them not in train: val scores are too high"
    return f"{text}, which are in train too" if count else text
