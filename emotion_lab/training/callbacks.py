"""Callbacks: history and summary lines, checkpoints, stopping on Ctrl-C, the progress bar."""

from __future__ import annotations

import csv
import io
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar

from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.training.module import EmotionModule

#: Seconds between two looks of the progress bar at loss and accuracy.
LOOK_S = 0.5


class RunInterruptedError(UserError):
    """The user stopped the run; everything needed to go on is saved."""

    exit_code = 130


def better(value: float, best: float | None, mode: str) -> bool:
    """Tell whether ``value`` improves on ``best`` (None: nothing yet)."""
    if best is None:
        return True
    return value > best if mode == "max" else value < best


class MetricsHistory(L.Callback):
    """Writes ``history.csv``, one row an epoch, prints one line for each, and stops early.

    Early stopping is here and not Lightning's, which looks before the training metrics are known.

    The rows travel in the checkpoint, so a resumed run rewrites the file as if it had never
    stopped. Times are kept apart: two runs with one seed write the same file.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        mode: str,
        patience: int | None = None,
        show: bool = True,
    ) -> None:
        self.folder, self.monitor, self.mode, self.show = folder, monitor, mode, show
        self.patience = patience
        self.rows: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.best: float | None = None
        self._begin = 0.0
        # Seconds spent on the half-done epoch before the run was stopped.
        self._carried = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of this epoch (not called for an epoch resumed half-way)."""
        self._begin, self._carried = time.perf_counter(), 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of a run resumed in mid-epoch, and write what is known."""
        self._begin = time.perf_counter()
        if self.rows and trainer.is_global_zero:
            self.write()
        # A run that had stopped early and lost its results is scored anew, not trained on.
        trainer.should_stop |= self._waited_long()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect, log, write and print the epoch."""
        assert isinstance(pl_module, EmotionModule)
        pl_module.check_finite()
        values = pl_module.collect("train")
        pl_module.log_dict(values)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics |= values
        pl_module.step_plateau(metrics)
        if self.monitor not in metrics:
            known = ", ".join(sorted(key for key in metrics if "/" in key))
            raise UserError(f"monitor={self.monitor} is not logged. Available: {known}.")
        pl_module.check_scores({k: metrics[k] for k in ("val/loss", self.monitor) if k in metrics})
        improved = better(metrics[self.monitor], self.best, self.mode)
        if improved:
            self.best = metrics[self.monitor]
        rate = trainer.optimizers[0].param_groups[-1]["lr"]
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": rate}
        row |= {key: metrics[key] for key in sorted(metrics) if key.startswith(("train/", "val/"))}
        row.pop("train/loss_step", None)
        row["best"] = improved
        self.rows.append(row)
        trainer.should_stop |= self._waited_long()
        self.seconds.append(self._carried + time.perf_counter() - self._begin)
        if trainer.is_global_zero:
            self.write()
            if self.show:
                print(self.line(row, trainer.max_epochs or 0), flush=True)

    def _waited_long(self) -> bool:
        """Tell whether the last ``patience`` epochs brought nothing better."""
        if self.patience is None or not self.rows:
            return False
        last_best = max(i for i, row in enumerate(self.rows) if row["best"])
        return len(self.rows) - 1 - last_best >= self.patience

    def line(self, row: dict[str, Any], epochs: int) -> str:
        """Return the summary line of an epoch."""

        def part(stage: str) -> str:
            names = (("loss", "loss"), ("acc", "accuracy"), ("prec", "macro_precision"))
            names += (("rec", "macro_recall"), ("f1", "macro_f1"))
            return " ".join(f"{short} {row[f'{stage}/{name}']:.4f}" for short, name in names)

        width = len(str(epochs))
        return (
            f"epoch {row['epoch'] + 1:>{width}}/{epochs} | train {part('train')} | "
            f"val {part('val')} | lr {row['lr']:.2e} | {self.seconds[-1]:.1f} s"
            + (" | best" if row["best"] else "")
        )

    def write(self) -> None:
        """Write all rows anew, completely or not at all."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        atomic_write(self.folder / "history.csv", text.getvalue().encode())

    def state_dict(self) -> dict[str, Any]:
        """Return rows, seconds and the best value so far."""
        open_epoch = self._carried + time.perf_counter() - self._begin
        return {
            "rows": [dict(row) for row in self.rows],
            "seconds": list(self.seconds),
            "best": self.best,
            "open_epoch": open_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved rows."""
        self.rows, self.seconds = list(state["rows"]), list(state["seconds"])
        self.best = state["best"]
        self._carried = float(state["open_epoch"])


class BestLastCheckpoint(Checkpoint):
    """Writes ``best.ckpt`` when the monitored metric improves and ``last.ckpt`` every epoch.

    Lightning's ModelCheckpoint forgets the best value when the run folder was moved, and would
    then overwrite the best weights with worse ones; this one does not care where the folder is.
    """

    def __init__(self, folder: Path, history: MetricsHistory) -> None:
        self.folder, self.history = folder, history

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the very end of an epoch, after every other callback."""
        if self.history.rows[-1]["best"]:
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")


class GracefulStop(L.Callback):
    """On Ctrl-C (or SIGTERM) finishes the batch, saves ``last.ckpt`` and says how to resume.

    A second Ctrl-C stops at once, with what was saved before. Of several processes one is enough to
    stop them all, after the same batch; on GPUs they ask each other every ``trainer.log_every_n_steps``
    steps only, for the answer makes them wait.
    """

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.folder, self.run_dir = folder, run_dir
        self.wanted = False
        self._old: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for the signals while training."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: a notebook or a launcher handles signals
                return

    def _handle(self, number: int, frame: Any) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if distributed.is_rank_zero():
            print("\nstopping: saving after this batch (again to stop at once)", file=sys.stderr)

    def _agreed(self, trainer: L.Trainer) -> bool:
        """Tell whether any process of the run was asked to stop."""
        if trainer.world_size > 1:
            self.wanted |= trainer.strategy.reduce_boolean_decision(self.wanted, all=False)
        return self.wanted

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save in mid-epoch when asked to stop; after the last batch the epoch ends first.

        Gradients that wait for more batches are in no checkpoint, so those batches come first.
        """
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        every = trainer.accumulate_grad_batches
        if trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu":
            every *= trainer.log_every_n_steps
        if (index + 1) % every == 0 and self._agreed(trainer):
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self._leave()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs: ``last.ckpt`` is already written."""
        if self._agreed(trainer):
            self._leave()

    def _leave(self) -> None:
        raise RunInterruptedError(
            f"stopped and saved. Go on with: resume={shlex.quote(str(self.run_dir))}"
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}


class DataPositionCallback(L.Callback):
    """Tells the data module how far training is: which order comes next, where to resume."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the epoch, before Lightning asks the loader for its batches."""
        trainer.datamodule.begin_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Mark the batch as done."""
        trainer.datamodule.mark(trainer.current_epoch, index + 1, trainer.num_training_batches)


class ProgressBar(RichProgressBar):
    """The rich bar, with running loss and accuracy and images a second."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self._images, self._since = 0, time.perf_counter()
        self._looked = 0.0
        self._shown: dict[str, int | str | float | dict[str, float]] = {}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count images from here."""
        super().on_train_epoch_start(trainer, pl_module)
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Refresh what the bar shows."""
        self._images += len(batch.labels)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, index)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return running loss and accuracy of the epoch and images a second."""
        if not trainer.training or not self._images:
            return {}
        assert isinstance(pl_module, EmotionModule)
        now = time.perf_counter()
        # Asked at every batch; an accelerator has to finish its work before it can answer.
        if now - self._looked > LOOK_S:
            rate = self._images / max(1e-9, now - self._since)
            shown = {key: f"{value:.3f}" for key, value in pl_module.running().items()}
            self._looked, self._shown = now, {**shown, "images/s": f"{rate:.0f}"}
        return self._shown
