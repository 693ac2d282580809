"""The test ledger: every access to a test split is recorded as one JSON line."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emotion_lab.config import schema


def config_hash(config: dict[str, Any]) -> str:
    """Return the sha256 (hex) of the keys that identify what a config trains, in any order."""
    text = json.dumps(schema.identity(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def setup(card: dict[str, Any], tta: str) -> dict[str, Any]:
    """Return the identity of a configuration: config hash, epoch and test-time augmentation.

    For an ensemble it depends on the weights, but not on the order of its members.
    """
    cards = card.get("members", [card])
    hashes: list[Any] = sorted(config_hash(c["config"]) for c in cards)
    epochs = sorted(c["epoch"] for c in cards)
    several = len(cards) > 1
    weights = card.get("weights", []) if several else []
    if weights and max(weights) - min(weights) > 1e-6:
        names = (config_hash(c["config"]) for c in cards)
        hashes = sorted([name, round(w, 6)] for name, w in zip(names, weights, strict=True))
    return {
        "config": config_hash({"members": hashes}) if several else hashes[0],
        "epoch": epochs if several else epochs[0],
        "tta": tta,
    }


def configurations(lines: Iterable[dict[str, Any]]) -> int:
    """Return how many different configurations opened a test set.

    Openings of the same checkpoint with the same TTA count as one configuration: earlier versions
    computed another hash of its config.
    """
    keys: dict[str, str] = {}
    of_checkpoint: dict[tuple[str, str], str] = {}
    for line in lines:
        key = json.dumps([line.get(name) for name in ("config", "epoch", "tta")])
        first_key = keys.setdefault(key, key)
        if line.get("checkpoint"):
            checkpoint = (line["checkpoint"], str(line.get("tta")))
            keys[key] = of_checkpoint.setdefault(checkpoint, first_key)
    return len(set(keys.values()))


def record(
    ledger: Path,
    run: Path,
    checkpoint: str,
    configuration: dict[str, Any],
    fingerprint: dict[str, Any],
    accuracy: float | None,
) -> dict[str, Any]:
    """Append one line: time, run, hashes of checkpoint and config, fingerprint, n, accuracy.

    Args:
        ledger: The file; it is created if missing.
        run: Run directory of the command that opened the split.
        checkpoint: See :func:`emotion_lab.evaluation.evaluate.identity`.
        configuration: See :func:`setup`.
        fingerprint: See :mod:`emotion_lab.data.fingerprint`.
        accuracy: None if scoring failed after the split was opened.
    """
    line = {
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "run": str(run),
        "checkpoint": checkpoint,
        **configuration,
        "fingerprint": fingerprint["hash"],
        "known_as": fingerprint["known_as"],
        "n": fingerprint["n"],
        "accuracy": accuracy,
    }
    # One write call per line: several processes may append at the same time.
    handle = os.open(ledger, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        os.lseek(handle, max(0, size - 1), os.SEEK_SET)
        # Start a new line after a line that a crash has cut off.
        torn = size > 0 and os.read(handle, 1) != b"\n"
        os.write(handle, ("\n" * torn + json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)
    return line


def lines(ledger: Path) -> list[dict[str, Any]]:
    """Return all recorded accesses to any test set; incomplete lines are skipped."""
    try:
        text = ledger.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    entries = []
    for raw in text.splitlines():
        try:
            entry = json.loads(raw)
        except ValueError:
            continue
        if isinstance(entry, dict) and "fingerprint" in entry:
            entries.append(entry)
    return entries


def openings(ledger: Path, *fingerprints: str) -> list[dict[str, Any]]:
    """Return the recorded accesses to the test set with one of these fingerprint hashes."""
    return [line for line in lines(ledger) if line["fingerprint"] in fingerprints]
