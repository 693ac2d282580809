"""Helpers of the training tests: histories, and runs that fail or are stopped."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.training import callbacks

Tiny = Callable[..., dict[str, Any]]
CLASSES = list(EMOTIONS)

#: Runs the entry point. FAILURE is <kind>,<rank>,<count>: an ``error`` or a kill at a ``step``, or
#: a kill while a checkpoint is written (``save``).
DRIVER = """
import os, signal
import torch
from lightning.pytorch.callbacks import Callback
import emotion_lab.training.fit as fit
from emotion_lab.core.errors import UserError
from emotion_lab.train import main

failure, rank, count = os.environ["FAILURE"].split(",")
build, save, saved = fit.make_trainer, torch.save, []

class Fail(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if (trainer.global_rank, trainer.global_step) == (int(rank), int(count)):
            if failure == "step":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("rank %d failed" % trainer.global_rank)

def make_trainer(*args, **kwargs):
    trainer = build(*args, **kwargs)
    if failure != "save":
        trainer.callbacks.append(Fail())
    return trainer

def half_written(content, file, *args, **kwargs):
    saved.append(file)
    if failure == "save" and len(saved) == int(count):
        file.write(b"x" * 1000)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, file, *args, **kwargs)

if __name__ == "__main__":
    fit.make_trainer, torch.save = make_trainer, half_written
    main()
"""


class Crash(L.Callback):
    """Raises at the start of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


@contextlib.contextmanager
def after_batch(action: Callable[[Any, Any, int], None]) -> Iterator[None]:
    """Call ``action(trainer, batch, index)`` after every training batch."""
    original = callbacks.DataPositionCallback.on_train_batch_end

    def hook(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        original(self, trainer, module, outputs, batch, index)
        action(trainer, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.DataPositionCallback, "on_train_batch_end", hook)
        yield


def press_ctrl_c(epoch: int, stop_index: int | None) -> contextlib.AbstractContextManager[None]:
    """Send Ctrl-C to this process after batch ``stop_index`` of an epoch."""

    def press(trainer: Any, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) == (epoch, stop_index):
            os.kill(os.getpid(), signal.SIGINT)

    return after_batch(press)


def read_history(run: Path) -> list[dict[str, str]]:
    """Return the rows of ``history.csv``."""
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))
