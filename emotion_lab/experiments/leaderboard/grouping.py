"""Grouping of runs into configurations: runs that differ only in their seed, and their names."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emotion_lab.config import schema
from emotion_lab.config.compose import CONF, defaults, is_group, options
from emotion_lab.config.overrides import override_key
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run, find
from emotion_lab.evaluation.predictions_file import differ, find_predictions
from emotion_lab.experiments.compare.load import describe_split, trained_on_lines
from emotion_lab.experiments.run.resume import earlier_values

#: Metric that runs can be ranked by -> its title.
SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
#: Name of the column for runs that were trained on different images with the same config.
TRAIN = "train split"
#: Name of the column for runs whose config was changed when they were resumed.
RESUMED = "resumed"


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed.

    Attributes:
        name: Config keys that distinguish it from the others, as ``key=value``.
        values: Differing key -> value; keys that its config does not have are absent.
        runs: One run per seed, sorted by seed.
    """

    name: str
    values: dict[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Configurations:
    """Configurations of a leaderboard.

    Attributes:
        groups: In the order of their first runs.
        keys: Config keys that differ between them, keys of the command line first.
        main: Number of leading keys that are sufficient to distinguish the configurations.
    """

    by: str
    groups: list[Configuration]
    keys: list[str]
    main: int
    notes: list[str]


def clean(value: object) -> str:
    """Return text with unprintable characters escaped, for instance as ``\\x1b``."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def shown(value: Any) -> str:
    """Return a config value as it is written on the command line."""
    if isinstance(value, (bool, list, dict)) or value is None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        return clean(text)
    return clean(value)


def json_safe(value: Any) -> Any:
    """Return a value that JSON can represent: a date or NaN of YAML becomes text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return shown(str(value))
    return value


def short(key: str) -> str:
    """Return a key as it is written on the command line: ``model`` for ``model.name``."""
    return clean(key.removesuffix(".name"))


def fingerprint(run: Run, split: str) -> dict[str, Any]:
    """Return the fingerprint of a split in a run; empty if the run has none."""
    scores = run.metrics.get(split)
    result = scores.get("fingerprint") if isinstance(scores, dict) else None
    result = result or (run.metrics.get("fingerprints") or {}).get(split)
    if not isinstance(result, dict) or not isinstance(result.get("hash"), str):
        return {}
    return {key: result.get(key) for key in ("n", "hash", "of", "known_as")}


def trained(run: Run) -> dict[str, Any]:
    """Return dotted key -> value of all that identifies what a run trains, without its seed."""
    train = fingerprint(run, "train")
    config = schema.identity(run.config, exclude=("seed",))
    values = {key: json_safe(value) for key, value in config.items()}
    if train:
        values[TRAIN] = train["hash"][:8]
    earlier = earlier_values(run.folder)
    if earlier:
        values[RESUMED] = ", ".join(earlier)
    return values


@functools.cache
def _defaults(group: str, name: str) -> dict[str, Any]:
    """Return the defaults of a group's choice; those of ``train`` for a key outside of groups."""
    if not is_group(group):
        return yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))
    return defaults(group, name) if name in options(group) else {}


def _default(key: str, values: dict[str, Any]) -> list[Any]:
    """Return the current default of a dotted key as a list, empty for an unknown key.

    ``values`` is the config of the run, which names the choice of each group.
    """
    group, _, rest = key.partition(".")
    node: Any = _defaults(group, str(values.get(f"{group}.name")))
    for part in (rest if is_group(group) else key).split("."):
        if not isinstance(node, dict) or part not in node:
            return []
        node = node[part]
    return [json_safe(node)]


def _add_defaults(configs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Add the keys that runs of earlier versions lack, with their current defaults.

    The default of a new key keeps the earlier behaviour. Without this, runs of an earlier version
    would be different configurations.

    Returns:
        The configs, and notes.
    """
    every = {key: None for values in configs for key in values}
    added: dict[str, None] = {}
    result = []
    for values in configs:
        missing = {key: _default(key, values) for key in every if key not in values}
        new = {key: default[0] for key, default in missing.items() if default}
        added.update(dict.fromkeys(new))
        result.append({**values, **new})
    if not added:
        return result, []
    names = ", ".join(short(key) for key in added)
    return result, [f"Older runs lack {names}: today's defaults are used for them."]


def _check_same_val(runs: Sequence[Run]) -> list[str]:
    """Refuse runs with different val splits; return notes."""
    prints = [(run, fingerprint(run, "val")) for run in runs]
    with_fingerprint = [(run, val) for run, val in prints if val]
    for run, val in with_fingerprint:
        first, first_val = with_fingerprint[0]
        if not differ(first_val, val):
            continue
        data = [each.config.get("data") or {} for each in (first, run)]
        if all(config.get("folds") for config in data):
            raise UserError(
                f"{first.folder} and {run.folder} hold out different folds ({data[0].get('fold')} "
                f"and {data[1].get('fold')} of {data[1]['folds']}), so their val scores are of "
                "other images. Pool the folds of each configuration: "
                "python -m emotion_lab.crossval runs=<its runs>."
            )
        raise UserError(
            f"{first.folder} and {run.folder} were not scored on the same val split: "
            f"{describe_split(first_val)}, {describe_split(val)}. "
            "Such scores are not comparable; rank the runs of each split separately."
        )
    if with_fingerprint and len(with_fingerprint) < len(runs):
        return ["Not every run has a fingerprint of its split: rows are matched by name alone."]
    return []


def sort_metric(by: str | None, runs: Sequence[Run]) -> str:
    """Return the metric to rank by: ``by``, else the metric that selected the epochs."""
    if by is not None:
        return by
    hint = "set sort_by=accuracy or sort_by=macro_f1"
    monitors = {str(run.config.get("monitor")) for run in runs}
    if len(monitors) > 1:
        raise UserError(f"the runs were selected by {' and '.join(sorted(monitors))}: {hint}.")
    (monitor,) = monitors
    score = monitor.removeprefix("val/")
    if score not in SCORES:
        raise UserError(f"the runs were selected by {clean(monitor)}: {hint}.")
    return score


def _command_line_keys(runs: Sequence[Run]) -> list[str]:
    """Return the config keys on the command line of any run, ``model.name`` for ``model=``."""
    keys: dict[str, None] = {}
    for run in runs:
        for text in run.overrides or []:
            key = override_key(str(text))
            keys[key if "." in key or key not in run.config else f"{key}.name"] = None
            keys[key] = None
    return list(keys)


def _one_per_seed(runs: list[Run], notes: list[str]) -> tuple[Run, ...]:
    """Return one run per seed, sorted by seed; of two runs with one seed, the last."""
    seeds: dict[int, Run] = {}
    for run in runs:
        if run.seed in seeds:
            notes.append(
                f"{clean(run.folder)} repeats {clean(seeds[run.seed].folder)} with the same seed "
                f"{run.seed}: only {clean(run.folder)} counts."
            )
        seeds[run.seed] = run
    return tuple(seeds[seed] for seed in sorted(seeds))


def _frozen(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def group(runs: Sequence[Run], by: str | None) -> Configurations:
    """Group runs into configurations."""
    if len(runs) < 2:
        raise UserError(
            f"runs= holds one finished run, {runs[0].folder}: a leaderboard needs two or more."
        )
    scores = [run.metrics.get("val") or {} for run in runs]
    warnings, notes = trained_on_lines([clean(run.folder) for run in runs], scores)
    notes = [*_check_same_val(runs), *warnings, *notes]
    by = sort_metric(by, runs)
    configs, older = _add_defaults([trained(run) for run in runs])
    notes += older
    members: dict[str, list[Run]] = {}
    distinct: dict[str, dict[str, Any]] = {}
    for run, values in zip(runs, configs, strict=True):
        members.setdefault(_frozen(values), []).append(run)
        distinct[_frozen(values)] = values
    keys, main = _differing_keys(list(distinct.values()), _command_line_keys(runs))
    if TRAIN in keys:
        notes.append(
            "The runs were not all trained on the same images: see the column 'train split'."
        )
    groups = []
    for name, values in distinct.items():
        differing = {key: values[key] for key in keys if key in values}
        title = _name(keys[:main], differing) or "one configuration"
        groups.append(Configuration(title, differing, _one_per_seed(members[name], notes)))
    return Configurations(by, groups, keys, main, notes)


def side_names(a: Sequence[Run], b: Sequence[Run]) -> tuple[str, str] | None:
    """Return the config keys that distinguish the runs of two sides, as ``key=value``.

    Returns:
        None if the runs of a side differ in more than their seed, or if both sides have one config.
    """
    configs, _ = _add_defaults([trained(run) for run in (*a, *b)])
    first, second = configs[0], configs[-1]
    sides = (configs[: len(a)], first), (configs[len(a) :], second)
    if first == second or any(values != one for side, one in sides for values in side):
        return None
    keys, main = _differing_keys([first, second], _command_line_keys([*a, *b]))
    return _name(keys[:main], first), _name(keys[:main], second)


def _name(keys: Sequence[str], values: dict[str, Any]) -> str:
    return ", ".join(f"{short(key)}={shown(values[key])}" for key in keys if key in values)


def _differing_keys(configs: list[dict[str, Any]], typed: list[str]) -> tuple[list[str], int]:
    """Return the differing keys, those of the command line first, and how many are needed."""
    every = {key: None for values in configs for key in values}
    differing = [
        key
        for key in every
        if len({_frozen({"v": s[key]}) if key in s else "" for s in configs}) > 1
    ]
    first = [key for key in typed if key in differing]
    keys = first + [key for key in differing if key not in first]
    distinct = {_frozen({key: s[key] for key in first if key in s}) for s in configs}
    return keys, len(first) if len(distinct) == len(configs) else len(keys)


def read(paths: Sequence[Path], by: str | None, split: str = "val") -> Configurations:
    """Find runs in directories and group them, without reading their predictions."""
    if split != "val":
        raise UserError(
            f"runs= ranks on val, not on {split}: select there, then evaluate the selected one "
            "once on test (python -m emotion_lab.evaluate split=test)."
        )
    configurations = group(find(paths), by)
    for configuration in configurations.groups:
        for run in configuration.runs:
            find_predictions(run.folder, split)
    files = [file for path in paths for file in path.rglob("config.yaml")]
    started = {file.parent.resolve() for file in files if file.parent.name != ".hydra"}
    count = sum(not (folder / "metrics.json").is_file() for folder in started)
    if count:
        plural = "" if count == 1 else "s"
        configurations.notes.append(f"{count} unfinished run{plural} (no metrics.json) left out.")
    return configurations
