"""Loggers, each named by a key under ``logger`` in the config; one file each."""

from emotion_lab.training.loggers.base import (
    LOGGERS,
    LoggerContext,
    MediaLogger,
    build_loggers,
    close,
    trackers,
)

__all__ = ["LOGGERS", "LoggerContext", "MediaLogger", "build_loggers", "close", "trackers"]
