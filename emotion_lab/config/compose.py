"""Composition of configs with Hydra, and one-line errors for invalid overrides. No torch here."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emotion_lab.config import schema
from emotion_lab.config.fields import Role, describe
from emotion_lab.config.overrides import choices, first, override_key, parse
from emotion_lab.core import plugins, suggestions
from emotion_lab.core.errors import UserError, first_line, unknown, unknown_key
from emotion_lab.core.migrate import RENAMED_VALUES

_PACKAGE = Path(__file__).resolve().parents[1]
#: Directory of the configs: inside the package in a wheel, next to it in a checkout.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
#: Entry points and groups that take several names, ``logger=[csv,wandb]``.
LISTS = {("train", "logger"), ("sweep", "logger"), ("compare", "smoothing")}
#: Groups whose ``name`` is looked up in a registry.
NAMED_GROUPS = ("model", "loss", "data", "detector", "smoothing", "engine")


def config_dirs() -> list[Path]:
    """Return the folders of configs: that of this package and those of the active plug-ins."""
    return [CONF, *plugins.conf_dirs()]


def config_file(group: str, name: str) -> Path:
    """Return the path of ``<group>/<name>.yaml``; that of this package if there is none."""
    paths = [folder / group / f"{name}.yaml" for folder in config_dirs()]
    return next((path for path in paths if path.is_file()), paths[0])


def options(group: str) -> list[str]:
    """Return the names that can be chosen for a config group."""
    files = (file for folder in config_dirs() for file in (folder / group).glob("*.yaml"))
    return sorted({file.stem for file in files} - {"base"})


def has_sweeps(entry: str) -> bool:
    """Return whether an entry point runs sweeps (``-m``): its yaml sets ``hydra.sweep``."""
    return "sweep" in OmegaConf.load(CONF / f"{entry}.yaml").hydra


def is_group(name: str) -> bool:
    """Return whether a key is a config group."""
    return (CONF / name).is_dir()


def activate_plugins(parsed: list[Any], entry: str) -> None:
    """Activate the packages of ``plugins=[...]`` among parsed overrides."""
    from emotion_lab.config import search_path

    search_path.register()
    for override in parsed:
        if override.key_or_group == "plugins":
            if override.is_sweep_override():
                names = override.input_line.partition("=")[2]
                raise UserError(f"plugins takes a list: plugins=[{names}].")
            schema.check_value("plugins", override.value(), entry)
            plugins.activate(override.value())


def leaves(cfg: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a config, those of groups included; nothing is resolved."""
    if isinstance(cfg, DictConfig):
        for key in map(str, cfg):
            yield f"{prefix}{key}"
            yield from leaves(cfg._get_node(key), f"{prefix}{key}.")


def _check_type(key: str, default: Any, value: Any) -> None:
    """Compare the type of a value without a schema (a plugin's key) with that of its default."""
    if default is None or _refers(default):
        return
    kind = type(default)
    accepted = {float: (int, float), str: (str, int, float)}.get(kind, kind)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind in (int, float)):
        shown = "null" if value is None else value
        raise UserError(
            f"{key}={shown} is not valid: expected {describe(kind)}, for instance {key}={default}."
        )


def _refers(value: Any) -> bool:
    """Return whether a value is an interpolation, which is resolved after composition."""
    return isinstance(value, str) and "${" in value


def check_values(cfg: DictConfig, entry: str) -> None:
    """Check every value of a composed config, without its ``hydra`` node, against the schema."""
    try:
        keys = [str(key) for key in cfg if key != "hydra"]
        values = to_container(OmegaConf.masked_copy(cfg, keys))
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key} cannot be resolved: {first_line(error)}.") from None
    schema.check(values, entry)


def _check_group(group: str, values: list[Any], takes_list: bool) -> None:
    for value in values:
        names = value if isinstance(value, list) else [value]
        if len(names) != 1 and not takes_list:
            raise UserError(f"{group} takes one name, not {len(names)}: {group}=<name>.")
        for name in names:
            shown = "null" if name is None else str(name).strip("'")
            if shown not in options(group):
                library = suggestions.library_model(shown) if group == "model" else None
                if library:
                    raise UserError(f"model={shown} is a network of a library: type {library}.")
                renamed = RENAMED_VALUES.get(group, {}).get(shown)
                renamed = renamed or suggestions.choice(group, shown, options(group))
                raise unknown(group, shown, options(group), f"Set it with {group}=<name>.", renamed)


@functools.cache
def _compose_groups(entry: str, groups: tuple[str, ...], dirs: tuple[Path, ...]) -> DictConfig:
    """Compose ``conf/<entry>.yaml`` with group choices only; it is cached, do not change it."""
    return _compose(entry, list(groups))


def _check_hydra_group(override: Any) -> None:
    """Refuse a name that one of Hydra's own groups, for instance ``hydra/launcher``, lacks."""
    from hydra.core.global_hydra import GlobalHydra

    name = override.key_or_group
    names = GlobalHydra.instance().config_loader().get_group_options(name)
    for value in choices(override) if names else []:
        if value is not None and str(value) not in names:
            raise unknown(name, value, names, f"Set it with {name}=<name>.")


def _split(
    parsed: list[Any], top: DictConfig, entry: str, multirun: bool
) -> tuple[list[str], list[Any]]:
    """Return (group choices, the first of each sweep; overrides of single keys)."""
    groups, keys = [], []
    for override in parsed:
        name = override.key_or_group
        sweep = override.is_sweep_override() and not name.startswith("hydra.")
        if sweep and not multirun:
            raise UserError(f"'{override.input_line}' is a sweep: add -m to run every value.")
        if override.is_delete():
            raise UserError(
                f"'{override.input_line}' removes a required key: set it instead, {name}=<value>."
            )
        if name.startswith("hydra"):
            _check_hydra_group(override)
            groups.append(first(override))
        elif is_group(name):
            if name not in top and name != "experiment":
                raise unknown("option", name, [str(key) for key in top if key != "hydra"])
            _check_group(name, choices(override), (entry, name) in LISTS)
            groups.append(first(override))
        else:
            keys.append(override)
    return groups, keys


def _check_complete(cfg: DictConfig, entry: str, groups: list[str]) -> None:
    """Refuse the yaml of a plug-in that lacks ``name``, or the keys that all datasets share."""
    chosen = dict(text.split("=", 1) for text in groups)
    for group in NAMED_GROUPS:
        node = cfg.get(group)
        if not isinstance(node, DictConfig) or (entry, group) in LISTS:
            continue
        file = config_file(group, chosen.get(group, str(node.get("name"))))
        if not isinstance(node.get("name"), str):
            raise UserError(
                f"{file} lacks 'name'. Add the name that the builder is registered with, "
                f"name: {file.stem}."
            )
        missing = [key for key in defaults("data", "base") if group == "data" and key not in node]
        if missing and node.name != "checkpoint":
            raise UserError(
                f"{file} lacks the keys of every dataset ({missing[0]}, ...). Write "
                "defaults: [base, _self_] above name:."
            )


def _check_keys(keys: list[Any], base: DictConfig, entry: str) -> None:
    """Refuse keys that ``base`` does not have and invalid values, also of a sweep."""
    known_keys = list(leaves(base))
    base_values: Any = OmegaConf.to_container(base)
    for override in keys:
        name = override.key_or_group
        added = override.is_add() or override.is_force_add()
        if name not in known_keys and not added:
            raise unknown_key(name, known_keys)
        group_name, _, rest = name.partition(".")
        group = base.get(group_name)
        choice = group.get("name") if isinstance(group, DictConfig) else None
        declared = schema.is_declared(name, entry, choice)
        for value in choices(override):
            if rest == "name" and is_group(group_name) and value != choice:
                raise UserError(
                    f"'{override.input_line}' does not apply: the other keys of {group_name} are "
                    f"those of {choice}. Choose with {group_name}=<name>: "
                    f"{', '.join(options(group_name))}."
                )
            if declared and not _refers(value):
                schema.check_value(name, value, entry, choice)
            elif not (added or _refers(value)):
                default = functools.reduce(operator.getitem, name.split("."), base_values)
                _check_type(name, default, value)


def _compose(entry: str, overrides: list[str], **kwargs: Any) -> DictConfig:
    from hydra import compose
    from hydra.errors import HydraException

    try:
        return compose(entry, overrides=overrides, **kwargs)
    except HydraException as error:
        message = " ".join(str(error).split())
        if "'hydra.launcher." in message:
            message = (
                message.split(" To append")[0] + " Name the launcher too, hydra/launcher=<name>."
            )
        raise UserError(message) from None


def precheck(entry: str, overrides: list[str], multirun: bool = False) -> DictConfig:
    """Compose ``conf/<entry>.yaml`` and raise a one-line error for invalid overrides.

    Args:
        entry: Entry point, for instance ``train``.
        overrides: Hydra overrides, with quoted paths.
        multirun: Whether sweeps are allowed.

    Returns:
        The composed config with its ``hydra`` node; of a sweep, that of the first job.
    """
    from hydra import initialize_config_dir

    path_key = "source" if schema.is_declared("source", entry) else None
    parsed = parse(overrides, path_key)
    activate_plugins(parsed, entry)
    dirs = tuple(config_dirs())
    mode = ["hydra.mode=MULTIRUN"] if multirun else []
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        top = _compose_groups(entry, (), dirs)
        groups, keys = _split(parsed, top, entry, multirun)
        base = _compose_groups(entry, tuple(groups), dirs)
        _check_complete(base, entry, groups)
        _check_keys(keys, base, entry)
        merged = groups + [first(override) for override in keys] + mode
        cfg = _compose(entry, merged, return_hydra_config=True)
    check_values(cfg, entry)
    return cfg


def is_multirun(hydra_cfg: Any) -> bool:
    """Return whether the ``hydra`` node of a config belongs to a sweep (``-m``)."""
    return str(hydra_cfg.mode or "").endswith("MULTIRUN")


def to_container(cfg: Any) -> Any:
    """Return a config as plain dicts, lists, strings and numbers with interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)


def defaults(group: str, name: str) -> dict[str, Any]:
    """Return ``conf/<group>/<name>.yaml`` merged with its defaults; a missing one is the base."""
    file = config_file(group, name)
    own = to_container(OmegaConf.load(file)) if file.is_file() else {"defaults": ["base"]}
    result: dict[str, Any] = {}
    for parent in own.pop("defaults", ()):
        if parent != "_self_" and config_file(group, parent).is_file():
            result |= defaults(group, parent)
    return {**result, **own}


def complete(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """Return the stored config of a run with today's defaults for keys that its version lacked.

    Args:
        stored: Config of the run.
        current: The config as composed now.
    """
    config = {**current, **stored}
    for key, values in stored.items():
        if not isinstance(values, dict):
            continue
        if (CONF / key).is_dir():
            config[key] = {**defaults(key, values.get("name", "base")), **values}
        elif isinstance(current.get(key), dict):
            config[key] = {**current[key], **values}
    return config


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
        keys = [*groups, *(key for key in leaves(cfg) if key.partition(".")[0] not in groups)]
        allowed = dict.fromkeys(
            "logger" if key.startswith("logger") else key
            for key in keys
            if may_change(key) and not key.startswith(("hydra", "sweep", "resume", "reproduce"))
        )
        raise UserError(f"{reason}; '{text}' cannot change. Allowed: {', '.join(allowed)}.")


def check_custom(cfg: DictConfig, entry: str) -> None:
    """Check a config of the user (``--config-path``): values, and keys that the code needs."""
    check_values(cfg, entry)
    for group, node in cfg.items():
        group = str(group)
        name = node.get("name") if isinstance(node, DictConfig) else None
        if name in options(group):
            missing = [f"{group}.{key}" for key in defaults(group, name) if key not in node]
            if missing:
                raise UserError(
                    f"this config lacks {', '.join(missing)}: another version wrote it. "
                    f"Compare it with {config_file(group, name)}."
                )
