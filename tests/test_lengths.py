"""Lengths of files and functions."""

from __future__ import annotations

import ast

from tests.conftest import ROOT

FILES = [path for folder in ("emotion_lab", "tests") for path in (ROOT / folder).rglob("*.py")]


def test_files_have_at_most_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert len(lengths) > 500
    assert not {path.name: length for path, length in lengths.items() if length > 400}


def test_functions_have_at_most_60_lines() -> None:
    too_long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    too_long[f"{path.name}: {node.name}"] = length
    assert not too_long
