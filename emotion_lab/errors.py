"""Errors that speak the user's words: one line, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend.

    The message is one line that says what was wrong, where, and what to type instead.
    Entry points print it on standard error and exit with code 2.
    """


def unknown(kind: str, name: object, options: Iterable[str], how: str = "") -> UserError:
    """Build the error for a name that is not among ``options``.

    Args:
        kind: What was being named, for instance ``"loss"``.
        name: What the user wrote.
        options: The names that exist.
        how: How to set it, for instance ``"Set it with loss=<name>."``.
    """
    options = sorted(str(option) for option in options)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    available = ", ".join(options) or "none"
    return UserError(f"Unknown {kind} '{name}'.{hint} Available: {available}. {how}".strip())


def unknown_key(name: str, known: list[str]) -> UserError:
    """Explain a key that does not exist, listing its neighbours rather than everything."""
    parent = name.rsplit(".", 1)[0] + "." if "." in name else ""
    depth = name.count(".")
    near = [key for key in known if key.startswith(parent) and key.count(".") == depth]
    if not near:
        near = [key for key in known if "." not in key]
    if not difflib.get_close_matches(name, near, n=1, cutoff=0.6):
        last = name.rsplit(".", 1)[-1]
        same = [key for key in known if key.rsplit(".", 1)[-1] == last]
        if same:
            return UserError(
                f"Unknown option '{name}'. Did you mean '{same[0]}'? Available: {', '.join(near)}."
            )
    return unknown("option", name, near)
