"""Building blocks of the config schema: roles of keys, value types, and their description."""

from __future__ import annotations

import enum
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

#: What an epoch logs; a run is selected by one of these. ``loss`` is the cross-entropy of the
#: predicted probabilities, ``criterion`` the value of the loss that the run trains.
SCORES = tuple(
    f"{stage}/{name}"
    for stage in ("val", "train")
    for name in (
        *("loss", "criterion", "accuracy"),
        *(f"{a}_{n}" for a in ("macro", "weighted") for n in ("precision", "recall", "f1")),
    )
)
#: Metrics of probabilities, which do not depend on how a run was trained.
METRICS = (
    "monitor",
    *dict.fromkeys(name.split("/", 1)[1] for name in SCORES if not name.endswith("/criterion")),
)


class Role(enum.Enum):
    """What a config key means for the identity of a run."""

    #: Decides what is trained or measured; another value is another configuration.
    IDENTITY = "identity"
    #: Path of the data, of an output or of a run.
    LOCATION = "location"
    #: What is printed, logged or drawn.
    DISPLAY = "display"
    #: How the work is carried out: devices, threads, worker processes, caches, resuming.
    EXECUTION = "execution"


class Section(BaseModel):
    """A config group or entry point. Keys that it does not declare are allowed (plugins)."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )
    #: Role of the keys without a role of their own.
    role: ClassVar[Role] = Role.IDENTITY


class DisplaySection(Section):
    """A section whose keys are displayed, logged or drawn."""

    role: ClassVar[Role] = Role.DISPLAY


class ExecutionSection(Section):
    """A section whose keys control how the work is carried out."""

    role: ClassVar[Role] = Role.EXECUTION


def section(base: type[Section] = Section, /, **keys: Any) -> type[Section]:
    """Return a model with the types of ``keys`` and those of ``base``; every key is optional."""
    fields: dict[str, Any] = {key: (annotation, None) for key, annotation in keys.items()}
    return create_model("Section", __base__=base, **fields)


def integer(low: int, high: int | None = None) -> Any:
    """Return the type of a whole number with its bounds."""
    bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
    return Annotated[int, Field(ge=low, le=high, description=f"a whole number {bounds}")]


def number(
    ge: float | None = None,
    le: float | None = None,
    gt: float | None = None,
    lt: float | None = None,
) -> Any:
    """Return the type of a finite number with bounds: ``ge`` or ``gt``, and ``le`` or ``lt``."""
    words = {"from": ge, "above": gt, "to": le, "and below": lt}
    bounds = " ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)
    return Annotated[float, Field(ge=ge, le=le, gt=gt, lt=lt, description=f"a number {bounds}")]


def checked(annotation: Any, test: Callable[[Any], bool], words: str) -> Any:
    """Return a type whose values pass ``test``; ``words`` describe these values."""

    def validate(value: Any) -> Any:
        if not test(value):
            raise ValueError(words)
        return value

    return Annotated[annotation, AfterValidator(validate), Field(description=words)]


def interval(low: float, high: float) -> Any:
    """Return the type of ``[from, to]`` between two bounds."""
    words = f"[from, to], two rising numbers from {low:g} to {high:g}"
    return checked(list[float], lambda v: len(v) == 2 and low <= v[0] <= v[1] <= high, words)


def _is_resize_plan(value: list[list[float]]) -> bool:
    """Accept ``[[start, pixels], ...]`` with starts that rise from 0 and stay below 1."""
    if not value or any(len(pair) != 2 for pair in value):
        return False
    starts = [start for start, _ in value]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
        return False
    return all(isinstance(size, int) and size >= 16 for _, size in value)


def _is_regex(value: str) -> bool:
    """Accept what Python's ``re`` compiles."""
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _is_unfreeze_plan(value: list[list[int]]) -> bool:
    """Accept ``[[epoch, stages], ...]`` whose epochs and stages rise, from 1 and 0 on."""
    if not value or any(len(pair) != 2 for pair in value):
        return False
    rises = [list(column) == sorted(set(column)) for column in zip(*value, strict=True)]
    return all(rises) and value[0][0] >= 1 and value[0][1] >= 0


Positive = number(gt=0)
NonNegative = number(ge=0)
Fraction = number(ge=0, le=1)
#: 0 <= x < 1
HalfOpenFraction = number(ge=0, lt=1)
#: 0 < x < 1
OpenFraction = number(gt=0, lt=1)
#: 0 < x <= 1
PositiveFraction = number(gt=0, le=1)
Count = integer(1)
WholeNumber = integer(0)
Seed = integer(0, 2**32 - 1)
Counts = Annotated[list[Count], Field(min_length=1)]  # type: ignore[valid-type]  # a variable
#: What ``bench`` measures; ``emotion_lab/bench.py`` calls the module of this name.
Benchmark = Literal[
    "data",
    "train",
    "live",
    "sources",
    "archive",
    "anonymize",
    "deploy",
    "derived",
    "near_copies",
    "smoothing",
]
#: The batch sizes of a benchmark, and the one of an exported file.
BatchSizes = Annotated[
    Counts, Field(description="a list of whole numbers of 1 or more, for instance [1,8]")
]
ExportBatch = Annotated[
    Literal["dynamic"] | Count,  # type: ignore[valid-type]  # a variable
    Field(description="dynamic, or a whole number of 1 or more"),
]
Channels = checked(int, lambda v: v in (1, 3), "1 (grey) or 3 (RGB)")
AutoOrBool = Annotated[Literal["auto"] | bool, Field(description="auto, true or false")]
Monitor = checked(str, SCORES.__contains__, f"one of {', '.join(SCORES)} (never test/...)")
Metric = checked(str, METRICS.__contains__, f"one of {', '.join(METRICS)}")
Duration = Annotated[str, Field(pattern=r"^\d+:\d\d:\d\d:\d\d$", description="DD:HH:MM:SS")]
Batches = checked(
    int | float,
    lambda v: v >= 1 if isinstance(v, int) else 0 < v <= 1,
    "a whole number of 1 or more, or a fraction above 0.0, at most 1.0",
)
ResizePlan = checked(
    list[list[float | int]],
    _is_resize_plan,
    "[[0,<pixels>],[<fraction of the epochs>,<pixels>]], fractions rising from 0",
)
Regex = checked(str, _is_regex, "a regular expression")
UnfreezePlan = checked(
    list[list[int]], _is_unfreeze_plan, "[[<epoch>,<last stages to train>],...], both rising"
)
Split = Literal["train", "val", "test"]
Cache = Literal["auto", "ram", "none"]
Anonymize = Literal["none", "blur", "fill"]
Location = Annotated[str | None, Role.LOCATION]
#: One path, or a list of paths.
PATHS = str | list[str] | None
Locations = Annotated[PATHS, Role.LOCATION]
#: One camera, file or address, or a list of these.
SOURCES = str | int | list[str | int] | None
Ledger = Annotated[str, Role.LOCATION]

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "keys",
}


def describe(annotation: Any) -> str:
    """Return the allowed values in words, for instance ``a whole number of 1 or more``."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        custom = (item.description for item in args[1:] if isinstance(item, FieldInfo))
        return next(custom, None) or describe(args[0])
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(describe(member) for member in args if member is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is list:
        words = describe(args[0])
        for singular in ("whole number", "number"):
            words = words.replace(f"a {singular}", f"{singular}s", 1)
        return f"a list of {'names' if args[0] is str else words}"
    return _WORDS.get(annotation, "another value")


def named(annotation: Any) -> list[str] | None:
    """Return the values of a type as they are typed, null left out; None if they have no names."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return named(args[0])
    if origin in (typing.Union, types.UnionType):
        members = [named(member) for member in args if member is not type(None)]
        return None if None in members else [v for values in members for v in values or ()]
    if origin is Literal:
        return [str(value) for value in args]
    return ["true", "false"] if annotation is bool else None
