"""Loggers, each named by a key under ``logger`` in the config."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from emotion_lab.errors import UserError, unknown


def _csv(cfg: dict[str, Any], folder: Path) -> Logger:
    # A resumed run gets a version of its own; what was logged before stays.
    return CSVLogger(folder, name="csv")


def _tensorboard(cfg: dict[str, Any], folder: Path) -> Logger:
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def _wandb_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path.home() / ".netrc"
    try:
        return "api.wandb.ai" in netrc.read_text(encoding="utf-8")
    except OSError:
        return False


def _wandb(cfg: dict[str, Any], folder: Path) -> Logger:
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError("logger=wandb needs wandb: pip install wandb") from None
    from lightning.pytorch.loggers import WandbLogger

    mode = cfg.get("mode", "auto")
    if mode not in ("auto", "online", "offline"):
        raise unknown("logger.wandb.mode", mode, ("auto", "online", "offline"))
    offline = mode == "offline" or (mode == "auto" and not _wandb_logged_in())
    return WandbLogger(
        project=cfg.get("project", "emotion_lab"),
        name=cfg.get("name"),
        group=cfg.get("group"),
        tags=list(cfg.get("tags") or []),
        save_dir=str(folder),
        offline=offline,
        # Lightning refuses to upload models from an offline run.
        log_model=False,
    )


BUILDERS: dict[str, Callable[[dict[str, Any], Path], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def build_loggers(cfg: dict[str, Any] | None, folder: Path) -> list[Logger]:
    """Build the loggers chosen with ``logger=``; none for an empty choice."""
    loggers = []
    for name, arguments in (cfg or {}).items():
        if name not in BUILDERS:
            raise unknown("logger", name, BUILDERS, "Set it with logger=[csv,tensorboard].")
        loggers.append(BUILDERS[name](arguments or {}, folder))
    return loggers


def log_pictures(loggers: list[Logger], pictures: dict[str, Path], step: int) -> None:
    """Show PNG files in TensorBoard and W&B, named by ``pictures``' keys."""
    import numpy as np
    from PIL import Image

    for logger in loggers:
        for name, path in pictures.items():
            if isinstance(logger, TensorBoardLogger):
                image = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(name, image, step, dataformats="HWC")
            elif type(logger).__name__ == "WandbLogger":
                logger.log_image(key=name, images=[str(path)])


def close(loggers: list[Logger], status: str) -> None:
    """Finish every logger, so that the next run of a sweep starts its own."""
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.close()
        if type(logger).__name__ == "WandbLogger":
            import wandb

            wandb.finish(exit_code=0 if status == "success" else 1)
