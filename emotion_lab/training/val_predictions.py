"""The val predictions of every epoch, ``val_predictions.npz`` of a run."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np

from emotion_lab.core.io import atomic_write
from emotion_lab.training.callbacks import MetricsHistory
from emotion_lab.training.module import EmotionModule

_FILE = "val_predictions.npz"


@dataclass
class ValPredictions:
    """What E epochs predicted for the N images of val.

    Attributes:
        labels: True classes, unsigned integers (N,).
        predicted: Predicted classes, unsigned integers (E, N).
        losses: Cross-entropy of each image, float16 (E, N); None unless ``val/loss`` is monitored.
    """

    labels: np.ndarray
    predicted: np.ndarray
    losses: np.ndarray | None = None

    @classmethod
    def read(cls, run_dir: Path) -> ValPredictions | None:
        """Return the predictions of a run, None if it has none or the file is damaged."""
        try:
            with np.load(run_dir / _FILE, allow_pickle=False) as file:
                return cls(**file)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def write(self, run_dir: Path) -> None:
        """Write the file atomically; one byte an image and epoch, compressed."""
        arrays = {key: value for key, value in vars(self).items() if value is not None}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        atomic_write(run_dir / _FILE, content.getvalue())

    def first(self, epochs: int) -> ValPredictions:
        """Return the first ``epochs`` epochs."""
        losses = None if self.losses is None else self.losses[:epochs]
        return ValPredictions(self.labels, self.predicted[:epochs], losses)

    def append(self, other: ValPredictions) -> ValPredictions:
        """Return the epochs of both; only those of ``other`` if val is another."""
        if not np.array_equal(self.labels, other.labels):
            return other
        losses = None
        if self.losses is not None and other.losses is not None:
            losses = np.concatenate([self.losses, other.losses])
        predicted = np.concatenate([self.predicted, other.predicted])
        return ValPredictions(self.labels, predicted, losses)


class ValPredictionsCallback(L.Callback):
    """Writes the val predictions after every epoch; a resumed run continues the file.

    ``history`` must precede this callback in the Trainer's list.
    """

    def __init__(self, run_dir: Path, history: MetricsHistory) -> None:
        self.run_dir, self.history = run_dir, history
        self._saved: ValPredictions | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the epochs before a resume."""
        epochs = len(self.history.rows)
        saved = ValPredictions.read(self.run_dir) if epochs else None
        self._saved = None if saved is None else saved.first(epochs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the epoch and write the file."""
        assert isinstance(pl_module, EmotionModule)
        if not trainer.is_global_zero or pl_module.val_metrics.images is None:
            return
        labels, predicted, losses = (x.numpy() for x in pl_module.val_metrics.images)
        kind = np.min_scalar_type(pl_module.val_metrics.num_classes - 1)
        epoch = ValPredictions(labels.astype(kind), predicted.astype(kind)[None])
        if self.history.monitor == "val/loss":
            epoch.losses = losses.astype(np.float16)[None]
        self._saved = epoch if self._saved is None else self._saved.append(epoch)
        self._saved.write(self.run_dir)
