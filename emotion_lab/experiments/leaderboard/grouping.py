"""Runs that differ only in their seed are one configuration; what differs between those."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emotion_lab.config import schema
from emotion_lab.config.compose import CONF, options
from emotion_lab.core.errors import UserError
from emotion_lab.core.runs import Run, find
from emotion_lab.evaluation.predictions_file import find_predictions

#: What a leaderboard can be ordered by.
SCORES = ("accuracy", "macro_f1")
#: The column where runs were trained on other images with the same config.
TRAIN = "train split"


@dataclass(frozen=True)
class Configuration:
    """One configuration.

    Attributes:
        name: What sets it apart, as ``key=value``.
        values: Differing key -> value; keys that its config does not have are absent.
        runs: One a seed, by seed.
    """

    name: str
    values: dict[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Configurations:
    """What is ranked.

    Attributes:
        by: One of :data:`SCORES`.
        groups: The configurations, as found.
        keys: Config keys that differ between them, those that were typed first.
        main: How many of the keys are enough to tell the configurations apart.
        notes: Worth showing.
    """

    by: str
    groups: list[Configuration]
    keys: list[str]
    main: int
    notes: list[str]


def clean(value: object) -> str:
    """Return text without control, direction or unpaired characters: they become ``\\x1b``."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)
    )


def shown(value: Any) -> str:
    """Return a config value as it is typed."""
    if isinstance(value, (bool, list, dict)) or value is None:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        return clean(text)
    return clean(value)


def json_safe(value: Any) -> Any:
    """Return a value as JSON can hold it: a date or NaN, which YAML can say, becomes text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return shown(str(value))
    return value


def short(key: str) -> str:
    """Return a key as it is typed: ``model`` for ``model.name``."""
    return clean(key.removesuffix(".name"))


def fingerprint(run: Run, split: str) -> dict[str, Any]:
    """Return the fingerprint of a split that a run saw; empty where it wrote none."""
    scored = run.metrics.get(split)
    found = scored.get("fingerprint") if isinstance(scored, dict) else None
    found = found or (run.metrics.get("fingerprints") or {}).get(split)
    if not isinstance(found, dict) or not isinstance(found.get("hash"), str):
        return {}
    return {key: found.get(key) for key in ("n", "hash", "known_as")}


def trained(run: Run) -> dict[str, Any]:
    """Return dotted key -> value of all that decides what a run trains, but its seed."""
    train = fingerprint(run, "train")
    config = schema.identity(run.config, exclude=("seed",))
    values = {key: json_safe(value) for key, value in config.items()}
    return {**values, **({TRAIN: train["hash"][:8]} if train else {})}


@functools.cache
def _today(group: str, name: str) -> dict[str, Any]:
    """Return the defaults of a group's choice; of no group, those of ``train`` itself."""
    if (CONF / group).is_dir():
        known = name in options(group)
        return (
            _unresolved(CONF / group / "base.yaml", CONF / group / f"{name}.yaml") if known else {}
        )
    return _unresolved(CONF / "train.yaml")


def _unresolved(*files: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        merged |= content or {}
    return merged


def _default(key: str, setting: dict[str, Any]) -> Any:
    """Return today's default of a key, given what a run chose for its group; None for no such key.

    Returns:
        A list of that one value, or None.
    """
    first, _, rest = key.partition(".")
    values: Any = _today(first, str(setting.get(f"{first}.name")))
    rest = rest if (CONF / first).is_dir() else key
    for part in rest.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return [json_safe(values)]


def _completed(settings: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Give runs of an older version the keys that they lack and later ones have.

    A new key's default leaves training as it was; without this every run made before it would be a
    configuration of its own.

    Returns:
        The settings, and notes.
    """
    every = {key: None for setting in settings for key in setting}
    filled: dict[str, None] = {}
    result = []
    for setting in settings:
        found = {key: _default(key, setting) for key in every if key not in setting}
        added = {key: value[0] for key, value in found.items() if value is not None}
        filled.update(dict.fromkeys(added))
        result.append({**setting, **added})
    if not filled:
        return result, []
    names = ", ".join(short(key) for key in filled)
    return result, [f"Older runs lack {names}: they count as having today's defaults."]


def _same_val(runs: Sequence[Run]) -> list[str]:
    """Refuse runs scored on other images.

    Returns:
        Notes.

    Raises:
        UserError: Naming two of them.
    """
    found = [fingerprint(run, "val") for run in runs]
    known = [(run, one) for run, one in zip(runs, found, strict=True) if one]
    for run, one in known:
        first, other = known[0]
        if one["hash"] == other["hash"]:
            continue
        folds = [each.config.get("data") or {} for each in (first, run)]
        if all(each.get("folds") for each in folds):
            one_fold, other_fold = (each.get("fold") for each in folds)
            raise UserError(
                f"{first.folder} and {run.folder} hold out different folds ({one_fold} and "
                f"{other_fold} of {folds[1]['folds']}), so their val scores are of other images. "
                "Pool the folds of each configuration: "
                "python -m emotion_lab.crossval runs=<its runs>."
            )
        words = [
            f"{each.get('known_as') or 'a split'} of {each.get('n')} images ({each['hash'][:8]})"
            for each in (other, one)
        ]
        raise UserError(
            f"{first.folder} and {run.folder} were not scored on the same val split: {words[0]}, "
            f"{words[1]}. Such scores have no common order; rank each split's runs by themselves."
        )
    if known and len(known) < len(runs):
        return ["Not every run tells its split's fingerprint: rows are matched by name alone."]
    return []


def _order(by: str | None, runs: Sequence[Run]) -> str:
    """Return what to rank by: ``by``, else what the runs were chosen by.

    Raises:
        UserError: If the runs do not agree, or were chosen by something else.
    """
    if by is not None:
        return by
    monitors = {str(run.config.get("monitor")) for run in runs}
    if len(monitors) > 1:
        words = " and ".join(sorted(monitors))
        raise UserError(f"the runs were chosen by {words}: say sort_by=accuracy or sort_by=macro_f1.")
    (monitor,) = monitors
    score = monitor.removeprefix("val/")
    if score not in SCORES:
        raise UserError(
            f"the runs were chosen by {clean(monitor)}, which is not ranked by: say sort_by=accuracy "
            "or sort_by=macro_f1."
        )
    return score


def _typed(runs: Sequence[Run]) -> list[str]:
    """Return the config keys that were typed for any run, ``model.name`` for ``model=``."""
    keys: dict[str, None] = {}
    for run in runs:
        for text in run.overrides or []:
            key = str(text).lstrip("+~").split("=", 1)[0]
            keys[key if "." in key or key not in run.config else f"{key}.name"] = None
            keys[key] = None
    return list(keys)


def _once(runs: list[Run], notes: list[str]) -> tuple[Run, ...]:
    """Return one run a seed, by seed; of a seed trained twice, the later one."""
    seeds: dict[int, Run] = {}
    for run in runs:
        if run.seed in seeds:
            notes.append(
                f"{clean(run.folder)} repeats {clean(seeds[run.seed].folder)} with the same seed "
                f"{run.seed}: only the former counts."
            )
        seeds[run.seed] = run
    return tuple(seeds[seed] for seed in sorted(seeds))


def _frozen(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def group(runs: Sequence[Run], by: str | None) -> Configurations:
    """Sort runs into configurations.

    Args:
        runs: Two or more.
        by: One of :data:`SCORES`, or None for what the runs were chosen by.

    Raises:
        UserError: For runs that have no common order.
    """
    if len(runs) < 2:
        raise UserError(
            f"runs= holds one finished run, {runs[0].folder}: a leaderboard needs two or more."
        )
    notes = _same_val(runs)
    by = _order(by, runs)
    completed, older = _completed([trained(run) for run in runs])
    notes += older
    sorted_in: dict[str, list[Run]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for run, setting in zip(runs, completed, strict=True):
        sorted_in.setdefault(_frozen(setting), []).append(run)
        chosen[_frozen(setting)] = setting
    settings = list(chosen.values())
    every = {key: None for setting in settings for key in setting}
    differing = [
        key
        for key in every
        if len({_frozen({"v": s[key]}) if key in s else "" for s in settings}) > 1
    ]
    typed = [key for key in _typed(runs) if key in differing]
    keys = typed + [key for key in differing if key not in typed]
    told = {_frozen({key: s[key] for key in typed if key in s}) for s in settings}
    main = len(typed) if len(told) == len(settings) else len(keys)
    if TRAIN in differing:
        notes.append(
            "The runs were not all trained on the same images: the column 'train split' tells "
            "them apart."
        )
    groups = []
    for setting, members in zip(settings, sorted_in.values(), strict=True):
        values = {key: setting[key] for key in keys if key in setting}
        words = [f"{short(key)}={shown(values[key])}" for key in keys[:main] if key in values]
        name = ", ".join(words) or "one configuration"
        groups.append(Configuration(name, values, _once(members, notes)))
    return Configurations(by, groups, keys, main, notes)


def read(places: Sequence[Path], by: str | None, split: str = "val") -> Configurations:
    """Find runs and sort them into configurations; reads no predictions yet.

    Args:
        places: Run folders, sweep folders, or folders that hold such.
        by: See :func:`group`.
        split: Only ``val`` is ranked.

    Raises:
        UserError: For runs that are missing, damaged or not to be ranked.
    """
    if split != "val":
        raise UserError(
            f"runs= ranks on val, not on {split}: choose there, then open test once, for the one "
            "chosen (python -m emotion_lab.evaluate split=test)."
        )
    runs = find(places)
    found = group(runs, by)
    for each in found.groups:
        for run in each.runs:
            find_predictions(run.folder, split)
    left = _unfinished(places)
    if left:
        plural = "" if left == 1 else "s"
        found.notes.append(f"{left} unfinished run{plural} (no metrics.json) left out.")
    return found


def _unfinished(places: Sequence[Path]) -> int:
    """Return how many runs began there and have no scores."""
    begun = {
        file.parent.resolve()
        for place in places
        for file in place.rglob("config.yaml")
        if file.parent.name != ".hydra"
    }
    return sum(not (folder / "metrics.json").is_file() for folder in begun)
