"""What the self-contained pages share: one environment of templates, pictures as data."""

from __future__ import annotations

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

#: Where ``base.html`` lies, which every page extends, and what else they share.
_SHARED = "emotion_lab.reports"


def environment(package: str) -> Environment:
    """Return the environment of a page: all is escaped, and a name that is not given is an error.

    Args:
        package: Its templates lie in ``<package>/templates``; the shared ones are found too.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def png(data: bytes) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
