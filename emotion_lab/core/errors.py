"""User errors: one line on standard error, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from emotion_lab.core import suggestions
from emotion_lab.core.migrate import RENAMED


class UserError(Exception):
    """An error that the user can correct.

    The message is one line: what is wrong, where, and what to type instead. Entry points print it
    on standard error and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, at most 200 characters, or the type if empty."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return line if len(line) <= 200 else line[:199] + "…"


def unknown(
    kind: str, name: object, options: Iterable[str], how: str = "", meant: str | None = None
) -> UserError:
    """Return the error for a name that is not among ``options``.

    Args:
        kind: Kind of the name, for instance ``"loss"``.
        name: The unknown name.
        options: Available names.
        how: How to set it, for instance ``"Set it with loss=<name>."``.
        meant: Option to suggest; None suggests the most similar one.
    """
    options = sorted(str(option) for option in options)
    close = [meant] if meant else difflib.get_close_matches(str(name), options, 1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    available = ", ".join(options) or "none"
    return UserError(f"Unknown {kind} '{name}'.{hint} Available: {available}. {how}".strip())


def unknown_key(name: str, known: list[str]) -> UserError:
    """Return the error for an unknown key; it lists the keys of the same group only."""
    parent, _, last = name.rpartition(".")
    near = [key for key in known if key.rpartition(".")[0] == parent]
    if not near:
        near = [key for key in known if "." not in key]
    # Only the last parts are compared: a common prefix would make all keys of a group similar.
    ends = {key.rpartition(".")[2]: key for key in near}

    def close(cutoff: float) -> list[str]:
        return [ends[end] for end in difflib.get_close_matches(last, ends, 1, cutoff)]

    same = [key for key in known if key.rpartition(".")[2] == last]
    renamed = [key for key in RENAMED.get(name, ()) if key in known]
    usual = suggestions.key(name, known)
    meant = renamed or usual or close(0.6) or same or close(0.5)
    hint = f" Did you mean '{meant[0]}'?" if meant else ""
    return UserError(f"Unknown option '{name}'.{hint} Available: {', '.join(sorted(near))}.")
