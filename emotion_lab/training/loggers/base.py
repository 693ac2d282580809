"""Logger registry, and the interface of loggers for images, graphs and final results."""

from __future__ import annotations

import copy
import errno
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger

from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.registry import Registry
from emotion_lab.models.base import EmotionNet


@dataclass(frozen=True)
class LoggerContext:
    """Config and run directory of a logger; ``step`` is the optimiser step of a resumed run."""

    cfg: dict[str, Any]
    run_dir: Path
    step: int | None = None


#: ``build(options, context) -> Logger``; options are the keys below the logger's name.
LOGGERS: Registry[Callable[[dict[str, Any], LoggerContext], Logger]] = Registry(
    "logger", "emotion_lab.training.loggers"
)


class MediaLogger:
    """Mixin for Lightning loggers that also log images, the network graph and final results.

    Attributes:
        title: Name of the logger in messages.
        failed: Whether a call has failed; the logger is disabled from then on.
        pictures_every: Epochs between two confusion matrices of val; None logs the last one only.
        explain: Number of val images logged with a saliency map.
    """

    title = ""
    failed = False
    pictures_every: int | None = None
    explain: int = 0

    def log_network(self, net: EmotionNet) -> None:
        """Log the graph of a network, which is not changed."""
        raise NotImplementedError

    def log_images(self, images: Mapping[str, np.ndarray], step: int) -> None:
        """Log named images, uint8 RGB (H, W, 3)."""
        raise NotImplementedError

    def log_results(self, results: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Log the final results of a run at its last step.

        The scores of ``checkpoint``, the best one, are named ``best/...``.
        """
        raise NotImplementedError

    def close(self, status: str) -> None:
        """End the run with the status ``success`` or ``failed``.

        Lightning calls ``finalize`` at the end of the fit, before the final results are logged.
        """
        raise NotImplementedError


def media_loggers(loggers: Sequence[Logger]) -> list[MediaLogger]:
    """Return the loggers that log images, graphs and final results."""
    return [logger for logger in loggers if isinstance(logger, MediaLogger)]


def detached_copy(net: EmotionNet) -> EmotionNet:
    """Return a copy of a network: float32, on the CPU, in eval mode, not compiled."""
    net = copy.deepcopy(net).float().cpu().eval()
    # torch has no method that reverts module.compile().
    net.backbone._compiled_call_impl = None
    return net


def is_fatal(error: BaseException) -> bool:
    """Return whether an error ends the run: a full disk or a user's mistake."""
    disk_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return disk_full or isinstance(error, UserError)


def never_fail(method: Callable[..., None]) -> Callable[..., None]:
    """Decorate a logger's method: on failure, print one line and disable this logger.

    Training continues. The method runs in rank 0 only.
    """

    @functools.wraps(method)
    def wrapper(self: MediaLogger, *args: Any, **kwargs: Any) -> None:
        if self.failed or not distributed.is_rank_zero():
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            # Lightning raises its own error from the writer's OSError.
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if is_fatal(cause):
                raise cause from None
            self.failed = True
            print(
                f"warning: {self.title} failed and is disabled for this run: {first_line(cause)}",
                flush=True,
            )

    return wrapper


def build_loggers(context: LoggerContext) -> list[Logger]:
    """Build the loggers chosen with ``logger=``; none for an empty choice."""
    loggers: list[Logger] = []
    try:
        for name, options in (context.cfg.get("logger") or {}).items():
            loggers.append(LOGGERS.get(name)(options or {}, context))
    except BaseException:
        close(loggers, "failed")
        raise
    return loggers


def close(loggers: Sequence[Logger], status: str) -> None:
    """Close all loggers of a run with the status ``success`` or ``failed``."""
    for logger in loggers:
        if isinstance(logger, MediaLogger):
            logger.close(status)
        else:
            logger.finalize(status)
