"""What the loggers share: the registry, what they are told at the start, what a tracker shows."""

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
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry
from emotion_lab.models.base import EmotionNet


@dataclass(frozen=True)
class LoggerContext:
    """What a logger is told when a run begins.

    Attributes:
        cfg: The whole resolved config, plain dicts.
        folder: The run folder.
        step: The optimiser step from which a resumed run goes on; None for a new run.
    """

    cfg: dict[str, Any]
    folder: Path
    step: int | None = None


#: ``build(options, start) -> Logger``, options being those below the logger's own key.
LOGGERS: Registry[Callable[[dict[str, Any], LoggerContext], Logger]] = Registry(
    "logger", "emotion_lab.training.loggers"
)


class MediaLogger:
    """Mixed into a Lightning logger that shows more than numbers.

    Attributes:
        title: What messages call it.
        lost: Whether it has failed and is left alone.
        pictures_every: Epochs between two confusion matrices of val; None shows the last alone.
        explain: How many images of val are shown with a map of where the network looked.
    """

    title = ""
    lost = False
    pictures_every: int | None = None
    explain: int = 0

    def network(self, net: EmotionNet) -> None:
        """Show the graph of a network, which is left as it is."""
        raise NotImplementedError

    def pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """Show pictures, uint8 RGB (H, W, 3), under their names."""
        raise NotImplementedError

    def results(self, facts: Mapping[str, float], checkpoint: Path, step: int) -> None:
        """Note what the run came to.

        Args:
            facts: Numbers of the finished run; those called ``best/...`` are its scores.
            checkpoint: The best checkpoint.
            step: Of the last optimiser step.
        """
        raise NotImplementedError

    def close(self, status: str) -> None:
        """End the run: ``success`` or ``failed``.

        Not ``finalize``: that Lightning calls when the fit is over, before the run is scored.
        """
        raise NotImplementedError


def trackers(loggers: Sequence[Logger]) -> list[MediaLogger]:
    """Return those loggers that show more than numbers."""
    return [logger for logger in loggers if isinstance(logger, MediaLogger)]


def reason(error: BaseException) -> str:
    """Return the first line of what went wrong, short enough for one line."""
    words = (str(error) or type(error).__name__).splitlines()[0]
    return words if len(words) <= 200 else words[:199] + "…"


def bare_copy(net: EmotionNet) -> EmotionNet:
    """Return a copy to look at: float32, on the CPU, in eval mode, not compiled."""
    work = copy.deepcopy(net).float().cpu().eval()
    # torch has no call that undoes module.compile().
    work.backbone._compiled_call_impl = None
    return work


def is_fatal(error: BaseException) -> bool:
    """Tell whether an error ends a run in any case: a full disk, or a user's mistake."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(error, UserError)


def never_fail(method: Callable[..., None]) -> Callable[..., None]:
    """Decorate a tracker's method: where it fails, say so in one line and train on without it."""

    @functools.wraps(method)
    def spared(self: MediaLogger, *args: Any, **kwargs: Any) -> None:
        if self.lost or rank_zero_only.rank != 0:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            # Lightning wraps what its writer says.
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            if is_fatal(cause):
                raise cause from None
            self.lost = True
            print(f"{self.title}: {reason(cause)}; going on without it", flush=True)

    return spared


def build_loggers(start: LoggerContext) -> list[Logger]:
    """Build the loggers chosen with ``logger=``; none for an empty choice.

    Raises:
        UserError: For an unknown one, or one that cannot begin.
    """
    loggers: list[Logger] = []
    try:
        for name, options in (start.cfg.get("logger") or {}).items():
            loggers.append(LOGGERS.get(name)(options or {}, start))
    except BaseException:
        close(loggers, "failed")
        raise
    return loggers


def close(loggers: Sequence[Logger], status: str) -> None:
    """Finish every logger.

    Args:
        loggers: The run's.
        status: ``success`` or ``failed``.
    """
    for logger in loggers:
        if isinstance(logger, MediaLogger):
            logger.close(status)
        else:
            logger.finalize(status)
