"""Repeat a run from what it wrote down, and say what is not as it was. No torch is imported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from emotion_lab.config.compose import CONF, defaults
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.core.runs import Run

#: Keys that may be typed beside ``reproduce=``: where things are, not what the run is.
KEYS = ("data.path", "data.cache", "logger", "test", "test_ledger", "trainer.enable_progress_bar")
#: What numbers depend on besides code, data and versions.
_HARDWARE = ("accelerator", "cpu", "threads", "gpu")


def replayed(run: Run, current: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a run, for a repetition.

    Args:
        run: The run.
        current: The config as composed now, for keys that the run did not know yet.
    """
    config = {**current, **run.config}
    for group, values in run.config.items():
        if (CONF / group / "base.yaml").is_file():
            config[group] = {**defaults(group, values.get("name", "base")), **values}
    config["reproduce"], config["resume"] = str(run.folder), None
    # Repeating a run must not open the test split again unasked.
    config["test"] = current["test"]
    return config


def check_data(run: Run, fingerprints: dict[str, Any]) -> None:
    """Refuse other images or labels than the run had.

    Args:
        run: The run that is repeated.
        fingerprints: Of the splits as they are now.

    Raises:
        UserError: Naming the split.
    """
    for name, then in run.metrics.get("fingerprints", {}).items():
        now = fingerprints.get(name)
        if now is None or now["hash"] != then["hash"]:
            found = "none" if now is None else f"{now['n']} images ({now['hash'][:8]})"
            raise UserError(
                f"replay: the {name} split is not what the run had: {found}, then {then['n']} "
                f"images ({then['hash'][:8]}). Give data.path=<the same data>."
            )


def differences(run: Run, facts: dict[str, Any]) -> list[str]:
    """Return a line for everything that is not as it was: commit, versions, hardware, precision.

    Args:
        run: The run that is repeated.
        facts: ``commit``, ``versions``, ``hardware`` and ``precision`` of now.
    """
    then, lines = run.metrics, []
    for key in ("commit", "precision"):
        if then.get(key) != facts.get(key):
            lines.append(f"{key}: {then.get(key)} then, {facts.get(key)} now")
    if then.get("commit") == facts.get("commit") and str(facts["commit"]).endswith("+dirty"):
        lines.append("commit: the tree had changes of its own, so it may be other code")
    old, new = then.get("versions", {}), facts.get("versions", {})
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines.append(f"{name}: {old.get(name, 'none')} then, {new.get(name, 'none')} now")
    old, new = then.get("hardware", {}), facts.get("hardware", {})
    for name in _HARDWARE:
        if old.get(name) != new.get(name):
            lines.append(f"{name}: {old.get(name, 'none')} then, {new.get(name, 'none')} now")
    return lines


def first_difference(old: Path, new: Path) -> str | None:
    """Return where two ``history.csv`` differ, None where they are the same to the last digit."""
    if old.read_bytes() == new.read_bytes():
        return None
    tables = []
    for path in (old, new):
        with open(path, encoding="utf-8", newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    for before, now in zip(*tables, strict=False):
        for key in before.keys() | now.keys():
            if before.get(key) != now.get(key):
                epoch = int(before["epoch"]) + 1
                # The losses say more than what follows from them.
                key = "train/loss" if before["train/loss"] != now["train/loss"] else key
                return f"epoch {epoch}, {key}: {before.get(key)} then, {now.get(key)} now"
    return f"{len(tables[0])} epochs then, {len(tables[1])} now"


def report(run: Run, run_dir: Path, facts: dict[str, Any]) -> list[str]:
    """Write ``replay.json`` into the new run folder and return what to print.

    Args:
        run: The run that was repeated.
        run_dir: The repetition; its ``history.csv`` is written.
        facts: Of the repetition, see :func:`differences`.
    """
    differing = differences(run, facts)
    first = first_difference(run.folder / "history.csv", run_dir / "history.csv")
    content = {
        "of": str(run.folder),
        "identical": first is None,
        "first_difference": first,
        "not_as_it_was": differing,
    }
    text = json.dumps(content, indent=2) + "\n"
    atomic_write(run_dir / "replay.json", text.encode())
    lines = [f"replay: not as it was: {line}" for line in differing]
    if first is None:
        epochs = len(run.history())
        return [*lines, f"replay: history.csv is the same to the last digit, {epochs} epochs"]
    return [*lines, f"replay: history.csv differs, first in {first}"]
