"""Colours and matplotlib settings of the figures, in a light and a dark style."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from emotion_lab.core.io import atomic_write

_DPI = 180
#: Fonts with the glyphs that DejaVu Sans lacks; used if installed.
_FALLBACK = (
    *("Noto Sans CJK JP", "Noto Sans Devanagari", "Microsoft YaHei", "Nirmala UI"),
    *("PingFang SC", "Hiragino Sans", "Arial Unicode MS", "WenQuanYi Zen Hei"),
)


@dataclass(frozen=True)
class FigureStyle:
    """Colours of a figure; the style sheet of the HTML report uses the same colours.

    Attributes:
        paper: Background.
        ink: Text and axes.
        quiet: Grids and reference lines.
        accent: The main series.
        second: The series that the main one is compared with.
        cycle: Okabe and Ito's palette, which colour-blind readers can distinguish.
        shades: Sequential colours, from 0 to 1.
    """

    paper: str
    ink: str
    quiet: str
    accent: str
    second: str
    cycle: tuple[str, ...]
    shades: tuple[str, ...]

    @property
    def train(self) -> str:
        """Colour of the train split in every figure."""
        return self.second

    @property
    def val(self) -> str:
        """Colour of the val split in every figure."""
        return self.accent


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
#: Blue and black are too dark on a dark page: they are replaced by a lighter blue and white.
DARK = FigureStyle(
    paper="#171b21",
    ink="#d9dee5",
    quiet="#626c79",
    accent="#56B4E9",
    second="#E8833A",
    cycle=("#3D8FCC", *_CYCLE, "#F2F2F2"),
    shades=("#1e252d", "#1f628f", "#7cc8f5"),
)

#: Function that draws one figure in a style.
Draw = Callable[[FigureStyle], Figure]


def _settings(style: FigureStyle) -> dict[str, Any]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    coloured = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    return {
        **dict.fromkeys(coloured, style.ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), style.paper),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), style.quiet),
        "font.family": ["DejaVu Sans", *(name for name in _FALLBACK if name in installed)],
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
        # A class may have a name such as "$x$": do not parse it as a formula.
        "text.parse_math": False,
    }


def render(draw: Draw, style: FigureStyle) -> bytes:
    """Return the figure as PNG."""
    # matplotlib lists each key as a literal type, which a computed dict does not have.
    with matplotlib.rc_context(cast(Any, _settings(style))):
        buffer = io.BytesIO()
        draw(style).savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def write_png(draw: Draw, path: Path) -> Path:
    """Write the light version to a PNG file and return its path."""
    atomic_write(path, render(draw, LIGHT))
    return path


def both(draw: Draw, folder: Path, name: str) -> dict[str, bytes]:
    """Draw the light and the dark version; write the light one to ``folder/name.png``.

    Returns:
        ``{"light": png, "dark": png}``, as :func:`evaluation_page.write_page` takes it.
    """
    light = write_png(draw, folder / f"{name}.png").read_bytes()
    return {"light": light, "dark": render(draw, DARK)}
