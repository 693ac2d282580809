"""README, CONTRIBUTING and docs: links, commands and config keys are valid."""

from __future__ import annotations

import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from emotion_lab.config import compose, schema
from emotion_lab.config.overrides import flags, quote_texts
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.tuning import space
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
#: Uses the example model of CONTRIBUTING.md; tests/test_contributing.py runs it.
EXAMPLE = "emotion_lab.train model=tiny"
#: Commands without a config of their own.
NO_CONFIG = ("loader",)
#: ``name=value`` in running text that is no key of a config.
OTHER = {"key", "weights_only"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text: str) -> str:
    """Return the indented and the fenced code of a page, lines joined that end in a backslash."""
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    indented = "\n".join(line for line in text.splitlines() if re.match(r" {4,}\S", line))
    return re.sub(r"\\\n\s*", " ", f"{fenced}\n{indented}")


def spans(text: str) -> list[str]:
    """Return the text between backticks; a span may contain a line break."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def dead_links(page: Path, text: str) -> list[str]:
    """Return the relative links in the text of ``page`` without an existing target."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page.parent / file
        if not path.exists() or (
            anchor and anchor not in anchors(path.read_text(encoding="utf-8") if file else text)
        ):
            dead.append(target)
    return dead


def commands(text: str) -> list[str]:
    """Return every command of this package: ``<...>`` replaced by x, shell syntax removed."""
    result = []
    for part in [*code_blocks(text).splitlines(), *spans(text)]:
        part = re.sub(r"<[^<>]*>|\.\.\.", "x", part)
        part = re.sub(r"\bemotion-lab (?=[a-z])(?!completion)", "python -m emotion_lab.", part)
        for command in re.findall(r"python -m (emotion_lab\.\w.*)", part):
            result.append(re.split(r"[;\"|]|&&", re.sub(r"[\w.]+=\$\w+", "", command))[0].strip())
    return result


@cache
def refused(command: str) -> str | None:
    """Return the error of a command, None if it is valid."""
    module, *words = shlex.split(command, comments=True)
    if importlib.util.find_spec(module) is None:
        return f"there is no {module}"
    entry = module.rpartition(".")[2]
    if entry in NO_CONFIG or "--help" in words:
        return None
    try:
        if entry == "sweep":
            words = space.gather(words)
        # Launchers need their own packages.
        words = [word for word in words if not word.startswith("hydra")]
        overrides, multirun, _ = flags(quote_texts(words))
        compose.precheck(entry, overrides, multirun)
    except UserError as error:
        return str(error)
    return None


@cache
def keys() -> frozenset[str]:
    """Return every key and group of the configs."""
    names = {"experiment"} | {name for name in schema.GROUPS}
    for file in compose.CONF.rglob("*.yaml"):
        group = "" if file.parent == compose.CONF else f"{file.parent.name}."
        if group == "experiment.":
            continue
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        pending = [(group, content)]
        if group:
            names.add(group[:-1])
        while pending:
            prefix, node = pending.pop()
            for key, value in node.items():
                names.add(f"{prefix}{key}")
                if isinstance(value, dict):
                    pending.append((f"{prefix}{key}.", value))
    return frozenset(names)


def unknown_keys(text: str) -> list[str]:
    """Return the ``key=`` of running text that are no key of a config, nor the end of one."""
    named = [
        match[1]
        for span in spans(text)
        for word in span.split()
        if (match := re.match(r"'?([a-z][\w.]*)=", word))
    ]
    ends = {".".join(key.split(".")[i:]) for key in keys() for i in range(key.count(".") + 1)}
    return [key for key in named if key not in ends | OTHER and not key.startswith("hydra")]


@pytest.mark.parametrize("name", NAMES)
def test_links_are_valid(name: str) -> None:
    assert dead_links(ROOT / name, read(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_valid(name: str) -> None:
    texts = [
        command
        for command in commands(read(name))
        if command != EXAMPLE and "plugins=[my_package]" not in command
    ]
    assert {command: error for command in texts if (error := refused(command))} == {}


@pytest.mark.parametrize("name", NAMES)
def test_keys_exist(name: str) -> None:
    assert unknown_keys(read(name)) == []


def test_options_lists_every_choice() -> None:
    table = dict(re.findall(r"^\| `(\w+)=` \| (.*) \|$", read("docs/options.md"), re.M))
    assert {"data", "model", "loss", "experiment"} <= table.keys()
    for group, row in table.items():
        named = {*re.findall(r"`([\w*]+)`", row)}
        names = {re.sub("^repro_.*", "repro_*", name) for name in compose.options(group)}
        assert named >= names, group


def test_the_readme_names_every_page_and_every_command() -> None:
    text = read("README.md")
    linked = re.findall(r"\]\((docs/\w+\.md)\)", text)
    assert {name for name in NAMES if name.count("/") == 1} == {*linked}
    entries = {path.stem for path in compose.CONF.glob("*.yaml")}
    assert entries - {*re.findall(r"emotion(?:-lab |_lab\.)(\w+)", text)} == set()


def test_these_tests_can_fail() -> None:
    page = (
        "# A head\n\n[a](nowhere.md) [b](#a-head) [c](#none) [d](README.md#install) [e](https://x)"
    )
    assert dead_links(ROOT / "page.md", page) == ["nowhere.md", "#none"]
    text = (
        "Type `python -m emotion_lab.nothing seed=1`, or:\n\n"
        "    python -m emotion_lab.train model=cnnn \\\n      optim.lr=1  # why\n"
        "    python -m emotion_lab.train data.path=<a file> optim.lr=$lr; done\n\n"
        "```\npython -m emotion_lab.evaluate ckpt=x splitt=val\n```\n"
        "`optim.lr=1` and `optim.rate=1`, `data=fer2013` and `date=1`\n"
    )
    why = [refused(command) for command in commands(text)]
    assert len(why) == 4 and why.count(None) == 1, why
    assert any("splitt" in str(one) for one in why) and "Did you mean 'cnn'" in str(why)
    assert "there is no emotion_lab.nothing" in why
    assert unknown_keys(text) == ["optim.rate", "date"]
