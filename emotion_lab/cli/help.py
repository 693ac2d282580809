"""``--help``: usage, the choices of every group and all keys, read from ``conf/``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import yaml

from emotion_lab.config.compose import CONF, config_file, has_sweeps, options


def summary(path: Path) -> str:
    """Return the first comment of a yaml file, its description."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _keys(path: Path) -> list[str]:
    """Return the lines of a yaml file that set a key, with comments; nested keys are dotted."""
    lines, parent = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("hydra:"):
            break
        text = line.strip()
        if not text or text.startswith(("#", "-")) or ":" not in text:
            continue
        key, value = text.split(":", 1)
        if line.startswith(" "):
            if parent:
                lines.append(f"{parent}.{text}")
            continue
        parent = "" if key == "defaults" or value.split("#")[0].strip() else key
        if key not in ("defaults", "name") and not parent:
            lines.append(line)
    return lines


def groups(entry: str) -> list[str]:
    """Return the config groups of an entry point."""
    text = yaml.safe_load((CONF / f"{entry}.yaml").read_text(encoding="utf-8"))
    names = []
    for item in text.get("defaults", []):
        if isinstance(item, dict):
            name = next(iter(item)).replace("optional ", "").replace("override ", "").strip("/")
            if not name.startswith("hydra"):
                names.append(name)
    return names


def choices(entry: str, group: str) -> list[str]:
    """Return the choices of a group that an entry point accepts.

    ``data=checkpoint`` needs a checkpoint. ``train`` has ``sweep=grid``, ``sweep`` the searches.
    """
    if group == "sweep":
        return [name for name in options(group) if (name == "grid") == (entry == "train")]
    text = yaml.safe_load((CONF / f"{entry}.yaml").read_text(encoding="utf-8"))
    has_checkpoint = {"data": "checkpoint"} in text["defaults"]
    return [
        name for name in options(group) if has_checkpoint or (group, name) != ("data", "checkpoint")
    ]


def commands() -> list[str]:
    """Return the names of all commands: each has a ``conf/<command>.yaml``."""
    return sorted(path.stem for path in CONF.glob("*.yaml"))


def keys(entry: str) -> list[str]:
    """Return the dotted keys of an entry point and of its groups."""
    lines = _keys(CONF / f"{entry}.yaml")
    for group in groups(entry):
        lines += [f"{group}.{line}" for file in _group_files(entry, group) for line in _keys(file)]
    return list(dict.fromkeys(line.partition(":")[0] for line in lines))


def _group_files(entry: str, group: str) -> list[Path]:
    """Return the yaml files with the keys of a group, the shared ones first."""
    if group in ("experiment", "logger"):
        return []
    base = CONF / group / "base.yaml"
    files = [config_file(group, name) for name in choices(entry, group)]
    return [base, *files] if base.exists() else files


def show(entry: str) -> None:
    """Print the help of an entry point."""
    try:
        print("\n".join(_help(entry)), flush=True)
    except BrokenPipeError:  # ... --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help(entry: str) -> Iterator[str]:
    """Yield the lines of the help."""
    path = CONF / f"{entry}.yaml"
    header = takewhile(
        lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()
    )
    yield from (line[1:].removeprefix(" ") for line in header)
    names = groups(entry)
    if names:
        yield "\nGroups, set with <group>=<name>:"
    for group in names:
        yield f"\n  {group}="
        for name in choices(entry, group):
            yield f"    {name:<26} {summary(config_file(group, name))}"
    yield "\nKeys, set with <key>=<value>:\n"
    for line in _keys(path):
        yield f"  {line.replace(':', '=', 1).replace('= ', '=', 1)}"
    for group in names:
        for file in _group_files(entry, group):
            lines = _keys(file)
            if lines:
                yield f"\n  {group}" + ("" if file.stem == "base" else f"={file.stem}")
            for line in lines:
                yield f"    {group}.{line.replace(':', '=', 1).replace('= ', '=', 1)}"
    if has_sweeps(entry):
        yield "\nSweep with -m and commas: -m <key>=<value>,<value>"
    yield "See the composed config with --cfg job; HYDRA_FULL_ERROR=1 shows tracebacks."
