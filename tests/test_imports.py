"""Imports run one way: from the commands down to core, without circles between folders."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import emotion_lab

PACKAGE = Path(emotion_lab.__file__).parent

#: Folders from top to bottom; a module may import its own folder and those below.
ORDER = (
    "cli",
    "benchmarks",
    "experiments",
    "audits",
    "exporters",
    "reports",
    "video",
    "evaluation",
    "training",
    "inference",
    "data",
    "synthetic",
    "models",
    "temporal",
    "losses",
    "config",
    "core",
)


@functools.cache
def import_statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports of ``source``, at any depth."""
    nodes = ast.walk(ast.parse(source))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(source: str, modules: set[str]) -> Iterator[str]:
    """Yield the dotted modules of the package that ``source`` imports, at any depth."""
    for node in import_statements(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else node.module


def rank(module: str) -> int | None:
    """Return the position of a module's folder; -1 for a command, None for the package itself."""
    parts = module.split(".")
    if parts[0] != "emotion_lab" or len(parts) == 1:
        return None
    return ORDER.index(parts[1]) if parts[1] in ORDER else -1


def upward(files: dict[str, str]) -> list[str]:
    """Return the forbidden imports among ``files``, a map from dotted module to source."""
    modules = set(files)
    wrong = []
    for module, source in files.items():
        own = rank(module)
        for target in imported(source, modules):
            other = rank(target)
            if own is None or other is None or target == module:
                continue
            if other < own or (own == other == -1):
                wrong.append(f"{module} imports {target}")
    return wrong


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def test_every_folder_has_a_place(files: dict[str, str]) -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ORDER)


def test_imports_run_one_way(files: dict[str, str]) -> None:
    assert upward(files) == []


@pytest.mark.parametrize(
    "module, line",
    [
        ("emotion_lab.core.io", "from emotion_lab.models import base"),
        ("emotion_lab.data.build", "import emotion_lab.training.fit"),
        ("emotion_lab.evaluation.metrics", "def f():\n    from emotion_lab.reports import html"),
        ("emotion_lab.export", "from emotion_lab.evaluate import evaluate"),
        ("emotion_lab.video.tracker", "from emotion_lab.train import train"),
    ],
)
def test_an_upward_import_is_found(files: dict[str, str], module: str, line: str) -> None:
    planted = {**files, module: f"{files[module]}\n{line}\n"}
    assert len(upward(planted)) == len(upward(files)) + 1
