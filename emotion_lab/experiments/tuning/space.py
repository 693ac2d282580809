"""The search space: one Hydra override per dimension. Does not import torch.

``loss=ce,focal``, ``model.dropout=interval(0,0.5)``, ``optim.lr=tag(log,interval(1e-4,1e-2))``,
``data.batch_size=range(32,129,32)``: the syntax of Hydra's own sweepers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig

from emotion_lab.config import compose, schema
from emotion_lab.config.fields import Role
from emotion_lab.config.overrides import choices, parse, quote, quote_texts
from emotion_lab.core.errors import UserError

#: Combinations of group choices to compose before the search starts; 0.2 s each.
MAX_CHECKED = 64
#: Searchable keys of the data: none that changes the images or labels of val.
DATA_KEYS = (
    "data.batch_size",
    "data.sampler",
    "data.class_weights",
    "data.effective_beta",
    "data.crop_margin",
    "data.drop_not_face",
)
_REFUSED = {
    "seed": "the best of several seeds is chance, not a setting: search with one seed, then train "
    "the best settings with several",
    "experiment": "give one experiment, and search over keys and groups",
    "data": "scores on different images cannot be compared",
    "test": "the test split must not be used for selection",
    "monitor": "trials are compared by one metric",
    "trainer.monitor_mode": "trials are compared in one direction",
    "resume": "it is one folder",
    "test_ledger": "it is one file",
}


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search space.

    Attributes:
        key: A config key or group of ``train``.
        text: The override as typed.
        options: Choices; empty for a number from ``low`` to ``high``.
        low: Smallest value.
        high: Largest value.
        step: Distance between values; None for a continuous range.
        log: Whether to sample uniformly on a logarithmic scale.
        integer: Whether values are integers.
    """

    key: str
    text: str
    options: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    integer: bool = False

    @property
    def is_group(self) -> bool:
        """Whether the key is a config group, which determines the available keys."""
        return compose.is_group(self.key)

    def override(self, value: Any) -> str:
        """Return the override for a value; numbers are rounded to four significant digits."""
        if self.options:
            return f"{self.key}={value}"
        if self.integer:
            return f"{self.key}={int(value)}"
        digits = 4 if self.step is None else 10
        return f"{self.key}={min(max(float(f'{value:.{digits}g}'), self.low), self.high)!r}"

    def bounds(self) -> str:
        """Return a sweep override with all values to validate: the choices, or both bounds."""
        number = int if self.integer else float
        values = self.options or [repr(number(end)) for end in (self.low, self.high)]
        return f"{self.key}={','.join(values)}"


@dataclass
class Space:
    """The search space."""

    fixed: list[str]
    dimensions: list[Dimension]
    _configs: dict[tuple[str, ...], DictConfig] = field(default_factory=dict, repr=False)

    @property
    def typed(self) -> list[str]:
        """The dimensions as they were typed."""
        return [dimension.text for dimension in self.dimensions]

    @property
    def groups(self) -> list[Dimension]:
        """The dimensions that are config groups."""
        return [d for d in self.dimensions if d.is_group]

    def config(self, groups: Sequence[str]) -> DictConfig:
        """Return the config of ``train`` for some group choices, for instance ``model=cnn``."""
        key = tuple(groups)
        if key not in self._configs:
            self._configs[key] = _precheck([*self.fixed, *groups])
        return self._configs[key]

    def keys(self, groups: Sequence[str]) -> list[Dimension]:
        """Return the dimensions that are keys of the config for some group choices."""
        cfg = self.config(groups)
        return [d for d in self.dimensions if not d.is_group and _node(cfg, d.key) is not None]

    def epochs(self, overrides: Sequence[str]) -> int:
        """Return the maximum number of epochs of a trial with these overrides."""
        values = dict(text.split("=", 1) for text in overrides)
        if "trainer.max_epochs" in values:
            return int(values["trainer.max_epochs"])
        groups = [f"{d.key}={values[d.key]}" for d in self.groups if d.key in values]
        return int(self.config(groups).trainer.max_epochs)

    def max_epochs(self) -> int:
        """Return the maximum number of epochs of any trial."""
        for dimension in self.dimensions:
            if dimension.key == "trainer.max_epochs":
                return max(map(int, dimension.options or (dimension.high,)))
        return self.epochs([group.override(group.options[0]) for group in self.groups])


def _precheck(overrides: list[str], multirun: bool = False) -> DictConfig:
    """Compose and validate the config of ``train``, also while Hydra runs a task."""
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    active, instance.hydra = instance.hydra, None
    try:
        return compose.precheck("train", overrides, multirun)
    finally:
        instance.hydra = active


def _node(cfg: Any, key: str) -> Any:
    """Return the node of a dotted key; None if the config does not have the key."""
    for part in key.split("."):
        exists = isinstance(cfg, DictConfig) and part in cfg
        cfg = cfg._get_node(part) if exists else None
    return cfg


def gather(argv: list[str]) -> list[str]:
    """Move overrides with several values into ``sweep.space``; return the new command line."""
    argv = quote_texts(argv)
    if any(flag in argv for flag in ("-h", "--help")):
        return argv
    if any(flag in argv for flag in ("-m", "--multirun")):
        raise UserError("a search takes no -m: type several values, optim.lr=1e-3,1e-2.")
    several = [text for text in argv if _has_several_values(text)]
    single = [text for text in argv if text not in several]
    if "sweep=grid" in single:
        raise UserError(
            "sweep=grid is not a search: use python -m emotion_lab.train -m with several values."
        )
    if not several:
        return argv
    keys = {text.split("=", 1)[0] for text in single}
    duplicate = next((text for text in several if text.split("=", 1)[0] in keys), None)
    if duplicate is not None:
        raise UserError(f"'{duplicate}' is searched and also has one value: remove one of them.")
    if "sweep=lr_find" in single:
        raise UserError(
            f"sweep=lr_find varies the learning rate only: give one value instead of "
            f"'{several[0]}'."
        )
    if "sweep.space" in keys or "resume" in keys:
        key = "sweep.space" if "sweep.space" in keys else "resume"
        raise UserError(f"{key}= already sets the search space: remove '{several[0]}'.")
    return [*single, f"sweep.space=[{','.join(quote(text) for text in several)}]"]


def _has_several_values(text: str) -> bool:
    """Return whether an argument gives several values to a config key of ``train``."""
    if text.startswith(("-", "sweep", "hydra")) or "=" not in text:
        return False
    try:
        return bool(parse([text])[0].is_sweep_override())
    except UserError:
        return False  # invalid syntax is reported together with all other arguments


def _dimension(text: str) -> Dimension:
    """Parse one searched override."""
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    (override,) = parse([str(text)])
    key = override.key_or_group
    _check_searchable(key, text)
    if not override.is_sweep_override():
        raise UserError(f"sweep.space: '{text}' has one value. Give several, {key}=<one>,<other>.")
    value = override.value()
    unknown_tags = sorted(set(getattr(value, "tags", ())) - {"log"})
    if unknown_tags:
        raise UserError(f"'{text}': unknown tag '{unknown_tags[0]}'. Available: log.")
    log = "log" in getattr(value, "tags", ())
    if not isinstance(value, IntervalSweep):
        values = list(choices(override))  # refuses glob(*)
        if log:
            raise UserError(f"'{text}': log requires an interval, {key}=tag(log,interval(a,b)).")
        if len(values) < 2 or len({str(option) for option in values}) < len(values):
            raise UserError(f"'{text}' needs two different values or more.")
        if not isinstance(value, RangeSweep):
            return Dimension(key, text, tuple(override.sweep_string_iterator()))
        integer = all(isinstance(number, int) for number in values)
        step = abs(value.step)
        return Dimension(key, text, (), min(values), max(values), step, integer=integer)
    low, high = value.start, value.end
    assert low is not None and high is not None  # Hydra's parser requires both
    if not low < high:
        raise UserError(f"'{text}': {high:g} is not above {low:g}.")
    if log and low <= 0:
        raise UserError(f"'{text}': log requires a lower bound above 0.")
    return Dimension(key, text, (), low, high, log=log, integer=isinstance(low, int))


def _check_searchable(key: str, text: str) -> None:
    """Raise for keys that must be the same in all trials."""
    if key.startswith(("sweep", "hydra")):
        raise UserError(f"'{text}' cannot be searched: it is not an option of a training.")
    if key in DATA_KEYS:
        return
    name = "data" if key.startswith("data.") else key
    if name in _REFUSED:
        allowed = f" (of the data: {', '.join(DATA_KEYS)})" if name == "data" else ""
        raise UserError(f"'{text}' cannot be searched: {_REFUSED[name]}{allowed}.")
    if schema.role(key) is not Role.IDENTITY:
        raise UserError(f"'{text}' cannot be searched: it does not change the training.")


def _as_integer(dimension: Dimension, cfg: DictConfig) -> Dimension:
    """Return an integer dimension if the default of its key in ``cfg`` is an integer."""
    node = _node(cfg, dimension.key)
    integer = not isinstance(node, DictConfig) and type(node._value()) is int
    if dimension.options or dimension.integer or not integer or dimension.step is not None:
        return dimension
    if dimension.low != int(dimension.low) or dimension.high != int(dimension.high):
        raise UserError(
            f"'{dimension.text}': {dimension.key} takes whole numbers, for instance "
            f"{dimension.key}=int(interval(1,{max(2, round(dimension.high))}))."
        )
    return replace(dimension, integer=True)


def _combinations(space: Space) -> Iterator[list[str]]:
    choices_by_group = [[d.override(option) for option in d.options] for d in space.groups]
    return (list(groups) for groups in itertools.product(*choices_by_group))


def read(texts: Sequence[str], fixed: Sequence[str]) -> Space:
    """Parse a search space and validate its values with the config of ``train``.

    Keys that are also in ``fixed``, the overrides of all trials, are not searched.
    """
    fixed_keys = {text.lstrip("+~").split("=", 1)[0] for text in fixed}
    dimensions = [_dimension(text) for text in texts]
    space = Space(list(fixed), [d for d in dimensions if d.key not in fixed_keys])
    if not space.dimensions:
        raise UserError("nothing to search: give several values, for instance optim.lr=1e-3,1e-2.")
    names = [d.key for d in space.dimensions]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise UserError(f"{duplicate} is searched twice: give all its values once.")
    for group in space.groups:
        if not group.options:
            raise UserError(f"'{group.text}': a group takes names, {group.key}=<one>,<other>.")
        _precheck([*fixed, group.bounds()], multirun=True)
    checked: set[str] = set()
    for groups in itertools.islice(_combinations(space), MAX_CHECKED):
        cfg = space.config(groups)
        for dimension in space.keys(groups):
            if dimension.key not in checked:
                index = space.dimensions.index(dimension)
                space.dimensions[index] = _as_integer(dimension, cfg)
                checked.add(dimension.key)
        bounds = [dimension.bounds() for dimension in space.keys(groups)]
        _precheck([*fixed, *groups, *bounds], multirun=True)
    for dimension in space.dimensions:
        if not dimension.is_group and dimension.key not in checked:
            # No combination has this key: composing fails and lists the available keys.
            _precheck([*fixed, *next(_combinations(space)), dimension.bounds()], multirun=True)
    return space
