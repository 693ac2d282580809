"""Quoting of texts on the command line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from emotion_lab.config import overrides as command_line

PATHS = [
    *("a b", " lead and trail ", "a=b", "a==b=c", "[1](2){3}", "it's", "it''s 'so' x", 'say "x"'),
    *(
        "a\\b",
        "C:\\dir\\",
        "tail\\\\",
        "a\\'b\\\\'c",
        "a,b",
        "${x}",
        "a\\${x}",
        "a\\\\${now:%Y}",
        "${",
    ),
    *("#x", "~x", "Größe 表情", "5", "true", "a:b", "a\tb"),
]


def read_back(argument: str) -> str:
    """Return the value of an override as the composed config holds it."""
    value = OverridesParser.create().parse_override(argument).value()
    return OmegaConf.create({"x": value}).x


@pytest.mark.parametrize("path", PATHS)
def test_paths_come_back_as_typed(path: str) -> None:
    for key in ("data.path", "ckpt", "+model.weights"):
        (argument,) = command_line.quote_texts([f"{key}={path}"])
        # What a report shows means the same when it is typed.
        assert command_line.quote_texts(command_line.as_typed([argument])) == [argument]
        assert argument.startswith(f"{key}=")
        assert read_back(argument) == path


def test_any_mix_of_special_characters_comes_back() -> None:
    for size in range(1, 5):
        for letters in itertools.product("\\'${", repeat=size):
            path = "a" + "".join(letters)
            assert read_back(f"resume={command_line.quote(path)}") == path
            assert read_back(f"resume={command_line.quote(path + 'x}')}") == path + "x}"


def test_values_that_are_not_quoted() -> None:
    kept = ["data.path='a b'", 'ckpt="a=b"', "data.path=null", "data.path=", "seed=1,2", "loss=ce"]
    assert command_line.quote_texts(kept) == kept
    sweep = ["-m", "data.path=/a,/b"]
    assert command_line.quote_texts(sweep) == sweep
    assert command_line.quote_texts(["data.path=/a,/b"]) == ["data.path='/a,/b'"]


def test_a_path_that_exists_is_one_path(tmp_path: Path) -> None:
    place = tmp_path / "a,b"
    place.mkdir()
    argv = command_line.quote_texts(["-m", f"data.path={place}"])
    assert argv == ["-m", f"data.path='{place}'"]


def test_commands_are_shown_as_typed() -> None:
    typed = ["ckpt=[a,b/c]", "data.path=my faces", "optim.lr=0.1", "resume=true", "model=cnn"]
    assert command_line.as_typed(command_line.quote_texts(typed)) == typed
