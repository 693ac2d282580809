"""Rank detection and graceful shutdown on SIGTERM and SIGHUP. No torch here."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

#: Rank variables of Lightning, torchrun and Slurm; rank 0 has the value 0 in each.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Return whether this process prints and writes files for its run."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP (a closed terminal), as Ctrl-C does."""
    with contextlib.ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            # An ignored signal stays ignored: nohup ignores SIGHUP.
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                stack.callback(signal.signal, number, signal.SIG_DFL)
                signal.signal(number, signal.default_int_handler)
        yield
