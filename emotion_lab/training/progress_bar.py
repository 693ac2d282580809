"""Progress bar of a training, at most 80 columns wide."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.text import Text

from emotion_lab.core.console_log import with_log_of, without_log
from emotion_lab.training.module import EmotionModule

#: Seconds between two updates of loss and accuracy on the progress bar.
REFRESH_S = 0.5


class _TimeLeftColumn(ProgressColumn):
    """Estimated time until the last epoch ends."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return the time as ``0:12:34 left``."""
        seconds = self.bar.seconds_left
        return Text("" if seconds is None else f"{timedelta(seconds=round(seconds))} left")


class ProgressBar(RichProgressBar):
    """Rich progress bar of an epoch with the time left of the whole run.

    It shows loss and accuracy of the epoch so far and images per second. ``seconds_left`` is an
    upper bound if the run stops early.
    """

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._images, self._start = 0, time.perf_counter()
        self._refreshed = 0.0
        self._metrics_text: dict[str, int | str | float | dict[str, float]] = {}
        self._run_start, self._batches = self._start, 0
        self.seconds_left: float | None = None

    def _init_progress(self, trainer: L.Trainer) -> None:
        """Draw the bar on the terminal only; lines printed above it still reach the log."""
        before = sys.stdout, sys.stderr
        self._console_kwargs = {"file": without_log(sys.stdout)}
        super()._init_progress(trainer)
        sys.stdout, sys.stderr = map(with_log_of, before, (sys.stdout, sys.stderr))

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Return the columns: epoch, bar, batches and time left."""
        return [
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            _TimeLeftColumn(self),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the run."""
        super().on_train_start(trainer, pl_module)
        self._run_start, self._batches = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the image count."""
        super().on_train_epoch_start(trainer, pl_module)
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count the images of the batch and update the bar."""
        self._images += len(batch.labels)
        self._batches += 1
        per_epoch = int(trainer.num_training_batches)
        left = (trainer.max_epochs or 0) * per_epoch - trainer.current_epoch * per_epoch - index - 1
        elapsed = time.perf_counter() - self._run_start
        self.seconds_left = elapsed / self._batches * max(0, left)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, index)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return loss and accuracy of the epoch so far and images per second."""
        if not trainer.training or not self._images:
            return {}
        assert isinstance(pl_module, EmotionModule)
        now = time.perf_counter()
        # Lightning calls this for every batch, but reading the values waits for the accelerator.
        if now - self._refreshed > REFRESH_S:
            rate = self._images / max(1e-9, now - self._start)
            text = {key: f"{value:.3f}" for key, value in pl_module.running_metrics().items()}
            self._refreshed, self._metrics_text = now, {**text, "img/s": f"{rate:.0f}"}
        return self._metrics_text
