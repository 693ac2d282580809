"""Reproduction of a run from its saved config, and a report of the differences. No torch here."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from emotion_lab.config.compose import complete
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json
from emotion_lab.core.migrate import has_old_loss, migrate_history
from emotion_lab.core.runs import Run
from emotion_lab.core.wording import counted
from emotion_lab.experiments.run.resume import earlier_values

#: Entries of the hardware record that numerical results depend on.
_HARDWARE = ("accelerator", "cpu", "threads", "gpu")


def reproduced_config(run: Run, current: dict[str, Any]) -> dict[str, Any]:
    """Return the config for the reproduction of a run.

    Args:
        run: The run to reproduce.
        current: The config as composed now, for keys that the version of the run did not have.
    """
    config = complete(run.config, current)
    config["reproduce"], config["resume"] = str(run.folder), None
    # The reproduction opens the test split only on request.
    config["test"] = current["test"]
    return config


def check_data(run: Run, fingerprints: dict[str, Any]) -> None:
    """Refuse images or labels that differ from those of the original run.

    Args:
        run: The run to reproduce.
        fingerprints: Fingerprints of the current splits by name.
    """
    for name, original in run.metrics.get("fingerprints", {}).items():
        current = fingerprints.get(name)
        if current is None or current["hash"] != original["hash"]:
            found = f"{current['n']} images ({current['hash'][:8]})" if current else "no images"
            raise UserError(
                f"reproduce: the {name} split has {found}, but that of the run had "
                f"{original['n']} images ({original['hash'][:8]}). Give data.path=<the same data>."
            )


def differences(run: Run, facts: dict[str, Any]) -> list[str]:
    """Return one line for each difference in commit, precision, versions and hardware.

    Args:
        run: The run to reproduce.
        facts: Current ``commit``, ``versions``, ``hardware`` and ``precision``.
    """
    original = run.metrics
    old = {key: original.get(key) for key in ("commit", "precision")}
    new = {key: facts.get(key) for key in old}
    lines = _changes(old, new)
    if original.get("commit") == facts.get("commit") and str(facts["commit"]).endswith("+dirty"):
        lines.append("commit: there were uncommitted changes, so the code may differ")
    lines += _changes(original.get("versions", {}), facts.get("versions", {}))
    hardware = [
        {name: record.get("hardware", {}).get(name, "none") for name in _HARDWARE}
        for record in (original, facts)
    ]
    return lines + _changes(*hardware)


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {new.get(name, 'none')} instead of {old.get(name, 'none')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def first_difference(old: Path, new: Path) -> str | None:
    """Return the first difference of two ``history.csv``, None if they are identical.

    Of a history of an earlier version, the metrics that are computed as before are compared.
    """
    if old.read_bytes() == new.read_bytes():
        return None
    histories = []
    for path in (old, new):
        with path.open(encoding="utf-8", newline="") as stream:
            histories.append(list(csv.DictReader(stream)))
    originals, rows = (migrate_history(history, {}) for history in histories)
    is_old = any(has_old_loss(row) for row in histories[0][:1])
    for original, row in zip(originals, rows, strict=False):
        # Earlier versions averaged the criterion of val over batches.
        keys = original.keys() - {"val/criterion"} if is_old else original.keys() | row.keys()
        for key in sorted(keys):
            if original.get(key) != row.get(key):
                # The loss shows the size of a difference better than the metrics derived from it.
                loss = "train/criterion"
                key = loss if original.get(loss) != row.get(loss) else key
                values = f"{row.get(key)} instead of {original.get(key)}"
                return f"epoch {original['epoch']}, {key}: {values}"
    lengths = len(originals), len(rows)
    if lengths[0] == lengths[1]:
        return None
    return f"{counted(lengths[1], 'epoch')} instead of {lengths[0]}"


def report(run: Run, run_dir: Path, facts: dict[str, Any]) -> list[str]:
    """Write ``replay.json`` into the new run directory and return the lines to print.

    Args:
        run: The original run.
        run_dir: Directory of the reproduction; it contains ``history.csv``.
        facts: Facts of the reproduction, see :func:`differences`.
    """
    changes = differences(run, facts)
    first = first_difference(run.folder / "history.csv", run_dir / "history.csv")
    earlier = earlier_values(run.folder)
    content = {
        "of": str(run.folder),
        "changed_on_resume": earlier,
        "identical": first is None,
        "first_difference": first,
        "not_as_it_was": changes,
    }
    write_json(run_dir / "replay.json", content)
    lines = [f"reproduce: changed since the original run: {line}" for line in changes]
    lines += [f"reproduce: the original run was trained with {line}" for line in earlier]
    if first is None:
        epochs = len(run.history())
        return [
            *lines,
            f"reproduce: history.csv is identical to the last digit, {counted(epochs, 'epoch')}",
        ]
    return [*lines, f"reproduce: history.csv differs, first in {first}"]
