"""What is searched: each dimension one override in Hydra's words. Nothing here imports torch.

``loss=ce,focal``, ``model.dropout=interval(0,0.5)``, ``optim.lr=tag(log,interval(1e-4,1e-2))``,
``data.batch_size=range(32,129,32)``: the same words that Hydra's own sweepers read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig

from emotion_lab.config import compose
from emotion_lab.config.overrides import choices, parse, quote, quote_paths
from emotion_lab.core.errors import UserError

#: Combinations of group choices that are composed before anything starts; 0.2 s each.
CHECKED = 64
#: What may be searched of the data: nothing that changes which images val has, or their labels.
DATA_KEYS = (
    "data.batch_size",
    "data.sampler",
    "data.class_weights",
    "data.effective_beta",
    "data.crop_margin",
    "data.drop_not_face",
)
_REFUSED = {
    "seed": "the best of several seeds is luck, not a setting: search with one, then train the "
    "best settings over several",
    "experiment": "name one, and search over keys and groups",
    "data": "scores on different images cannot be compared",
    "test": "the test split is not for choosing",
    "monitor": "trials are compared by one metric",
    "trainer.monitor_mode": "trials are compared one way",
    "resume": "it names one folder",
    "test_ledger": "it names one file",
    "logger": "it does not change what is learned",
}


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Attributes:
        key: A key or group of ``train``.
        text: As it was typed.
        options: Words to choose from; empty for a number from ``low`` to ``high``.
        low: Smallest value.
        high: Largest value.
        step: Distance between values; None for any.
        log: Drawn evenly over powers of ten.
        whole: Whole numbers only.
    """

    key: str
    text: str
    options: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def is_group(self) -> bool:
        """Whether a config group is chosen, and with it which keys exist."""
        return (compose.CONF / self.key).is_dir()

    def word(self, value: Any) -> str:
        """Return the override for a value; numbers have four digits, enough to type again."""
        if self.options:
            return f"{self.key}={value}"
        if self.whole:
            return f"{self.key}={int(value)}"
        digits = 4 if self.step is None else 10
        return f"{self.key}={min(max(float(f'{value:.{digits}g}'), self.low), self.high)!r}"

    def ends(self) -> str:
        """Return an override with every value that has to be checked."""
        values = self.options or (self._number(self.low), self._number(self.high))
        return f"{self.key}={','.join(values)}"

    def _number(self, value: float) -> str:
        return str(int(value)) if self.whole else repr(float(value))


@dataclass
class Space:
    """Everything that is searched, and what is the same in every trial.

    Attributes:
        fixed: Overrides of every trial.
        dimensions: What is searched.
        typed: The same as it was typed, to be written down.
    """

    fixed: list[str]
    dimensions: list[Dimension]
    _configs: dict[tuple[str, ...], DictConfig] = field(default_factory=dict, repr=False)

    @property
    def typed(self) -> list[str]:
        """The dimensions as they were typed."""
        return [dimension.text for dimension in self.dimensions]

    @property
    def groups(self) -> list[Dimension]:
        """The dimensions that choose a config group."""
        return [d for d in self.dimensions if d.is_group]

    def config(self, chosen: Sequence[str]) -> DictConfig:
        """Return the config of ``train`` under some group choices, ``model=cnn``."""
        key = tuple(chosen)
        if key not in self._configs:
            self._configs[key] = _check("train", [*self.fixed, *chosen])
        return self._configs[key]

    def keys(self, chosen: Sequence[str]) -> list[Dimension]:
        """Return the dimensions that are keys and exist under some group choices."""
        cfg = self.config(chosen)
        return [d for d in self.dimensions if not d.is_group and _exists(cfg, d.key)]

    def epochs(self, overrides: Sequence[str]) -> int:
        """Return how many epochs a trial trains at most."""
        chosen = [text for text in overrides if text.split("=", 1)[0] in self._names()]
        given = [t for t in overrides if t.startswith("trainer.max_epochs=")]
        return int(given[-1].split("=")[1]) if given else self.config(chosen).trainer.max_epochs

    def _names(self) -> set[str]:
        return {d.key for d in self.groups}


def _check(entry: str, overrides: list[str], multirun: bool = False) -> DictConfig:
    """Compose and check; also from within a task, where Hydra is at work already."""
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    working, instance.hydra = instance.hydra, None
    try:
        return compose.precheck(entry, overrides, multirun)
    finally:
        instance.hydra = working


def _exists(cfg: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(cfg, DictConfig) or part not in cfg:
            return False
        cfg = cfg._get_node(part)
    return True


def gather(argv: list[str]) -> list[str]:
    """Return a command line on which what was typed with several values stands in ``sweep.space``.

    Raises:
        UserError: Where nothing can be searched.
    """
    argv = quote_paths(argv)
    if any(flag in argv for flag in ("-h", "--help")):
        return argv
    if any(flag in argv for flag in ("-m", "--multirun")):
        raise UserError("a search takes no -m: type several values, optim.lr=1e-3,1e-2.")
    several, single = [], []
    for text in argv:
        (several if _is_several(text) else single).append(text)
    if "sweep=grid" in single:
        raise UserError("sweep=grid is python -m emotion_lab.train -m and several values.")
    if not several:
        return argv
    given = {text.split("=", 1)[0] for text in single}
    both = next((text for text in several if text.split("=", 1)[0] in given), None)
    if both is not None:
        raise UserError(f"'{both}' is searched, and given one value too: leave one of them out.")
    if "sweep=lr_find" in single:
        raise UserError(
            f"sweep=lr_find tries learning rates with one setting of everything else: give "
            f"'{several[0]}' one value."
        )
    if "sweep.space" in given or "resume" in given:
        other = "sweep.space=" if "sweep.space" in given else "resume="
        raise UserError(f"{other} says what is searched: leave '{several[0]}' out.")
    return [*single, f"sweep.space=[{','.join(quote(text) for text in several)}]"]


def _is_several(text: str) -> bool:
    """Tell whether an argument names several values of an option of ``train``."""
    if text.startswith(("-", "sweep", "hydra")) or "=" not in text:
        return False
    try:
        return bool(parse([text])[0].is_sweep_override())
    except UserError:
        return False  # what cannot be read is explained with the rest


def _dimension(text: str) -> Dimension:
    """Return the dimension that an override names.

    Raises:
        UserError: If it cannot be read or searched.
    """
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    (override,) = parse([str(text)])
    key = override.key_or_group
    _refuse(key, text)
    if not override.is_sweep_override():
        raise UserError(f"sweep.space: '{text}' has one value. Give several, {key}=<one>,<other>.")
    value = override.value()
    known = sorted(set(getattr(value, "tags", ())) - {"log"})
    if known:
        raise UserError(f"'{text}': unknown tag '{known[0]}'. Available: log.")
    log = "log" in getattr(value, "tags", ())
    if not isinstance(value, IntervalSweep):
        found = list(choices(override))  # refuses glob(*)
        ordered = isinstance(value, RangeSweep) and len(found) > 1
        if log:
            raise UserError(f"'{text}': log is for an interval, {key}=tag(log,interval(a,b)).")
        if len(found) < 2 or len({str(one) for one in found}) < len(found):
            raise UserError(f"'{text}' needs two different values or more.")
        if not ordered:
            return Dimension(key, text, tuple(override.sweep_string_iterator()))
        low, high = min(found), max(found)
        whole = all(isinstance(one, int) for one in found)
        return Dimension(key, text, (), low, high, abs(value.step), whole=whole)
    low, high = value.start, value.end
    if not low < high:
        raise UserError(f"'{text}': {high:g} is not above {low:g}.")
    if log and low <= 0:
        raise UserError(f"'{text}': log needs a low end above 0.")
    return Dimension(key, text, (), low, high, log=log, whole=isinstance(low, int))


def _refuse(key: str, text: str) -> None:
    name = key if key in _REFUSED else key.split(".")[0]
    if key.startswith(("sweep", "hydra")):
        raise UserError(f"'{text}' cannot be searched: it is no option of a training.")
    if key in DATA_KEYS:
        return
    if name in _REFUSED and (name == key or name in ("data", "logger")):
        allowed = f" (of the data: {', '.join(DATA_KEYS)})" if name == "data" else ""
        raise UserError(f"'{text}' cannot be searched: {_REFUSED[name]}{allowed}.")


def _wholly(dimension: Dimension, default: Any) -> Dimension:
    """Return an interval of whole numbers where the key's default is one."""
    whole = isinstance(default, int) and not isinstance(default, bool)
    if dimension.options or dimension.whole or not whole or dimension.step is not None:
        return dimension
    if dimension.low != int(dimension.low) or dimension.high != int(dimension.high):
        raise UserError(
            f"'{dimension.text}': {dimension.key} takes whole numbers, for instance "
            f"{dimension.key}=int(interval(1,{max(2, round(dimension.high))}))."
        )
    return replace(dimension, whole=True)


def _combinations(space: Space) -> Iterator[list[str]]:
    words = [[d.word(option) for option in d.options] for d in space.groups]
    return (list(chosen) for chosen in itertools.product(*words))


def read(texts: Sequence[str], fixed: Sequence[str]) -> Space:
    """Return the space, every value of it held against the config of ``train``.

    Args:
        texts: What is searched, an override each. A key that is fixed leaves the space.
        fixed: What is the same in every trial.

    Raises:
        UserError: For an unknown key, a choice or number that is not allowed, or an empty space.
    """
    taken = {text.lstrip("+~").split("=", 1)[0] for text in fixed}
    found = [_dimension(text) for text in texts]
    space = Space(list(fixed), [d for d in found if d.key not in taken])
    if not space.dimensions:
        raise UserError("nothing to search: type several values, optim.lr=1e-3,1e-2 for instance.")
    names = [d.key for d in space.dimensions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is searched twice: name all its values once.")
    for group in space.groups:
        if not group.options:
            raise UserError(f"'{group.text}': a group takes names, {group.key}=<one>,<other>.")
        _check("train", [*fixed, group.ends()], multirun=True)
    met: set[str] = set()
    for chosen in itertools.islice(_combinations(space), CHECKED):
        cfg = space.config(chosen)
        there = space.keys(chosen)
        for one in there:
            if one.key not in met:
                at = space.dimensions.index(one)
                space.dimensions[at] = _wholly(one, _default(cfg, one.key))
        met |= {one.key for one in there}
        ends = [one.ends() for one in space.keys(chosen)]
        _check("train", [*fixed, *chosen, *ends], multirun=True)
    for one in space.dimensions:
        if not one.is_group and one.key not in met:
            # No choice has it: train says what there is instead.
            _check("train", [*fixed, *next(_combinations(space)), one.ends()], True)
    return space


def _default(cfg: Any, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg._get_node(part)
    return cfg if isinstance(cfg, DictConfig) else cfg._value()
