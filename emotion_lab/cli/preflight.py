"""Checks that involve several config values or installed packages. No torch here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import check_checkpoint

#: Value in an experiment for a path that the user must give.
NEEDED = "needed"


def check_teacher(teacher: Any) -> None:
    """Check that ``distill.teacher`` is null or names a checkpoint."""
    if teacher == NEEDED:
        raise UserError("a teacher is needed: distill.teacher=<a checkpoint or run directory>.")
    if teacher is not None:
        check_checkpoint(teacher)


def check_fold(folds: Sequence[Any], fold: Sequence[Any], typed: bool) -> None:
    """Check that every fold exists.

    Args:
        folds: Values of ``data.folds``, the number of folds.
        fold: Values of ``data.fold``, counted from 0.
        typed: Whether ``data.fold`` is on the command line.
    """
    for count in folds:
        if count is None and typed:
            raise UserError(f"data.fold={fold[0]} needs data.folds: set data.folds=5 for instance.")
        for index in fold if count is not None else ():
            if index >= count:
                raise UserError(
                    f"data.fold={index} is not valid: expected 0 to {count - 1} for "
                    f"data.folds={count}, counted from 0."
                )


def check_launcher(hydra_cfg: Any) -> None:
    """Check that the package of ``hydra/launcher`` is installed."""
    module = str(hydra_cfg.launcher._target_).rsplit(".", 1)[0]
    package = ".".join(module.split(".")[:2])
    try:
        installed = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        name = package.rsplit(".", 1)[-1].replace("_", "-")
        raise UserError(
            f"this launcher needs {name}: pip install {name}, or all of them with "
            'pip install "emotion_lab[scale]".'
        )
