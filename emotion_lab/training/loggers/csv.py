"""``logger=csv``: one line a logged step in ``csv/``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from emotion_lab.training.loggers.base import LOGGERS, LoggerContext


@LOGGERS.register("csv")
def build(options: dict[str, Any], start: LoggerContext) -> Logger:
    """Build it. A resumed run gets a version of its own; what was logged before stays."""
    return CSVLogger(start.folder, name="csv")
