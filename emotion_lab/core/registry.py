"""Registries of named builders; modules of a package are discovered automatically."""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from emotion_lab.core.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Map from a name in the config to the function or class that builds the object.

    Args:
        kind: Config group, for instance ``"model"``; it appears in error messages.
        package: Package whose modules register their builders when imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._items: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a builder under ``name``.

        Raises:
            ValueError: If the name is already registered, a programming error.
        """

        def decorate(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._items[name] = item
            return item

        return decorate

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._discovered = True

    def get(self, name: str) -> T:
        """Return the builder registered under ``name``.

        The module of that name is tried first: other modules may need packages that are missing.
        """
        if name not in self._items and importlib.util.find_spec(f"{self.package}.{name}"):
            importlib.import_module(f"{self.package}.{name}")
        if name not in self._items:
            self._discover()
        if name not in self._items:
            raise unknown(self.kind, name, self._items, f"Set it with {self.kind}=<name>.")
        return self._items[name]

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self._discover()
        return sorted(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
