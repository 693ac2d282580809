"""Template environment and data URIs of the self-contained HTML pages."""

from __future__ import annotations

import base64

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

#: Package with the shared templates, ``base.html`` among them.
_SHARED = "emotion_lab.reports"


def environment(package: str) -> Environment:
    """Return the Jinja environment of a page: autoescape is on, undefined names raise an error.

    Args:
        package: Its templates are in ``<package>/templates``; it can use the shared ones as well.
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
