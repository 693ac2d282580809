"""Config schema: allowed values and role of every config key.

There is one pydantic model for each config group and entry point, see :mod:`.keys`. The functions
here look up a key, check values and select the keys that identify a run. Nothing here imports
torch.
"""

from __future__ import annotations

import functools
import json
import operator
import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from emotion_lab.config.fields import Role, Section, describe, named
from emotion_lab.config.keys import CHOICES, ENTRIES, GROUPS
from emotion_lab.core.errors import UserError
from emotion_lab.core.migrate import RENAMED_VALUES


def _locate(key: str, entry: str, choice: str | None) -> tuple[type[Section], str, str]:
    """Return the schema of a dotted key, the prefix of its group, and the rest of the key."""
    group, _, rest = key.partition(".")
    if rest and group in GROUPS:
        return CHOICES.get((group, str(choice)), GROUPS[group]), f"{group}.", rest
    return ENTRIES[entry], "", key


def is_declared(key: str, entry: str, choice: str | None = None) -> bool:
    """Return whether a schema declares a dotted key.

    Args:
        key: For instance ``trainer.max_epochs``.
        entry: Entry point, for instance ``train``.
        choice: Name chosen for the key's group, where the schema depends on it.
    """
    section, _, rest = _locate(key, entry, choice)
    return len(_fields(section, rest.split("."))) == rest.count(".") + 1


def _fields(section: type[Section], path: Iterable[int | str]) -> list[FieldInfo]:
    """Return the field of each name of a path, up to the first that is not declared."""
    result = []
    for name in path:
        field = section.model_fields.get(str(name))
        if field is None:
            break
        result.append(field)
        inner = _inner(field)
        if inner is None:
            break
        section = inner
    return result


def _inner(field: FieldInfo) -> type[Section] | None:
    """Return the section of a key that holds further keys, else None."""
    kind = field.annotation
    # In Python 3.10, list[str] is an instance of type, but no argument for issubclass.
    if isinstance(kind, type) and typing.get_origin(kind) is None and issubclass(kind, Section):
        return kind
    return None


def walk(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Role, FieldInfo]]:
    """Yield dotted key, role and field of every key of a section, nested ones included."""
    for name, field in section.model_fields.items():
        roles = (item for item in field.metadata if isinstance(item, Role))
        yield f"{prefix}{name}", next(roles, section.role), field
        inner = _inner(field)
        if inner is not None:
            yield from walk(inner, f"{prefix}{name}.")


def names(key: str, entry: str) -> list[str]:
    """Return the names that a dotted key takes, as typed; none if it takes other values as well.

    Keys of a group have the names of all of its choices.
    """
    group = key.partition(".")[0]
    of_group = [s for (g, _), s in CHOICES.items() if g == group]
    sections = [GROUPS[group], *of_group] if group in GROUPS else [ENTRIES[entry]]
    rest = key.removeprefix(f"{group}.") if group in GROUPS else key
    found: dict[str, None] = {}
    for section in sections:
        fields = _fields(section, rest.split("."))
        if len(fields) == rest.count(".") + 1:
            values = named(fields[-1].annotation)
            if values is None:
                return []
            found |= dict.fromkeys(values)
    return list(found)


SECTIONS = [
    *(("", section) for section in ENTRIES.values()),
    *((f"{group}.", section) for group, section in GROUPS.items()),
    *((f"{group}.", section) for (group, _), section in CHOICES.items()),
]
#: (dotted key, role, field) of every declared key; a key can occur several times.
FIELDS = [item for prefix, section in SECTIONS for item in walk(section, prefix)]
#: Of a key that several entry points declare, the first role counts: that of ``train``.
_ROLES = {key: role for key, role, _ in reversed(FIELDS)}


def role(key: str) -> Role:
    """Return the role of a dotted config key; keys of plugins have that of their group."""
    group = GROUPS.get(key.partition(".")[0], Section)
    return _ROLES.get(key, group.role)


def identity(config: dict[str, Any], exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return dotted key -> value of all that identifies what a stored config trains.

    Args:
        config: Resolved config as plain dicts.
        exclude: Further dotted keys to leave out, for instance ``seed``.
    """
    return {
        key: value
        for key, value in leaves(config)
        if role(key) is Role.IDENTITY and key not in exclude
    }


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of a stored config, nested keys included."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check(config: dict[str, Any], entry: str) -> None:
    """Check every value of a composed config; keys without a schema are not checked."""
    entry_keys = {key: value for key, value in config.items() if key not in GROUPS}
    _validate(ENTRIES[entry], entry_keys)
    for group, values in config.items():
        if group in GROUPS and isinstance(values, dict):
            check_group(group, values)


def check_group(group: str, values: dict[str, Any]) -> None:
    """Check the values of one group, for instance ``model``."""
    section = CHOICES.get((group, str(values.get("name"))), GROUPS[group])
    _validate(section, values, f"{group}.")


def check_min_lr(min_lr: float, lr: float) -> None:
    """Refuse ``schedule=cosine`` with a final learning rate above the first one."""
    if min_lr > lr:
        raise UserError(
            f"schedule.min_lr={min_lr:g} is above optim.lr={lr:g}, so the rate would rise: set a "
            "smaller schedule.min_lr."
        )


def check_value(key: str, value: Any, entry: str, choice: str | None = None) -> None:
    """Check the value of one dotted key; see :func:`is_declared` for the arguments."""
    section, prefix, rest = _locate(key, entry, choice)
    for name in reversed(rest.split(".")):
        value = {name: value}
    _validate(section, value, prefix)


def _validate(section: type[Section], values: dict[str, Any], prefix: str = "") -> None:
    """Raise a one-line error for the first invalid value; ``prefix`` is that of its key."""
    try:
        section.model_validate(values)
    except ValidationError as error:
        path = error.errors(include_url=False, include_context=False)[0]["loc"]
    else:
        return
    # A path ends with list indices and names of union members, which are not part of the key.
    fields = _fields(section, path)
    names = [str(name) for name in path[: len(fields)]]
    value = functools.reduce(operator.getitem, names, values)
    key = prefix + ".".join(names)
    renamed = RENAMED_VALUES.get(key, {}).get(str(value))
    hint = f" Did you mean '{renamed}'?" if renamed else ""
    expected = _expected(key, value, fields[-1])
    raise UserError(f"{key}={_typed(value)} is not valid: expected {expected}.{hint}")


def _expected(key: str, value: Any, field: FieldInfo) -> str:
    inner = _inner(field)
    if inner is not None:
        return f"keys, for instance {key}.{next(iter(inner.model_fields))}=<value>"
    words = field.description or describe(field.annotation)
    if words.startswith("a list") and not (field.description or isinstance(value, list)):
        return f"a list, for instance {key}=[{value}]"
    return words


def _typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    return json.dumps(value) if value is None or isinstance(value, (bool, list)) else str(value)
