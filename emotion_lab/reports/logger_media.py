"""Images for experiment loggers (TensorBoard, W&B): figures during training and at its end."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger
from PIL import Image
from torchmetrics.classification import MulticlassConfusionMatrix

from emotion_lab.data.torch_dataset import Batch
from emotion_lab.evaluation.explain import COLOUR_MAP, explain_network, overlay
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.models.base import EmotionNet
from emotion_lab.reports import figures
from emotion_lab.reports.run_files import captions, random_indices
from emotion_lab.reports.style import LIGHT, render, write_png
from emotion_lab.training.loggers import media_loggers


def read_image(file: Path | io.BytesIO) -> np.ndarray:
    """Return an image file as uint8 RGB (H, W, 3)."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


class ConfusionMatrixCallback(L.Callback):
    """Logs the confusion matrix of val every ``pictures_every`` epochs of a logger."""

    def __init__(self) -> None:
        self._matrix: MulticlassConfusionMatrix | None = None

    def _due(self, trainer: L.Trainer) -> list[Any]:
        """Return the loggers that take the matrix of this epoch."""
        epoch = trainer.current_epoch + 1
        return [
            logger
            for logger in media_loggers(trainer.loggers)
            if logger.pictures_every and epoch % logger.pictures_every == 0
        ]

    @staticmethod
    def _classes(trainer: L.Trainer) -> list[str]:
        return list(trainer.datamodule.classes)  # type: ignore[attr-defined]  # set by fit()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to count, in an epoch that is due."""
        self._matrix = None
        if self._due(trainer) and not trainer.sanity_checking:
            matrix = MulticlassConfusionMatrix(len(self._classes(trainer)))
            self._matrix = matrix.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch; ``outputs`` are its logits (B, K)."""
        if self._matrix is not None:
            self._matrix.update(outputs.float(), batch.labels)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the matrix and log it."""
        if self._matrix is None:
            return
        # compute() sums over all processes, so all must call it.
        counts, self._matrix = self._matrix.compute().cpu(), None
        if not trainer.is_global_zero:
            return
        title = f"val, epoch {trainer.current_epoch + 1}: n = {int(counts.sum())}"
        draw = partial(figures.confusion, counts, self._classes(trainer), cells="both", title=title)
        picture = read_image(io.BytesIO(render(draw, LIGHT)))
        for logger in self._due(trainer):
            logger.log_images({"val/confusion_by_epoch": picture}, trainer.global_step)


def monitoring_callbacks(cfg: Mapping[str, Any]) -> list[L.Callback]:
    """Return the callbacks required by the configured loggers."""
    loggers = (cfg.get("logger") or {}).values()
    required = any((options or {}).get("pictures_every") for options in loggers)
    return [ConfusionMatrixCallback()] if required else []


def summary_metrics(metrics: Mapping[str, Any], temperature: float) -> dict[str, float]:
    """Return the final metrics of a run for loggers; ``metrics`` is that of ``metrics.json``.

    Returns:
        ``best/...`` (scores of the best checkpoint), ``test/...`` (if test was evaluated) and
        ``run/...`` (epochs, steps, seconds, parameters, temperature).
    """
    monitor = metrics["monitor"]
    summary = {f"best/{monitor['name']}": float(monitor["best"])}
    scores = ("accuracy", "macro_f1", "loss")
    summary |= {f"best/val/{name}": float(metrics["val"][name]) for name in scores}
    if "test" in metrics:
        summary |= {f"test/{name}": float(metrics["test"][name]) for name in scores}
    summary["best/epoch"] = metrics["best_epoch"]
    summary |= {f"run/{name}": metrics[name] for name in ("epochs", "steps", "seconds")}
    summary |= {f"run/parameters_{name}": n for name, n in metrics["parameters"].items()}
    return summary | {"run/temperature": float(temperature)}


def write_explanations(result: EvaluationResult, count: int, path: Path) -> Path:
    """Draw at most ``count`` random images with the explanation maps of a single network."""
    assert isinstance(result.net, EmotionNet)
    chosen = random_indices(len(result.labels), count)
    images = [result.image(i) for i in chosen]
    predicted = result.predicted[chosen]
    maps, method = explain_network(result.net, np.stack(images), predicted, result.device)
    pairs = []
    for image, heat in zip(images, maps, strict=True):
        explained = overlay(image, heat)
        enlarged = cv2.resize(image, explained.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        if enlarged.ndim == 2:
            enlarged = cv2.cvtColor(enlarged, cv2.COLOR_GRAY2RGB)
        pairs.append(np.hstack([enlarged, explained]))
    correct = (predicted == result.labels[chosen]).tolist()
    texts = captions(result, chosen, separator=" ")
    draw = partial(
        figures.image_grid,
        pairs,
        texts,
        correct,
        columns=2,
        width=3.0,
        title=f"Evidence for the predicted class, {len(pairs)} random val images\n{method}",
        scale=(COLOUR_MAP, "evidence, relative to the maximum of each image"),
    )
    return write_png(draw, path)


def log_results(
    loggers: Sequence[Logger],
    pictures: Mapping[str, Path],
    val: EvaluationResult,
    metrics: Mapping[str, float],
    checkpoint: Path,
) -> None:
    """Log the figures and metrics of a finished run; a logger that fails prints one line.

    Args:
        loggers: The loggers of the run.
        pictures: Name -> PNG file.
        val: Predictions of the best checkpoint.
        metrics: See :func:`summary_metrics`.
        checkpoint: The best checkpoint; explanation maps are written to its run directory.
    """
    enabled = media_loggers(loggers)
    if not enabled:
        return
    images = {name: read_image(path) for name, path in pictures.items()}
    count = max(logger.explain for logger in enabled)
    if count and "frame" not in val.card:  # the input of a temporal model is no image
        path = write_explanations(val, count, checkpoint.parents[1] / "explain_val.png")
        images["val/explain"] = read_image(path)
    step = int(metrics["run/steps"])
    for logger in enabled:
        selected = {k: v for k, v in images.items() if logger.explain or k != "val/explain"}
        logger.log_images(selected, step)
        logger.log_results(metrics, checkpoint, step)
