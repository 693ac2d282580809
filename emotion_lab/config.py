"""From the command line to a checked config, before anything heavy is imported.

Hydra composes; this module answers a user's mistake in one line. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emotion_lab import processes
from emotion_lab.checks import claimed
from emotion_lab.command_line import choices, first, flags, parse, quote_paths
from emotion_lab.errors import UserError, unknown, unknown_key
from emotion_lab.rules import NULLABLE, RULES

_PACKAGE = Path(__file__).resolve().parent
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
    """Hold a value against the type of its default; ``null`` is always allowed for ``null``."""
    if default is None or _refers(default) or _refers(value):
        return
    text = f"{key}={value}"
    if isinstance(default, DictConfig) and not isinstance(value, dict):
        inner = next((f"{key}.{name}" for name in default), f"{key}.<name>")
        raise UserError(f"{text} is not valid: {key} holds keys, set for instance {inner}=<value>.")
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


def check_values(cfg: Any, prefix: str = "") -> None:
    """Hold every value of a composed config against :data:`emotion_lab.rules.RULES`.

    Raises:
        UserError: Naming the key, the value and what is allowed.
    """
    for key in list(_leaves(cfg)):
        rule = RULES.get(f"{prefix}{key}")
        if rule is None:
            continue
        try:
            value = OmegaConf.select(cfg, key)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{prefix}{key} cannot be resolved: {reason}.") from None
        if value is not None and not rule.test(value):
            raise UserError(f"{prefix}{key}={value} is not valid: expected {rule.expected}.")


def _check_group(group: str, values: list[Any]) -> None:
    for value in values:
        names = value if isinstance(value, list) else [value]
        if len(names) != 1 and group not in LISTS:
            raise UserError(f"{group} takes one name, not {len(names)}: {group}=<name>.")
        for name in names:
            shown = "null" if name is None else str(name).strip("'")
            if shown not in options(group):
                raise unknown(group, shown, options(group), f"Set it with {group}=<name>.")


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


def _check_keys(keys: list[Any], base: DictConfig, top: DictConfig) -> None:
    """Refuse keys that ``base`` does not have and values of the wrong kind."""
    known = list(_leaves(base))
    for override in keys:
        name = override.key_or_group
        exists, default = _lookup(base, name)
        if override.is_add() or override.is_force_add():
            continue
        if not exists:
            raise unknown_key(name, known)
        for value in choices(override):
            if value is not None:
                _check_type(name, default, value)
            elif not (default is None or name in NULLABLE or _lookup(top, name) == (True, None)):
                raise UserError(f"{name}=null is not valid: expected a value.")


def _check_rules(keys: list[Any]) -> None:
    """Hold every value that was typed, each of a sweep too, against the rules."""
    for override in keys:
        rule = RULES.get(override.key_or_group)
        for value in choices(override) if rule else []:
            if value is not None and not _refers(value) and not rule.test(value):
                raise UserError(
                    f"{override.key_or_group}={value} is not valid: expected {rule.expected}."
                )


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
        _check_keys(keys, _compose(entry, groups) if groups else top, top)
        typed = groups + [first(override) for override in keys] + mode
        cfg = _compose(entry, typed, return_hydra_config=True)
    _check_rules(keys)
    check_values(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    return cfg


def plain(cfg: Any) -> Any:
    """Return a config as plain dicts, lists, strings and numbers, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)


def defaults(group: str, name: str) -> dict[str, Any]:
    """Return ``conf/<group>/<name>.yaml`` with the values of its group's ``base.yaml``."""
    folder = CONF / group
    parts = [folder / "base.yaml", folder / f"{name}.yaml"]
    merged = plain(OmegaConf.merge(*(OmegaConf.load(part) for part in parts if part.is_file())))
    return {key: value for key, value in merged.items() if key != "defaults"}


def check_given(cfg: DictConfig) -> None:
    """Hold a config of the user's own (``--config-path``), maybe an old one, against ours.

    Raises:
        UserError: Naming what is missing or wrong.
    """
    check_values(cfg)
    for group, node in cfg.items():
        name = node.get("name") if isinstance(node, DictConfig) else None
        if name in options(group):
            lacks = [f"{group}.{key}" for key in defaults(group, name) if key not in node]
            if lacks:
                what = f"this config lacks {', '.join(lacks)}: another version wrote it."
                raise UserError(f"{what} {CONF / group / name}.yaml says what is needed.")


def _guarded(
    entry: str,
    task: Callable[[DictConfig], Any],
    full: bool,
    multirun: bool,
    custom: bool,
    results: Sequence[str] | None,
) -> Callable[[DictConfig], Any]:
    """Return ``task`` with its run folder claimed and a user's mistake answered in one line.

    It is answered before Hydra adds lines of its own. A failed job does not stop a sweep, but
    Ctrl-C does.
    """

    def claim(cfg: DictConfig) -> contextlib.AbstractContextManager[None]:
        from hydra.core.hydra_config import HydraConfig

        # The other processes of a run on several devices work in the folder of the first.
        if results is None or not processes.first():
            return contextlib.nullcontext()
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.get("resume") or cfg.get("restore"):
            return claimed(folder, key=None)
        # Some commands hand out= on as hydra.run.dir.
        named = cfg.get("out") is not None and Path(str(cfg.out)).resolve() == folder.resolve()
        key = "out" if named else "hydra.sweep.dir" if multirun else "hydra.run.dir"
        return claimed(folder, *results, key=key)

    def guarded(cfg: DictConfig) -> Any:
        try:
            if custom:
                check_given(cfg)
            with claim(cfg):
                return task(cfg)
        except Exception as error:
            mistake = error if isinstance(error, UserError) else explain(error)
            if mistake is None or full:
                raise
            if multirun and getattr(mistake, "exit_code", 2) == 2:
                raise mistake from None
            fail(mistake)

    # Hydra names the job, and with it the log file, after the module.
    guarded.__module__ = f"emotion_lab.{entry}"
    return guarded


def explain(error: Exception) -> UserError | None:
    """Return what to tell the user of a machine that is at its end; None for anything else."""
    words = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full; what was saved before is whole. Free some space and start again "
            "(a training goes on with resume=<run folder>)."
        )
    no_room = "can't allocate memory" in words or "out of memory" in words
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and no_room):
        return UserError(
            f"not enough memory ({words.splitlines()[0][:120]}). Try a smaller data.batch_size, "
            "model or data.n."
        )
    return None


def fail(error: BaseException) -> NoReturn:
    """Print one line and leave: 2 for a user's mistake, 130 for a run the user stopped."""
    code = getattr(error, "exit_code", 2)
    prefix = "error: " if code == 2 else ""
    # A loader's worker process sends its traceback along.
    words = str(error).rsplit("emotion_lab.errors.UserError: ", 1)[-1]
    print(f"{prefix}{' '.join(words.split())}", file=sys.stderr)
    raise SystemExit(code)


def run(
    entry: str,
    task: Callable[[DictConfig], Any],
    prepare: Callable[[DictConfig, list[str]], list[str]] | None = None,
    results: Sequence[str] = (),
    sweep: Callable[[list[str]], contextlib.AbstractContextManager[None]] | None = None,
) -> None:
    """Run an entry point: check the command line, compose with Hydra, call ``task(cfg)``.

    Args:
        entry: Name of the config, ``conf/<entry>.yaml``.
        task: Receives the composed config. It imports what is heavy itself.
        prepare: Called with (checked config, overrides) before Hydra makes the run folder; it may
            raise :class:`UserError` and returns further overrides.
        results: Files of the run folder; where one is there already, nothing is begun.
        sweep: Held around the jobs of a sweep, given what ``prepare`` returned; each job then
            claims its own folder.
    """
    import hydra

    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    # Said three times of our own launcher files, and nothing a user could mend.
    warnings.filterwarnings("ignore", message=r"(?s).*validated against ConfigStore schema.*")
    try:
        argv = quote_paths(sys.argv[1:])
        if any(flag in argv for flag in ("-h", "--help")):
            from emotion_lab.help import show

            try:
                show(entry)
                sys.stdout.flush()
            except BrokenPipeError:  # ... --help | head
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        overrides, multirun, custom = flags(argv)
        prepared: list[str] = []
        if not custom:
            cfg = precheck(entry, overrides, multirun)
            shows = any(
                a in ("-c", "--cfg", "--info", "-i") or a.startswith("--cfg=") for a in argv
            )
            if prepare is not None and not shows:
                prepared = prepare(cfg, overrides)
        # With this set Hydra passes exceptions on, so that one place decides how they look.
        os.environ["EMOTION_LAB_FULL_ERROR"] = "1" if full else "0"
        os.environ["HYDRA_FULL_ERROR"] = "1"
        sys.argv = [sys.argv[0], *argv, *prepared]
        sweeps = multirun and sweep is not None and bool(prepared)
        task = _guarded(entry, task, full, multirun, custom, None if sweeps else results)
        with sweep(prepared) if sweep is not None and sweeps else contextlib.nullcontext():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=entry)(task)()
    except (UserError, OSError) as error:  # Hydra itself writes into the run folder
        mistake = error if isinstance(error, UserError) else explain(error)
        if mistake is None or full:
            raise
        fail(mistake)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
