"""``logger=csv``: one row for each logged step in ``csv/``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from emotion_lab.training.loggers.base import LOGGERS, LoggerContext


@LOGGERS.register("csv")
def build(options: dict[str, Any], context: LoggerContext) -> Logger:
    """Build the logger. A resumed run writes a new version and keeps the earlier ones."""
    return CSVLogger(context.run_dir, name="csv")
