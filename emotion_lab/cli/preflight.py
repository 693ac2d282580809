"""Checks of a command line that no single config value can answer. Nothing here imports torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import check_checkpoint

#: What an experiment sets where the user has to say a path.
NEEDED = "needed"


def check_teacher(teacher: Any) -> None:
    """Make sure that ``distill.teacher`` names a checkpoint, where it names anything.

    Raises:
        UserError: If it has still to be said, or is none.
    """
    if teacher == NEEDED:
        raise UserError("a teacher is needed: distill.teacher=<a checkpoint or run folder>.")
    if teacher is not None:
        check_checkpoint(teacher)


def check_fold(folds: Sequence[Any], fold: Sequence[Any], typed: bool) -> None:
    """Make sure that every fold is one of those that the data is cut into.

    Args:
        folds: The values of ``data.folds``.
        fold: Those of ``data.fold``, counted from 0.
        typed: Whether ``data.fold`` was typed.

    Raises:
        UserError: Naming the first that is none.
    """
    for many in folds:
        if many is None and typed:
            raise UserError(
                f"data.fold={fold[0]} means nothing without data.folds: set data.folds=5 for "
                "instance."
            )
        for index in fold if many is not None else ():
            if index >= many:
                raise UserError(
                    f"data.fold={index} is not valid: expected 0 to {many - 1} for "
                    f"data.folds={many}, counted from 0."
                )


def check_launcher(hydra_cfg: Any) -> None:
    """Make sure that the launcher of a sweep can be loaded.

    Raises:
        UserError: Saying what to install.
    """
    module = str(hydra_cfg.launcher._target_).rsplit(".", 1)[0]
    package = ".".join(module.split(".")[:2])
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        name = package.rsplit(".", 1)[-1].replace("_", "-")
        raise UserError(
            f"this launcher needs {name}: pip install {name}, or all of them with "
            'pip install "emotion_lab[scale]".'
        )
