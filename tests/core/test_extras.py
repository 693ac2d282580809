"""Commands and options whose packages are not installed: one line with the pip command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_lab.cli.help import commands
from emotion_lab.core import extras
from emotion_lab.core.errors import UserError
from tests.conftest import ROOT

#: Runs several commands in a process that has only the packages of the base installation.
BLOCKED = """
import runpy, sys
from emotion_lab.core.extras import PACKAGES
blocked = {name for names in PACKAGES.values() for name in names}

class Finder:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Finder)
commands = sys.argv[1:]
for command in commands:
    sys.argv = ["emotion-lab", *command.split()]
    try:
        runpy.run_module("emotion_lab", run_name="__main__")
    except SystemExit as error:
        print(command, "exits with", error.code, file=sys.stderr)
"""


def run_blocked(*lines: str, cwd: Path) -> list[str]:
    command = [sys.executable, "-c", BLOCKED, *lines]
    completed = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)
    assert completed.returncode == 0, completed.stderr
    return completed.stderr.splitlines()


def test_a_command_without_its_packages_is_one_line(tmp_path: Path) -> None:
    names = [name for name in commands() if name not in extras.BASE_COMMANDS]
    lines = run_blocked(*names, "train --help", cwd=tmp_path)
    assert len(lines) == 2 * len(names)  # --help needs no packages
    for name, message, code in zip(names, lines[::2], lines[1::2], strict=True):
        assert message.startswith(f"error: {name} needs torch, torchvision, lightning, "), message
        extra = "train,scale" if name == "shard" else "train"
        assert message.endswith(f'not installed: pip install "emotion_lab[{extra}]"')
        assert code == f"{name} exits with 2"
    assert not any(tmp_path.iterdir())


def test_one_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda package: package != "optuna")
    extras.check_installed("train")
    with pytest.raises(UserError, match=r"^sweep needs optuna, which is not installed: pip .*rain"):
        extras.check_installed("sweep")


@pytest.mark.parametrize(
    ("module", "extra"), [("openvino.runtime", "deploy"), ("onnx", "deploy"), ("boto3", "scale")]
)
def test_a_package_that_an_option_needs(module: str, extra: str) -> None:
    error = extras.missing_package(ModuleNotFoundError("No module", name=module))
    package = module.partition(".")[0]
    expected = f'this needs {package}, which is not installed: pip install "emotion_lab[{extra}]"'
    assert str(error) == expected


def test_a_missing_module_of_another_package_is_a_bug() -> None:
    assert extras.missing_package(ModuleNotFoundError("No module", name="emotion_lab.x")) is None
    assert extras.missing_package(ModuleNotFoundError("No module")) is None


def test_the_table_matches_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib is part of Python 3.11 and later")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]

    def names(requirements: list[str]) -> set[str]:
        found = {re.split(r"[<>=\[]", text)[0].replace("-", "_") for text in requirements}
        return {name for name in found if not name.startswith("hydra_")}

    optional = {key: names(value) for key, value in project["optional-dependencies"].items()}
    assert {extra: {*packages} for extra, packages in extras.PACKAGES.items()} == {
        extra: optional[extra] - {"opencv_python_headless"} for extra in extras.PACKAGES
    }
    assert not names(project["dependencies"]) & set().union(*extras.PACKAGES.values())
    # albumentations requires the other wheel; bounded there, since it has no upper bound itself.
    assert "opencv_python_headless" in optional["train"]
    assert {name for name in names(project["dependencies"]) if "opencv" in name} == {
        "opencv_python"
    }
