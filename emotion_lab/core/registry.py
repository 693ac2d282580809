"""Registries of named builders; modules of a package and of plug-ins are discovered."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from emotion_lab.core import plugins
from emotion_lab.core.errors import UserError, unknown

T = TypeVar("T")

#: Errors of a builder that are mistakes in its code or in its arguments; not a full memory or disk.
_MISTAKES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(NameError, NotImplementedError, TypeError, ValueError),
)


def source(item: Any) -> str:
    """Return ``file:line`` of a function or class, or its module if there is no file."""
    try:
        return f"{inspect.getsourcefile(item)}:{inspect.getsourcelines(item)[1]}"
    except (OSError, TypeError):
        return str(getattr(item, "__module__", item))


def place(error: BaseException, builder: Any) -> str:
    """Return ``file:line`` where an error was raised in the module of a builder, or its own."""
    return plugins.place(error, builder.__module__) or source(builder)


class Registry(Generic[T]):
    """Map from a name in the config to the function or class that builds the object.

    Args:
        kind: Config group, for instance ``"model"``; it appears in error messages.
        packages: Packages whose modules register their builders when imported.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self.packages = packages
        self._items: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a builder under ``name``.

        Raises:
            UserError: If another function or class is registered under this name.
        """

        def decorate(item: T) -> T:
            other = self._items.get(name, item)
            # A module that is imported again, for instance in a notebook, replaces its builders.
            names = [(x.__module__, x.__qualname__) for x in (item, other)]  # type: ignore[attr-defined]
            if names[0] != names[1]:
                raise UserError(
                    f"{self.kind} '{name}' is registered twice: in {source(other)} and in "
                    f"{source(item)}. Choose another name for one of them."
                )
            self._items[name] = item
            return item

        return decorate

    def _discover(self) -> None:
        if not self._discovered:
            for package in self.packages:
                plugins.import_modules(package)
            self._discovered = True
        plugins.import_active()

    def get(self, name: str) -> T:
        """Return the builder registered under ``name``.

        The module of that name is tried first: other modules may need packages that are missing.
        """
        for module in (f"{package}.{name}" for package in self.packages):
            if name not in self._items and importlib.util.find_spec(module):
                plugins.import_modules(module)
        if name not in self._items:
            self._discover()
        if name not in self._items:
            how = f"Set it with {self.kind}=<name>; plugins=[<package>] adds those of a package."
            raise unknown(self.kind, name, self._items, how)
        return self._items[name]

    def build(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the builder registered under ``name``.

        Raises:
            UserError: If the builder does not take the arguments, or fails; with file and line.
        """
        builder: Any = self.get(name)
        signature = inspect.signature(builder)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UserError(
                f"{source(builder)}: {self.kind} '{name}' takes {signature}: {error}."
            ) from None
        try:
            return builder(*args, **kwargs)
        except _MISTAKES as error:
            raise UserError(
                f"{place(error, builder)}: {self.kind} '{name}' cannot be built: "
                f"{plugins.reason(error)}"
            ) from error

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self._discover()
        return sorted(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
