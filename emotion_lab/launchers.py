"""Where the jobs of a sweep run: is what a launcher needs installed? Nothing here imports torch."""

from __future__ import annotations

import importlib.util
from typing import Any

from emotion_lab.errors import UserError


def check(hydra_cfg: Any) -> None:
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
