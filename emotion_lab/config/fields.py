"""Building blocks of the config schema: roles of keys, value types, and their description."""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import core_schema


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


@dataclass(frozen=True)
class Expected:
    """Description of the allowed values, where the type alone does not give it."""

    words: str


@dataclass(frozen=True)
class Checked:
    """A test for values whose type alone does not decide, and the description of what passes."""

    test: Callable[[Any], bool]
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Run the test after the validation of the type; ``null`` is not tested."""
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def _validate(self, value: Any) -> Any:
        if value is not None and not self.test(value):
            raise ValueError(self.words)
        return value


class Section(BaseModel):
    """A config group or entry point. Keys that it does not declare are allowed (plugins)."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )
    #: Role of the keys that do not name one.
    role: ClassVar[Role] = Role.IDENTITY


Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
#: 0 <= x < 1
HalfOpenFraction = Annotated[float, Ge(0), Lt(1)]
#: 0 < x < 1
OpenFraction = Annotated[float, Gt(0), Lt(1)]
#: 0 < x <= 1
PositiveFraction = Annotated[float, Gt(0), Le(1)]
Count = Annotated[int, Ge(1)]
WholeNumber = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]

Location = Annotated[str | None, Role.LOCATION]
#: One path, or a list of paths.
Locations = Annotated[str | list[str] | None, Role.LOCATION]


def field_of(section: type[Section], key: str) -> tuple[type[Section], FieldInfo] | None:
    """Return the section and the field that a dotted key names, None if it is not declared."""
    head, _, rest = key.partition(".")
    field = section.model_fields.get(head)
    if field is None or not rest:
        return None if field is None else (section, field)
    inner = next((part for part in _parts(field.annotation) if _is_section(part)), None)
    return None if inner is None else field_of(inner, rest)


def role_of(section: type[Section], field: FieldInfo) -> Role:
    """Return the role of a field: its own, or that of its section."""
    return next((item for item in field.metadata if isinstance(item, Role)), section.role)


def allows_null(field: FieldInfo) -> bool:
    """Return whether ``null`` is a valid value."""
    return type(None) in _parts(field.annotation)


def first_error(
    section: type[Section], values: dict[str, Any], prefix: str = ""
) -> tuple[str, Any, str] | None:
    """Validate values against a section; keys may be missing.

    Args:
        section: The schema.
        values: Values by key.
        prefix: Of the keys in the result, for instance ``trainer.``.

    Returns:
        Dotted key, value and description of the allowed values of the first error, else None.
    """
    try:
        section.model_validate(values)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_context=False):
            if item["type"] != "missing":
                return _explain(section, values, item["loc"], prefix)
    return None


def _explain(
    section: type[Section], values: dict[str, Any], loc: Iterable[int | str], prefix: str
) -> tuple[str, Any, str]:
    """Return key, value and expectation of a pydantic error location.

    A location ends with list indices and names of union members: the longest prefix that is a
    declared key is the key.
    """
    names: list[str] = []
    value: Any = values
    inner: type[Section] | None = section
    expected = ""
    for part in loc:
        field = inner.model_fields.get(str(part)) if inner else None
        if field is None:
            break
        names.append(str(part))
        value = value[part]
        inner = next((p for p in _parts(field.annotation) if _is_section(p)), None)
        expected = _expectation(prefix + ".".join(names), value, field, inner)
    return prefix + ".".join(names), value, expected


def _expectation(key: str, value: Any, field: FieldInfo, inner: type[Section] | None) -> str:
    if inner is not None:
        return f"keys, for instance {key}.{next(iter(inner.model_fields))}=<value>"
    words = describe(field.annotation, field.metadata)
    only_list = all(
        typing.get_origin(part) is list
        for part in _parts(field.annotation)
        if part is not type(None)
    )
    if only_list and not isinstance(value, list) and not _custom(field.metadata):
        return f"a list, for instance {key}=[{value}]"
    return words


def _custom(metadata: Iterable[Any]) -> str | None:
    return next((item.words for item in metadata if isinstance(item, Checked | Expected)), None)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _parts(annotation: Any) -> list[Any]:
    """Return the members of a union, else the annotation alone; Annotated is unwrapped."""
    if typing.get_origin(annotation) is Annotated:
        return _parts(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for member in typing.get_args(annotation) for part in _parts(member)]
    return [annotation]


def describe(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return the allowed values in words, for instance ``a whole number of 1 or more``."""
    metadata = list(metadata)
    if typing.get_origin(annotation) is Annotated:
        annotation, *own = typing.get_args(annotation)
        metadata += own
    custom = _custom(metadata)
    if custom:
        return custom
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        members = [member for member in args if member is not type(None)]
        if len(members) == 1:
            return describe(members[0], metadata)
        if bool in members:
            members.remove(bool)
            names = [str(name) for member in members for name in typing.get_args(member)]
            return f"{', '.join([*names, 'true'])} or false"
        return ", or ".join(describe(member).removeprefix("one of ") for member in members)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is list:
        return f"a list of {_plural(describe(args[0]))}" if args else "a list"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return _number("a whole number" if annotation is int else "a number", metadata)
    return {str: "text"}.get(annotation, "another value")


def _plural(words: str) -> str:
    for singular in ("whole number", "number"):
        words = words.replace(f"a {singular}", f"{singular}s", 1)
    return {"text": "names"}.get(words, words)


def _number(words: str, metadata: Iterable[Any]) -> str:
    """Add the bounds to the description of a number."""
    low: float | None = None
    high: float | None = None
    open_low = open_high = False
    for item in metadata:
        if isinstance(item, Ge | Gt):
            low, open_low = float(getattr(item, "ge", getattr(item, "gt", 0))), isinstance(item, Gt)
        elif isinstance(item, Le | Lt):
            high = float(getattr(item, "le", getattr(item, "lt", math.inf)))
            open_high = isinstance(item, Lt)
    if low is None:
        return words
    if high is None and words == "a whole number":
        return f"{words} of {low:.0f} or more"
    words += f" {'above' if open_low else 'from'} {_digits(low)}"
    if high is not None:
        words += f" {'and below' if open_high else 'to'} {_digits(high)}"
    return words


def _digits(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"
