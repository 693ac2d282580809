"""Which process of a run on several devices this is. Nothing here imports torch."""

from __future__ import annotations

import os

#: What launchers tell a process of its place: Lightning, torchrun, Slurm; 0 is the first of each.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def first() -> bool:
    """Tell whether this process speaks and writes for its run; of several, one does."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
