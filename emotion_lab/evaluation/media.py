"""What trackers (TensorBoard, W&B) are shown: matrices while training, everything at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from emotion_lab.data.torch_dataset import Batch
from emotion_lab.evaluation.explain import explain, overlay
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.models.base import EmotionNet
from emotion_lab.reports import plots
from emotion_lab.training.loggers import trackers


def read_picture(path: Path) -> np.ndarray:
    """Return a picture file as uint8 RGB (H, W, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


class ConfusionMatrixCallback(L.Callback):
    """Shows the confusion matrix of val every few epochs to those trackers that want it."""

    def __init__(self) -> None:
        self._matrix: MulticlassConfusionMatrix | None = None

    def _due(self, trainer: L.Trainer) -> list[Any]:
        epoch = trainer.current_epoch + 1
        found = [t for t in trackers(trainer.loggers) if t.pictures_every]
        return [tracker for tracker in found if epoch % tracker.pictures_every == 0]

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count, in an epoch that is due."""
        classes = len(trainer.datamodule.classes)
        due = self._due(trainer) and not trainer.sanity_checking
        self._matrix = MulticlassConfusionMatrix(classes).to(pl_module.device) if due else None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Tensor,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch; ``outputs`` are its logits (B, K)."""
        if self._matrix is not None:
            self._matrix.update(outputs.float(), batch.labels)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and show."""
        if self._matrix is None:
            return
        # Of several processes each counted its part: all must ask for the sum.
        counts, self._matrix = self._matrix.compute().cpu(), None
        if not trainer.is_global_zero:
            return
        classes = list(trainer.datamodule.classes)
        title = f"val, epoch {trainer.current_epoch + 1}: n = {int(counts.sum())}"
        scores = {"confusion": counts.tolist(), "classes": classes}
        with tempfile.TemporaryDirectory() as folder:
            picture = read_picture(plots.confusion(scores, Path(folder) / "matrix.png", title))
        for tracker in self._due(trainer):
            tracker.pictures({"val/confusion_by_epoch": picture}, trainer.global_step)


def monitoring_callbacks(cfg: Mapping[str, Any]) -> list[L.Callback]:
    """Return the callbacks that trackers need while a run of this config trains."""
    loggers = (cfg.get("logger") or {}).values()
    wanted = any((options or {}).get("pictures_every") for options in loggers)
    return [ConfusionMatrixCallback()] if wanted else []


def numbers(metrics: Mapping[str, Any], temperature: float) -> dict[str, float]:
    """Return what a run came to, as trackers show it.

    Args:
        metrics: The content of ``metrics.json``.
        temperature: Of the calibration.

    Returns:
        ``best/...``: the scores of the best checkpoint, the monitored one among them; ``test/...``
        where the test split was opened; and what the run took.
    """
    monitor = metrics["monitor"]
    found = {f"best/{monitor['name']}": float(monitor["best"])}
    scores = ("accuracy", "macro_f1", "loss")
    found |= {f"best/val/{name}": float(metrics["val"][name]) for name in scores}
    if "test" in metrics:
        found |= {f"test/{name}": float(metrics["test"][name]) for name in scores}
    found["best/epoch"] = metrics["best_epoch"] + 1
    found |= {f"run/{name}": metrics[name] for name in ("epochs", "steps", "seconds")}
    found |= {f"run/parameters_{name}": n for name, n in metrics["parameters"].items()}
    return found | {"run/temperature": float(temperature)}


def maps(judged: EvaluationResult, count: int, path: Path) -> Path:
    """Draw images of a split, each beside the map of where the network looked.

    They are drawn at random: maps of chosen images prove little.

    Args:
        judged: The predictions of one network, no ensemble.
        count: Images at most.
        path: The PNG to write.
    """
    assert isinstance(judged.net, EmotionNet)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(judged.labels), generator=generator)[:count].tolist()
    images = [judged.image(i) for i in chosen]
    targets = judged.predicted[chosen]
    heat = explain(judged.net, np.stack(images), targets, judged.device)
    pairs, captions = [], []
    for image, warm, i in zip(images, heat, chosen, strict=True):
        drawn = overlay(image, warm)
        size = (drawn.shape[1], drawn.shape[0])
        plain = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        plain = plain if plain.ndim == 3 else cv2.cvtColor(plain, cv2.COLOR_GRAY2RGB)
        pairs.append(np.hstack([plain, drawn]))
        name, true = judged.classes[judged.predicted[i]], judged.classes[judged.labels[i]]
        share = judged.probabilities[i].max()
        captions.append(f"{name} {share:.0%}" + ("" if name == true else f" (is {true})"))
    right = (targets == judged.labels[chosen]).tolist()
    return plots.samples(pairs, captions, right, path, columns=2, width=3.0)


def report(
    loggers: Sequence[Logger],
    pictures: Mapping[str, Path],
    val: EvaluationResult,
    facts: Mapping[str, float],
    checkpoint: Path,
) -> None:
    """Show a finished run to its trackers; one that fails says so in one line.

    Args:
        loggers: The run's.
        pictures: Name -> PNG file.
        val: The predictions of the best checkpoint.
        facts: See :func:`numbers`.
        checkpoint: The best checkpoint; the maps of ``val`` are drawn into its run folder.
    """
    found = trackers(loggers)
    if not found:
        return
    shown = {name: read_picture(path) for name, path in pictures.items()}
    count = max(tracker.explain for tracker in found)
    if count:
        path = maps(val, count, checkpoint.parents[1] / "explain_val.png")
        shown["val/explain"] = read_picture(path)
    for tracker in found:
        mine = {k: v for k, v in shown.items() if tracker.explain or k != "val/explain"}
        tracker.pictures(mine, int(facts["run/steps"]))
        tracker.results(facts, checkpoint, int(facts["run/steps"]))
