"""Config schema: allowed values and role of every config key.

There is one pydantic model for each config group (:mod:`.groups`) and entry point
(:mod:`.entries`). The functions here look up a key, check values and select the keys that
identify a run. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from pydantic.fields import FieldInfo

from emotion_lab.config import entries, groups
from emotion_lab.config.fields import Role, Section, field_of, first_error, role_of
from emotion_lab.core.errors import UserError
from emotion_lab.core.migrate import RENAMED_VALUES

#: Config group -> schema.
GROUPS: dict[str, type[Section]] = {
    "augment": groups.Augment,
    "backend": groups.Backend,
    "data": groups.Data,
    "detector": groups.Detector,
    "logger": groups.Logger,
    "loss": groups.Loss,
    "model": groups.Model,
    "optim": groups.Optim,
    "schedule": groups.Schedule,
    "smoothing": groups.Smoothing,
    "sweep": groups.Sweep,
    "trainer": groups.Trainer,
}
#: (group, choice) -> schema, where it differs from that of the group.
CHOICES: dict[tuple[str, str], type[Section]] = {
    ("data", "checkpoint"): groups.CheckpointData,
    ("model", "timm"): groups.LibraryModel,
    ("model", "torchvision"): groups.LibraryModel,
}
#: Entry point -> schema of its own keys.
ENTRIES: dict[str, type[Section]] = {
    "train": entries.Train,
    "sweep": entries.Train,
    "evaluate": entries.Evaluate,
    "compare": entries.Compare,
    "crossval": entries.Ensemble,
    "ensemble": entries.Ensemble,
    "audit": entries.Audit,
    "shard": entries.Export,
    "export": entries.Export,
    "live": entries.Live,
    "predict": entries.Live,
    "bench": entries.Bench,
}


def _section(group: str, choice: str | None = None) -> type[Section]:
    """Return the schema of a group for the name that was chosen for it."""
    return CHOICES.get((group, str(choice)), GROUPS[group])


def find(key: str, entry: str, choice: str | None = None) -> FieldInfo | None:
    """Return the field of a dotted key, None for a key that no schema declares.

    Args:
        key: For instance ``trainer.max_epochs``.
        entry: Entry point, for instance ``train``.
        choice: Name chosen for the key's group, where the schema depends on it.
    """
    match = _find(key, [ENTRIES[entry]], choice)
    return match[1] if match else None


def _find(
    key: str, sections: Collection[type[Section]], choice: str | None = None
) -> tuple[type[Section], FieldInfo] | None:
    group, _, rest = key.partition(".")
    if rest and group in GROUPS:
        return field_of(_section(group, choice), rest)
    return next((match for section in sections if (match := field_of(section, key))), None)


def role(key: str) -> Role:
    """Return the role of a dotted config key; keys of plugins have that of their group."""
    group = key.partition(".")[0]
    variants = (name for kind, name in CHOICES if kind == group)
    for choice in (None, *variants):
        match = _find(key, dict.fromkeys(ENTRIES.values()), choice)
        if match:
            return role_of(*match)
    return GROUPS[group].role if group in GROUPS else Role.IDENTITY


def identity(config: dict[str, Any], exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return dotted key -> value of all that identifies what a stored config trains.

    Args:
        config: Resolved config as plain dicts.
        exclude: Further dotted keys to leave out, for instance ``seed``.
    """
    return {
        key: value
        for key, value in _leaves(config)
        if role(key) is Role.IDENTITY and key not in exclude
    }


def _leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check(config: dict[str, Any], entry: str) -> None:
    """Check every value of a composed config; keys without a schema are not checked."""
    own = {key: value for key, value in config.items() if key not in GROUPS}
    _raise_first(ENTRIES[entry], own)
    for group, values in config.items():
        if group in GROUPS and isinstance(values, dict):
            check_group(group, values)


def check_group(group: str, values: dict[str, Any]) -> None:
    """Check the values of one group, for instance ``model``."""
    _raise_first(_section(group, values.get("name")), values, f"{group}.")


def check_value(key: str, value: Any, entry: str, choice: str | None = None) -> None:
    """Check the value of one dotted key; see :func:`find` for the arguments."""
    group, _, rest = key.partition(".")
    section, prefix = ENTRIES[entry], ""
    if rest and group in GROUPS:
        section, prefix, key = _section(group, choice), f"{group}.", rest
    for name in reversed(key.split(".")):
        value = {name: value}
    _raise_first(section, value, prefix)


def _raise_first(section: type[Section], values: dict[str, Any], prefix: str = "") -> None:
    error = first_error(section, values, prefix)
    if error is None:
        return
    key, value, expected = error
    renamed = RENAMED_VALUES.get(key, {}).get(str(value))
    hint = f" Did you mean '{renamed}'?" if renamed else ""
    raise UserError(f"{key}={_typed(value)} is not valid: expected {expected}.{hint}")


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return json.dumps(value) if value is None or isinstance(value, (bool, list)) else str(value)
