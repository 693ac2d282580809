"""``--help``: usage, the choices of every group and all keys, read from ``conf/``."""

from __future__ import annotations

from pathlib import Path

import yaml

from emotion_lab.config.compose import CONF, options


def _summary(path: Path) -> str:
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


def _groups(entry: str) -> list[str]:
    """Return the config groups of an entry point."""
    text = yaml.safe_load((CONF / f"{entry}.yaml").read_text(encoding="utf-8"))
    names = []
    for item in text.get("defaults", []):
        if isinstance(item, dict):
            name = next(iter(item)).replace("optional ", "").replace("override ", "").strip("/")
            if not name.startswith("hydra"):
                names.append(name)
    return names


def _choices(entry: str, group: str) -> list[str]:
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


def show(entry: str) -> None:
    """Print the help of an entry point."""
    path = CONF / f"{entry}.yaml"
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line[1:].removeprefix(" "))
    print("\n".join(header))
    groups = _groups(entry)
    if groups:
        print("\nGroups, set with <group>=<name>:")
    for group in groups:
        print(f"\n  {group}=")
        for name in _choices(entry, group):
            print(f"    {name:<26} {_summary(CONF / group / f'{name}.yaml')}")
    print("\nKeys, set with <key>=<value>:\n")
    for line in _keys(path):
        print(f"  {line.replace(':', '=', 1).replace('= ', '=', 1)}")
    for group in groups:
        base = CONF / group / "base.yaml"
        files = [base] if base.exists() else []
        files += [CONF / group / f"{name}.yaml" for name in _choices(entry, group)]
        for file in files if group not in ("experiment", "logger") else []:
            lines = _keys(file)
            if lines:
                print(f"\n  {group}" + ("" if file == base else f"={file.stem}"))
            for line in lines:
                print(f"    {group}.{line.replace(':', '=', 1).replace('= ', '=', 1)}")
    if entry != "sweep":
        print("\nSweep with -m and commas: -m model=cnn,senet seed=1,2,3")
    print("See the composed config with --cfg job; HYDRA_FULL_ERROR=1 shows tracebacks.")
