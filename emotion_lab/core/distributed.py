"""Which process of a run this is, and how one ends in good order. Nothing here imports torch."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

#: What launchers tell a process of its place: Lightning, torchrun, Slurm; 0 is the first of each.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_rank_zero() -> bool:
    """Tell whether this process speaks and writes for its run; of several, one does."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and a terminal that is closed (SIGHUP) end the work like Ctrl-C does."""
    with contextlib.ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            # What is ignored stays so: nohup does that to SIGHUP.
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                stack.callback(signal.signal, number, signal.SIG_DFL)
                signal.signal(number, signal.default_int_handler)
        yield
