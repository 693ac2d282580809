"""Plug-ins: other packages that register models, losses, datasets, detectors, ...

A plug-in is an importable package whose modules register builders. Its folder ``conf/`` has the
same config groups as this package. It is active if it is installed with an entry point in the group
``emotion_lab.plugins``, or named with ``plugins=[my_package]``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from emotion_lab.core.errors import UserError

ENTRY_POINT_GROUP = "emotion_lab.plugins"

_activated: dict[str, None] = {}
_imported: set[str] = set()


@functools.cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted({point.module for point in entry_points(group=ENTRY_POINT_GROUP)}))


def active() -> list[str]:
    """Return the names of all active plug-ins, installed ones first."""
    return list(dict.fromkeys([*_installed(), *_activated]))


def activate(names: Iterable[str]) -> None:
    """Activate plug-ins by the name of their package, without importing them."""
    for name in names:
        folder(name)
        _activated[name] = None


def folder(name: str) -> Path:
    """Return the folder of a plug-in; its modules are not imported, those of its parents are."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        found = "is a module, not a package" if spec else "is not installed"
        raise UserError(
            f"plugins=[{name}]: '{name}' {found}. Install the package, or add the folder that "
            "contains it to PYTHONPATH."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def conf_dirs() -> list[Path]:
    """Return the folders ``conf/`` of all active plug-ins that have one."""
    folders = [folder(name) / "conf" for name in active()]
    return [path for path in folders if path.is_dir()]


def import_active() -> None:
    """Import all modules of the active plug-ins that are not imported yet."""
    for name in active():
        if name not in _imported:
            _imported.add(name)
            import_modules(name)


def import_modules(name: str) -> None:
    """Import a package and its modules, those of subpackages included.

    Raises:
        UserError: If a module cannot be imported, with its file and line.
    """
    try:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{name}."):
            if module.ispkg:
                import_modules(module.name)
            else:
                importlib.import_module(module.name)
    except Exception as error:  # a module can raise anything when it is imported
        missing_extra = isinstance(error, ModuleNotFoundError) and name.startswith("emotion_lab.")
        if missing_extra or isinstance(error, UserError):
            raise  # the command line names the extra
        raise UserError(
            f"{place(error, name) or name} cannot be imported: {reason(error)}"
        ) from error


def place(error: BaseException, module: str) -> str | None:
    """Return ``file:line`` of the last frame of an error in a plug-in, or in a module of ours.

    Args:
        error: The error, caught.
        module: Module of the builder, or package that is imported.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = module if module.startswith("emotion_lab.") else module.partition(".")[0]
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if f"{frame.f_globals.get('__name__')}.".startswith(f"{package}."):
            return f"{frame.f_code.co_filename}:{line}"
    return None


def provider(item: object) -> str | None:
    """Return the plug-in that a registered function or class comes from; None for our own."""
    module = item.__module__
    if module.startswith("emotion_lab."):
        return None
    names = (name for name in active() if f"{module}.".startswith(f"{name}."))
    return next(names, module.partition(".")[0])


def reason(error: BaseException) -> str:
    """Return type and message of an error in one line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {message}".split())[:200]
