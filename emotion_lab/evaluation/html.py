"""What the self-contained pages share: templates, the style sheet, pictures as data."""

from __future__ import annotations

import base64
import importlib.resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment(package: str) -> Environment:
    """Return the environment of the templates in ``<package>/templates``; everything is escaped."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style_sheet() -> Markup:
    """Return the style sheet of the report; it is ours, not data, and goes in as it is."""
    sheet = importlib.resources.files("emotion_lab.evaluation") / "templates" / "report.css"
    return Markup(sheet.read_text(encoding="utf-8"))


def png(data: bytes) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
