"""Compose a config with Hydra and explain what is wrong with the overrides.

Nothing here imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emotion_lab.config import schema
from emotion_lab.config.fields import Role, allows_null
from emotion_lab.config.overrides import choices, first, override_key, parse
from emotion_lab.core.errors import UserError, unknown, unknown_key
from emotion_lab.core.migrate import RENAMED_VALUES

_PACKAGE = Path(__file__).resolve().parents[1]
#: In a wheel the configs lie inside the package, in a checkout beside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
#: Groups of which several can be chosen at once, ``logger=[csv,wandb]``.
LISTS = ("logger",)


def options(group: str) -> list[str]:
    """Return the names a user can choose for a config group."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if p.stem != "base")


def _is_group(name: str) -> bool:
    return (CONF / name).is_dir()


def _leaves(cfg: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(cfg, DictConfig):
        for key in cfg:
            yield f"{prefix}{key}"
            node = cfg._get_node(key)
            yield from _leaves(node, f"{prefix}{key}.")


def _lookup(cfg: DictConfig, key: str) -> tuple[bool, Any]:
    """Return (exists, default value) of a dotted key."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False, None
        node = node._get_node(part)
    if isinstance(node, (DictConfig, ListConfig)):
        return True, node
    return True, node._value() if node is not None else None


def _check_type(key: str, default: Any, value: Any) -> None:
    """Compare the type of a value without a schema (a plugin's key) with that of its default."""
    if default is None or _refers(default):
        return
    text = f"{key}={value}"
    if isinstance(default, DictConfig) and not isinstance(value, dict):
        inner = next((f"{key}.{name}" for name in default), f"{key}.<name>")
        raise UserError(f"{text} is not valid: expected keys, for instance {inner}=<value>.")
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{text} is not valid: expected true or false.")
    elif isinstance(default, (int, float)):
        whole = isinstance(default, int)
        number = isinstance(value, int) or (isinstance(value, float) and not whole)
        if isinstance(value, bool) or not number:
            kind = "a whole number" if whole else "a number"
            raise UserError(f"{text} is not valid: expected {kind}, for instance {key}={default}.")
    elif isinstance(default, ListConfig) and not isinstance(value, (list, ListConfig)):
        raise UserError(f"{text} is not valid: expected a list, for instance {key}=[{value}].")
    elif isinstance(default, str) and isinstance(value, (dict, list)):
        raise UserError(f"{text} is not valid: expected one value.")


def _refers(value: Any) -> bool:
    """Tell whether a value is an interpolation, known only once the config is composed."""
    return isinstance(value, str) and "${" in value


def check_values(cfg: DictConfig, entry: str) -> None:
    """Check every value of a composed config, without its ``hydra`` node, against the schema."""
    try:
        values = to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key} cannot be resolved: {reason}.") from None
    schema.check(values, entry)


def _check_group(group: str, values: list[Any]) -> None:
    for value in values:
        names = value if isinstance(value, list) else [value]
        if len(names) != 1 and group not in LISTS:
            raise UserError(f"{group} takes one name, not {len(names)}: {group}=<name>.")
        for name in names:
            shown = "null" if name is None else str(name).strip("'")
            if shown not in options(group):
                renamed = RENAMED_VALUES.get(group, {}).get(shown)
                raise unknown(group, shown, options(group), f"Set it with {group}=<name>.", renamed)


@functools.cache
def _defaults(entry: str, conf: Path) -> DictConfig:
    """Return ``conf/<entry>.yaml`` composed with no overrides; do not change it."""
    from hydra import compose

    return compose(entry)


def _check_hydra_group(override: Any) -> None:
    """Refuse a name that a group of Hydra's own, ``hydra/launcher``, does not have."""
    from hydra.core.global_hydra import GlobalHydra

    name = override.key_or_group
    known = GlobalHydra.instance().config_loader().get_group_options(name)
    for value in choices(override) if known else []:
        if value is not None and str(value) not in known:
            raise unknown(name, value, known, f"Set it with {name}=<name>.")


def _sort(parsed: list[Any], top: DictConfig, multirun: bool) -> tuple[list[str], list[Any]]:
    """Return (choices of a group, first of each sweep; overrides of single keys)."""
    groups, keys = [], []
    for override in parsed:
        name = override.key_or_group
        sweep = override.is_sweep_override() and not name.startswith("hydra.")
        if sweep and not multirun:
            raise UserError(f"'{override.input_line}' is a sweep: add -m to run every value.")
        if override.is_delete():
            raise UserError(
                f"'{override.input_line}' takes away what is needed: set it instead, "
                f"{name}=<value>."
            )
        if name.startswith("hydra"):
            _check_hydra_group(override)
            groups.append(first(override))
        elif _is_group(name):
            if name not in top and name != "experiment":
                raise unknown("option", name, [key for key in top if key != "hydra"])
            _check_group(name, choices(override))
            groups.append(first(override))
        else:
            keys.append(override)
    return groups, keys


def _check_keys(keys: list[Any], base: DictConfig, entry: str) -> None:
    """Refuse keys that ``base`` does not have and invalid values, also of a sweep."""
    known = list(_leaves(base))
    for override in keys:
        name = override.key_or_group
        exists, default = _lookup(base, name)
        added = override.is_add() or override.is_force_add()
        if not exists and not added:
            raise unknown_key(name, known)
        group = base.get(name.partition(".")[0])
        choice = group.get("name") if isinstance(group, DictConfig) else None
        field = schema.find(name, entry, choice)
        for value in choices(override):
            if _refers(value):
                continue
            if value is None:
                if not (allows_null(field) if field else default is None):
                    raise UserError(f"{name}=null is not valid: expected a value.")
            elif field:
                schema.check_value(name, value, entry, choice)
            elif not added:
                _check_type(name, default, value)


def _compose(entry: str, overrides: list[str], **kwargs: Any) -> DictConfig:
    from hydra import compose
    from hydra.errors import HydraException

    try:
        return compose(entry, overrides=overrides, **kwargs)
    except HydraException as error:
        words = " ".join(str(error).split())
        if "'hydra.launcher." in words:
            words = words.split(" To append")[0] + " Name the launcher too, hydra/launcher=<name>."
        raise UserError(words) from None


def precheck(entry: str, overrides: list[str], multirun: bool = False) -> DictConfig:
    """Compose ``conf/<entry>.yaml`` with ``overrides`` and explain what is wrong with them.

    Args:
        entry: Entry point, for instance ``"train"``.
        overrides: Hydra overrides as typed (paths already quoted).
        multirun: Whether sweeps are allowed.

    Returns:
        The composed config (of the first combination, when sweeping), with the ``hydra`` node.

    Raises:
        UserError: For an unknown option, group, key, or a value of the wrong kind.
    """
    from hydra import initialize_config_dir

    parsed = parse(overrides)
    mode = ["hydra.mode=MULTIRUN"] if multirun else []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        top = _defaults(entry, CONF)
        groups, keys = _sort(parsed, top, multirun)
        _check_keys(keys, _compose(entry, groups) if groups else top, entry)
        typed = groups + [first(override) for override in keys] + mode
        cfg = _compose(entry, typed, return_hydra_config=True)
    check_values(cfg, entry)
    return cfg


def to_container(cfg: Any) -> Any:
    """Return a config as plain dicts, lists, strings and numbers, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)


def defaults(group: str, name: str) -> dict[str, Any]:
    """Return ``conf/<group>/<name>.yaml`` with the values of its group's ``base.yaml``."""
    folder = CONF / group
    parts = [folder / "base.yaml", folder / f"{name}.yaml"]
    merged = to_container(
        OmegaConf.merge(*(OmegaConf.load(part) for part in parts if part.is_file()))
    )
    return {key: value for key, value in merged.items() if key != "defaults"}


def check_unchanged(
    cfg: DictConfig, overrides: Sequence[str], reason: str, groups: Collection[str] = ()
) -> None:
    """Refuse overrides that would change what an earlier run is.

    Args:
        cfg: The composed config.
        overrides: As typed.
        reason: First part of the message, for instance ``resume= continues a run``.
        groups: Config groups and keys that may change all the same.
    """

    def may_change(key: str) -> bool:
        group = key.partition(".")[0]
        return group in groups or group == "hydra" or schema.role(key) is not Role.IDENTITY

    for text in overrides:
        if may_change(override_key(text)):
            continue
        keys = [*groups, *(key for key in _leaves(cfg) if key.partition(".")[0] not in groups)]
        allowed = dict.fromkeys(
            "logger" if key.startswith("logger") else key
            for key in keys
            if may_change(key) and not key.startswith(("hydra", "sweep"))
        )
        raise UserError(f"{reason}; '{text}' cannot change. Allowed: {', '.join(allowed)}.")


def check_given(cfg: DictConfig, entry: str) -> None:
    """Hold a config of the user's own (``--config-path``), maybe an old one, against ours.

    Raises:
        UserError: Naming what is missing or wrong.
    """
    check_values(cfg, entry)
    for group, node in cfg.items():
        name = node.get("name") if isinstance(node, DictConfig) else None
        if name in options(group):
            lacks = [f"{group}.{key}" for key in defaults(group, name) if key not in node]
            if lacks:
                what = f"this config lacks {', '.join(lacks)}: another version wrote it."
                raise UserError(f"{what} {CONF / group / name}.yaml says what is needed.")
