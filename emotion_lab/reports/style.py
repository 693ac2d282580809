"""How figures look: the colours of a light and a dark page, and drawing in both."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from emotion_lab.core.io import atomic_write

_DPI = 180
#: Fonts with the letters that DejaVu Sans lacks; used where they are installed.
_FALLBACK = (
    "Noto Sans CJK JP",
    "Noto Sans Devanagari",
    "Microsoft YaHei",
    "Nirmala UI",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "WenQuanYi Zen Hei",
)


@dataclass(frozen=True)
class FigureStyle:
    """Colours of one appearance; the page's style sheet has the same ones.

    Attributes:
        paper: Background.
        ink: Text and axes.
        quiet: Grids and reference lines.
        accent: The one colour that carries the message.
        second: What the accent is compared with.
        cycle: Okabe and Ito's colours, told apart by most colour-blind readers.
        shades: Colours from nothing to all.
    """

    paper: str
    ink: str
    quiet: str
    accent: str
    second: str
    cycle: tuple[str, ...]
    shades: tuple[str, ...]


_CYCLE = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LIGHT = FigureStyle(
    paper="#ffffff",
    ink="#1d232b",
    quiet="#a3abb6",
    accent="#0072B2",
    second="#D55E00",
    cycle=("#0072B2", *_CYCLE, "#000000"),
    shades=("#f3f6f9", "#62a6d3", "#0b4f82"),
)
#: Blue and black, too dark here, make way for a lighter blue and white.
DARK = FigureStyle(
    paper="#171b21",
    ink="#d9dee5",
    quiet="#626c79",
    accent="#56B4E9",
    second="#E8833A",
    cycle=("#3D8FCC", *_CYCLE, "#F2F2F2"),
    shades=("#1e252d", "#1f628f", "#7cc8f5"),
)

#: Draws one figure in the style it is given.
Draw = Callable[[FigureStyle], Figure]


def _fonts() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _FALLBACK if name in installed)]


def _settings(style: FigureStyle) -> dict[str, Any]:
    coloured = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    return {
        **dict.fromkeys(coloured, style.ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), style.paper),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), style.quiet),
        "font.family": _fonts(),
        "font.size": 10,
        "axes.titlesize": 10,
        "legend.fontsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": style.quiet,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.7,
        "legend.frameon": False,
        # A class may be called "$x$": names are text, not formulas.
        "text.parse_math": False,
    }


def render(draw: Draw, style: FigureStyle) -> bytes:
    """Return the figure as PNG."""
    with matplotlib.rc_context(_settings(style)):
        out = io.BytesIO()
        draw(style).savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


def both(draw: Draw, folder: Path, name: str) -> dict[str, bytes]:
    """Draw light and dark; the light one is also written to ``folder/name.png``.

    Returns:
        ``{"light": png, "dark": png}``, as ``evaluation_page.write_page`` takes it.

    Raises:
        OSError: If the file cannot be written.
    """
    images = {"light": render(draw, LIGHT), "dark": render(draw, DARK)}
    atomic_write(folder / f"{name}.png", images["light"])
    return images
