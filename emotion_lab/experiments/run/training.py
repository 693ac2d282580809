"""Train one run: a new one, a resumed one or a repeated one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import distributed, runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.wording import counted
from emotion_lab.experiments import reproduce
from emotion_lab.experiments.run import resume
from emotion_lab.experiments.run.final_evaluation import finish_run
from emotion_lab.experiments.run.resume_record import ResumeRecord
from emotion_lab.models.load import checkpoint_model
from emotion_lab.reports.logger_media import monitoring_callbacks
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import close


def _prepare_resume(
    cfg: DictConfig, overrides: list[str], run_dir: Path, checkpoint: Path
) -> tuple[dict[str, Any], ResumeRecord]:
    """Return the config of a resumed run and the callback that records the resume."""
    content = ckpt.read(checkpoint)
    if "optimizer_states" not in content:
        raise UserError(
            f"resume={checkpoint} holds weights only, for inference: resume from the run "
            "directory or its last.ckpt, or start from these weights with model.weights=."
        )
    stored = resume.saved_config(run_dir, content[ckpt.CARD])
    saved = compose.complete(stored, compose.to_container(cfg))
    config = resume.resumed_config(cfg, overrides, saved)
    position = content["EmotionData"]
    resume.check_changes(saved, config, position)
    epochs = config["trainer"]["max_epochs"]
    if position["epoch"] == epochs and distributed.is_rank_zero():
        done = counted(epochs, "epoch")
        print(f"{run_dir} has completed its {done}: best.ckpt is only evaluated again")
    entry = {
        "epoch": int(position["epoch"]),
        "step": int(content["global_step"]),
        "changed": resume.changed_keys(saved, config),
    }
    return config, ResumeRecord(run_dir, config, entry)


def run_training(cfg: DictConfig, overrides: list[str], run_dir: Path) -> float:
    """Train, evaluate the best checkpoint and return the best monitored value.

    ``overrides`` are those of the command, ``run_dir`` exists.
    """
    config = compose.to_container(cfg)
    checkpoint = original = check_data = None
    callbacks: list[L.Callback] = []
    if cfg.reproduce is not None:
        original = runs.read(Path(str(cfg.reproduce)))
        config = resume.merge_overrides(
            cfg, overrides, reproduce.reproduced_config(original, config)
        )
        check_data = functools.partial(reproduce.check_data, original)
    if cfg.resume is not None:
        checkpoint, _ = resume.find_last_checkpoint(cfg.resume)
        config, record = _prepare_resume(cfg, overrides, run_dir, checkpoint)
        callbacks.append(record)
    else:
        config["model"] = checkpoint_model(config["model"])
        resume.save_config(run_dir, config)
    callbacks += monitoring_callbacks(config)
    fitted = fit(config, run_dir, checkpoint, check_data, callbacks)
    if not fitted.is_global_zero:
        # The main process evaluates, writes the files and opens the test split.
        return float(fitted.facts["monitor"]["best"])
    status = "failed"
    try:
        value = finish_run(config, run_dir, fitted)
        status = "success"
    finally:
        close(fitted.loggers, status)
    if original is not None:
        print("\n".join(reproduce.report(original, run_dir, fitted.facts)))
    print(run_dir)
    return value
