"""Callback that records a resume in the run directory."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning as L

from emotion_lab.core import runs
from emotion_lab.core.environment import git_commit
from emotion_lab.core.io import write_json
from emotion_lab.experiments.run.resume import save_config


class ResumeRecord(L.Callback):
    """Updates ``config.yaml`` and ``resumes.json`` when a resumed run starts to train.

    Nothing is written before the checkpoint is restored, so a refused resume changes no file. A run
    without further epochs to train is recorded too.

    Args:
        run_dir: The run directory.
        config: The config that the run continues with.
        resume: Entry of ``resumes.json`` without ``time`` and ``commit``; see
            :func:`emotion_lab.core.runs.read_resumes`.
    """

    def __init__(self, run_dir: Path, config: dict[str, Any], resume: dict[str, Any]) -> None:
        self.run_dir, self.config = run_dir, config
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        # The commit is read first: the checkout may change during a long run.
        self.resume = {"time": time, **resume, "commit": git_commit()}
        self._written = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record; remove ``metrics.json``, which describes the run before the resume."""
        self._write(trainer)
        if trainer.is_global_zero:
            (self.run_dir / "metrics.json").unlink(missing_ok=True)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of a run that had no epoch to train."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        resumes = [*runs.read_resumes(self.run_dir), self.resume]
        save_config(self.run_dir, self.config)
        write_json(self.run_dir / runs.RESUMES, {"resumes": resumes})
