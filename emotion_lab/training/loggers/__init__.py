"""Loggers, one file each; a logger is named by its key under ``logger`` in the config."""

from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    build_loggers,
    close,
    media_loggers,
)

__all__ = ["LOGGERS", "LoggerContext", "MediaLogger", "build_loggers", "close", "media_loggers"]
