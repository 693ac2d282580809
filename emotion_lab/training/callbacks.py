"""Callbacks: metrics history, early stopping, checkpoints, graceful stop."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, Timer

from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError
from emotion_lab.core.tables import write_csv
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.training.module import EmotionModule

#: Metrics of the line printed after each epoch, with the titles of their columns.
_COLUMNS = {
    "train/loss": "train loss",
    "train/accuracy": "accuracy",
    "val/loss": "val loss",
    "val/accuracy": "accuracy",
}


class RunInterruptedError(UserError):
    """Raised when the user stopped the run; its state is saved, so it can be resumed."""

    exit_code = 130


class MetricsHistory(L.Callback):
    """Collects the metrics of every epoch, writes ``history.csv`` and prints one line an epoch.

    The rows are part of the checkpoint, so a resumed run writes the same file as an uninterrupted
    one. Durations are kept out of the file: two runs with the same seed write equal files.
    ``monitor`` is a metric such as ``val/macro_f1``, and ``mode`` is ``max`` or ``min``.
    """

    def __init__(self, run_dir: Path, monitor: str, mode: str) -> None:
        self.run_dir, self.monitor, self.mode = run_dir, monitor, mode
        self.rows: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.best: float | None = None
        self._start = 0.0
        # Seconds spent on an unfinished epoch before the run was stopped.
        self._previous_seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of this epoch (not called for an epoch resumed in the middle)."""
        self._start, self._previous_seconds = time.perf_counter(), 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of a run resumed in the middle of an epoch; rewrite restored rows."""
        self._start = time.perf_counter()
        if trainer.is_global_zero:
            if self.rows:
                self.write()
            print(self.header(trainer.max_epochs or 0), flush=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect, log, write and print the metrics of the epoch."""
        assert isinstance(pl_module, EmotionModule)
        pl_module.check_loss()
        train_metrics = pl_module.compute_and_reset("train")
        pl_module.log_dict(train_metrics)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        metrics |= train_metrics
        pl_module.step_plateau(metrics)
        if self.monitor not in metrics:
            available = ", ".join(sorted(key for key in metrics if "/" in key))
            raise UserError(f"monitor={self.monitor} is not logged. Available: {available}.")
        pl_module.check_scores({k: metrics[k] for k in ("val/loss", self.monitor) if k in metrics})
        value, best = metrics[self.monitor], self.best
        improved = best is None or (value > best if self.mode == "max" else value < best)
        if improved:
            self.best = value
        rate = trainer.optimizers[0].param_groups[-1]["lr"]
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "lr": rate}
        row |= {key: metrics[key] for key in sorted(metrics) if key.startswith(("train/", "val/"))}
        row.pop("train/criterion_step", None)
        row["best"] = improved
        self.rows.append(row)
        self.seconds.append(self._epoch_seconds())
        if trainer.is_global_zero:
            self.write()
            print(self.line(row, trainer.max_epochs or 0), flush=True)
            if len(self.rows) == 2:  # the first epoch is slower
                self._check_time_limit(trainer)

    def _check_time_limit(self, trainer: L.Trainer) -> None:
        """Print a warning if ``trainer.max_time`` will end the run before its last epoch."""
        timer = next((one for one in trainer.callbacks if isinstance(one, Timer)), None)  # type: ignore[attr-defined] # set at run time
        left_s = None if timer is None else timer.time_remaining()
        epochs, done = trainer.max_epochs or 0, len(self.rows)
        if left_s is None or self.seconds[-1] * (epochs - done) <= left_s:
            return
        fitting = done + int(left_s / self.seconds[-1])
        print(
            f"warning: trainer.max_time ends this run after about {fitting} of {epochs} epochs at "
            "this speed, in the middle of the learning rate schedule: start again with "
            f"trainer.max_epochs={fitting} or trainer.max_time=null",
            flush=True,
        )

    def _epoch_seconds(self) -> float:
        return self._previous_seconds + time.perf_counter() - self._start

    @property
    def _columns(self) -> dict[str, str]:
        """Return the metrics of a line and their titles; the last one is the monitored metric."""
        name = self.monitor if self.monitor not in _COLUMNS else "val/macro_f1"
        title = name.removeprefix("val/").replace("_", " ").replace("f1", "F1")
        title = title.replace("precision", "prec.")
        return {**_COLUMNS, name: title}

    def header(self, epochs: int) -> str:
        """Return the header of the lines that :meth:`line` returns."""
        titles = "".join(f"  {title:>7}" for title in self._columns.values())
        return f"{'epoch':>{2 * len(str(epochs)) + 1}}{titles}      time"

    def line(self, row: dict[str, Any], epochs: int) -> str:
        """Return the line that is printed after an epoch; ``history.csv`` has all metrics."""
        width = len(str(epochs))
        epoch = f"{row['epoch']:>{width}}/{epochs}".rjust(len("epoch"))
        columns = self._columns.items()
        values = "".join(f"  {row[key]:>{max(7, len(title))}.4f}" for key, title in columns)
        return f"{epoch}{values}{self.seconds[-1]:>8.1f} s" + ("  best" if row["best"] else "")

    def write(self) -> None:
        """Write all rows to ``history.csv`` atomically."""
        # The rows of an earlier version may lack metrics.
        write_csv(self.run_dir / "history.csv", list(self.rows[-1]), self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return rows, durations and the best value so far."""
        return {
            "rows": [dict(row) for row in self.rows],
            "seconds": list(self.seconds),
            "best": self.best,
            "open_epoch": self._epoch_seconds(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore rows, durations and the best value."""
        self.rows = [dict(row) for row in state["rows"]]
        self.seconds = list(state["seconds"])
        self.best = state["best"]
        self._previous_seconds = float(state["open_epoch"])


class EarlyStopping(L.Callback):
    """Stops training after ``patience`` epochs without a better value of the monitored metric.

    Lightning's EarlyStopping runs before the metrics of the training epoch are logged, so it
    cannot monitor them. ``history`` must precede this callback in the Trainer's list.
    """

    def __init__(self, history: MetricsHistory, patience: int) -> None:
        self.history, self.patience = history, patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop a resumed run that had stopped early already: only its evaluation is repeated."""
        self.on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop when the patience is exhausted."""
        best_epochs = [i for i, row in enumerate(self.history.rows) if row["best"]]
        if best_epochs:
            trainer.should_stop |= len(self.history.rows) - 1 - best_epochs[-1] >= self.patience


class BestLastCheckpoint(Checkpoint):
    """Writes ``best.ckpt`` when the monitored metric improves and ``last.ckpt`` every epoch.

    Lightning's ModelCheckpoint loses the best value when the run directory was moved, and would
    then overwrite the best weights with worse ones.
    """

    def __init__(self, folder: Path, history: MetricsHistory) -> None:
        self.folder, self.history = folder, history

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save at the end of an epoch; Lightning calls checkpoint callbacks last."""
        if self.history.rows[-1]["best"]:
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")


class GracefulStop(L.Callback):
    """On Ctrl-C or SIGTERM, finishes the batch, saves ``last.ckpt`` and prints how to resume.

    A second Ctrl-C stops at once and keeps the last saved checkpoint. With several processes, a
    signal to one of them stops all after the same batch. On GPUs they synchronise only every
    ``trainer.log_every_n_steps`` steps, because each synchronisation waits for the device.
    """

    def __init__(self, folder: Path, run_dir: Path) -> None:
        self.folder, self.run_dir = folder, run_dir
        self.stop_requested = False
        self._old_handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old_handlers[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: a notebook or a launcher handles signals
                return

    def _handle(self, number: int, frame: Any) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True
        if distributed.is_rank_zero():
            print("\nstopping: saving after this batch (again to stop at once)", file=sys.stderr)

    def _stop_requested_anywhere(self, trainer: L.Trainer) -> bool:
        """Return whether any process of the run was asked to stop."""
        if trainer.world_size > 1:
            self.stop_requested |= trainer.strategy.reduce_boolean_decision(
                self.stop_requested, all=False
            )
        return self.stop_requested

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save and stop in the middle of an epoch; after its last batch, the epoch ends first.

        Accumulated gradients are not part of a checkpoint, so their optimiser step is awaited.
        """
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        interval = trainer.accumulate_grad_batches
        if trainer.world_size > 1 and trainer.strategy.root_device.type != "cpu":
            assert isinstance(pl_module, EmotionModule)
            interval *= pl_module.cfg["trainer"]["log_every_n_steps"]
        if (index + 1) % interval == 0 and self._stop_requested_anywhere(trainer):
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self._raise()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs: ``last.ckpt`` is already written."""
        if self._stop_requested_anywhere(trainer):
            self._raise()

    def _raise(self) -> None:
        raise RunInterruptedError(
            f"stopped and saved. Resume with: resume={shlex.quote(str(self.run_dir))}"
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers = {}


class DataPositionCallback(L.Callback):
    """Keeps epoch and batch in the data module, which shuffles by epoch and resumes by batch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the epoch before Lightning iterates over the loader."""
        # Lightning sets Trainer.datamodule at run time.
        trainer.datamodule.set_epoch(trainer.current_epoch)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Set the position after a batch."""
        data: EmotionData = trainer.datamodule  # type: ignore[attr-defined] # set at run time
        data.record_position(trainer.current_epoch, index + 1, int(trainer.num_training_batches))
