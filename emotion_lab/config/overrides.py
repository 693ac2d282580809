"""Parsing of the command line: flags, overrides and the quoting of paths. No torch here."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from emotion_lab.config.fields import PATHS, SOURCES, Role
from emotion_lab.config.schema import FIELDS
from emotion_lab.core.errors import UserError, unknown

#: Keys whose value is a list of names, in any script.
_NAME_KEYS = {"data.exclude", "logger.wandb.tags"}
#: Keys whose value is a path, a URL or names; it needs no quoting for Hydra's grammar.
TEXT_KEYS = {key for key, role, _ in FIELDS if role is Role.LOCATION} | {
    *("data.drop_csv", "data.relabel_csv", "model.weights", "distill.teacher", "language"),
    *("data.group", "model.frame_ckpt", "hydra.run.dir", "hydra.sweep.dir"),
    *_NAME_KEYS,
}
#: Those that take a list, ``[first,second]``.
LIST_KEYS = {
    key for key, role, field in FIELDS if field.annotation in (PATHS, SOURCES)
} | _NAME_KEYS


def quote(value: str, interpolate: bool = False) -> str:
    """Return ``value`` quoted for Hydra's grammar.

    Args:
        value: Any text.
        interpolate: Whether ``${...}`` in it is an interpolation.
    """
    value = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    value = re.sub(r"(\\+)$", lambda match: match[1] * 2, value)
    if not interpolate:
        value = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
    return f"'{value}'"


def quote_list(value: str) -> str:
    """Quote every text of ``[first,second]``; a text with a comma must be quoted already."""
    parts = re.findall(r"""'[^']*'|"[^"]*"|[^,]+""", value[1:-1])
    parts = [part.strip() for part in parts if part.strip()]
    return f"[{','.join(part if part[0] in chr(39) + chr(34) else quote(part) for part in parts)}]"


def quote_texts(argv: list[str]) -> list[str]:
    """Quote the values of :data:`TEXT_KEYS`, which may contain blanks, ``=`` and brackets."""
    result = []
    for argument in argv:
        match = re.match(r"^(\+{0,2}([\w./]+))=(.*)$", argument, re.DOTALL)
        # ``resume`` is a path of train and a switch of predict.
        unquoted = ("", "null", "true", "false") if match and match[2] == "resume" else ("", "null")
        if match and match[2] in TEXT_KEYS and match[3] not in unquoted:
            value = match[3]
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            swept = "," in value and ("-m" in argv or "--multirun" in argv)
            listed = match[2] in LIST_KEYS and value[0] == "[" and value[-1] == "]"
            listed = listed and not (swept and "],[" in value)
            # Path.exists() raises for a name that is too long, as a list of paths can be.
            exists = os.path.exists(value)  # noqa: PTH110  # see above
            if listed and not exists:
                argument = f"{match[1]}={quote_list(value)}"
            elif not (quoted or swept) or exists:
                argument = f"{match[1]}={quote(value, match[2].startswith('hydra.'))}"
        result.append(argument)
    return result


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Return overrides without the quotes of :func:`quote_texts` where it adds them again."""
    result = []
    for text in overrides:
        key, _, value = text.partition("=")
        plain = re.sub(r"'([^'\\,\[\]]+)'", r"\1", value) if key in TEXT_KEYS else value
        result.append(f"{key}={plain}" if quote_texts([f"{key}={plain}"]) == [text] else text)
    return result


def choices(override: Any) -> list[Any]:
    """Return the values of an override: one, or those of a sweep."""
    if override.is_sweep_override():
        from hydra.core.override_parser.types import ChoiceSweep, RangeSweep

        if not isinstance(override.value(), (ChoiceSweep, RangeSweep)):
            key = override.key_or_group
            raise UserError(
                f"'{override.input_line}' cannot be swept: list the values, "
                f"for instance {key}=<first>,<second>."
            )
        values = list(override.sweep_iterator())
    else:
        values = [override.value()]
    return [getattr(value, "text", value) for value in values]


def values(overrides: list[str], key: str) -> list[Any] | None:
    """Return the values of a key on the command line, several for a sweep; None if it is absent."""
    matches = [override for override in parse(overrides) if override.key_or_group == key]
    return choices(matches[-1]) if matches else None


def override_key(text: str) -> str:
    """Return the config key of an override such as ``+model.width=8``."""
    return text.lstrip("+~").split("=", 1)[0]


def check_different(overrides: list[str]) -> None:
    """Refuse a sweep with a repeated value: the same run would count twice."""
    for override in parse(overrides):
        texts = [str(value) for value in choices(override)] if override.is_sweep_override() else []
        repeated = next((text for text in texts if texts.count(text) > 1), None)
        if repeated is not None:
            raise UserError(
                f"'{override.input_line}' has {repeated} twice: identical runs add no information. "
                "Name every value once."
            )


def first(override: Any) -> str:
    """Return an override with the first value of its sweep."""
    if not override.is_sweep_override():
        return override.input_line
    choices(override)  # raises for a sweep that cannot be listed
    value = next(override.sweep_string_iterator(), None)
    if value is None:
        return override.input_line
    return f"{override.input_line.split('=', 1)[0]}={value}"


def parse(overrides: list[str], path_key: str | None = None) -> list[Any]:
    """Return Hydra's parsed form of each override.

    Args:
        overrides: As typed.
        path_key: The key that is suggested for a path without a key.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            hint = f" Did you mean {path_key}={text}?" if path_key and _is_path(text) else ""
            raise UserError(f"Cannot read '{text}': options are written key=value.{hint}")
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            key, value = text.split("=", 1)
            is_list = value.startswith("[") and value.endswith("]")
            quoted = quote_list(value) if is_list else quote(value)
            raise UserError(
                f"Cannot read '{text}': quote special characters, for instance \"{key}={quoted}\"."
            ) from None
    return parsed


def _is_path(text: str) -> bool:
    """Return whether a word looks like a path, a URL or the number of a camera."""
    return "/" in text or "." in text or text.isdecimal()


def flags(argv: list[str]) -> tuple[list[str], bool, bool]:
    """Return (overrides, multirun, custom).

    ``custom`` is True for a config of the user (``--config-path``) and for Hydra's own output
    (``--hydra-help``, shell completion): no config of this package is checked.
    """
    from hydra._internal.utils import get_args_parser

    def raise_user_error(message: str) -> NoReturn:
        raise UserError(f"Cannot read the command line: {message}.")

    parser = get_args_parser()
    parser.error = raise_user_error  # type: ignore[method-assign]  # argparse would exit
    allowed = [flag for action in parser._actions for flag in action.option_strings]
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        flag = argument.split("=", 1)[0]
        if argument.startswith("-") and flag not in allowed:
            plain = argument.lstrip("-")
            if "=" in plain:
                raise UserError(f"Unknown flag '{argument}'. Write it without dashes: {plain}")
            similar = difflib.get_close_matches(argument, allowed, 1, cutoff=0.8)
            if following and not similar and following[0] != "-" and "=" not in following:
                raise UserError(
                    f"Unknown flag '{argument}'. Write it without dashes: {plain}={following}"
                )
            raise unknown("flag", argument, [f for f in allowed if f.startswith("--")])
    args = parser.parse_intermixed_args(argv)
    custom = any((args.config_path, args.config_name, args.config_dir, args.hydra_help))
    custom = custom or args.shell_completion
    return list(args.overrides), bool(args.multirun), bool(custom)


def flags_first(argv: list[str], overrides: list[str]) -> list[str]:
    """Return a command line with its flags before its ``overrides``: Hydra reads no other order."""
    rest, others = list(overrides), []
    for argument in argv:
        if rest and argument == rest[0]:
            del rest[0]
        else:
            others.append(argument)
    return [*others, *overrides]
