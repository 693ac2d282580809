"""Train one run: a new one, a resumed one or a repeated one."""

from __future__ import annotations

import functools
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.experiments import reproduce
from emotion_lab.experiments.run import resume
from emotion_lab.experiments.run.final_evaluation import finish_run
from emotion_lab.reports.logger_media import monitoring_callbacks
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import close


def run_training(cfg: DictConfig, overrides: list[str], run_dir: Path) -> float:
    """Train, evaluate the best checkpoint and return the best monitored value.

    ``overrides`` are those of the command, ``run_dir`` exists.
    """
    config = compose.to_container(cfg)
    checkpoint = original = check_data = None
    if cfg.reproduce is not None:
        original = runs.read(Path(str(cfg.reproduce)))
        config = resume.merge_overrides(
            cfg, overrides, reproduce.reproduced_config(original, config)
        )
        check_data = functools.partial(reproduce.check_data, original)
    if cfg.resume is not None:
        checkpoint, _ = resume.find_last_checkpoint(cfg.resume)
        content = ckpt.read(checkpoint)
        if "optimizer_states" not in content:
            raise UserError(
                f"resume={checkpoint} holds weights only, for inference: resume from the run "
                "directory or its last.ckpt, or start from these weights with model.weights=."
            )
        config = resume.resumed_config(cfg, overrides, content[ckpt.CARD])
    else:
        OmegaConf.save(OmegaConf.create(config), run_dir / "config.yaml")
    teacher = (config.get("distill") or {}).get("teacher")
    if teacher is not None:
        # Fail before the data is loaded, which can take minutes.
        ckpt.read(ckpt.find(teacher))
    fitted = fit(config, run_dir, checkpoint, check_data, monitoring_callbacks(config))
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
