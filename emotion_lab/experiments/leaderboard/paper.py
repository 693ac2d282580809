"""Tables of a leaderboard for a paper: Markdown, and LaTeX with booktabs."""

from __future__ import annotations

from typing import Any

from emotion_lab.experiments.leaderboard.grouping import SCORES
from emotion_lab.experiments.leaderboard.report import format_p

#: Characters with a meaning in LaTeX, and their replacement.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "Δ": r"$\Delta$", "–": "--", "−": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\`*_|<>[]" else char for char in text)


def _percent(value: float, sign: bool = False) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows as plain text; scores in percent, mean ± standard deviation."""
    by = result["by"]
    other = next(score for score in SCORES if score != by)
    header = ["configuration", "seeds", f"{SCORES[by]} (%)", f"{SCORES[other]} (%)"]
    header += ["Δ to best (95 % interval)", "p (Holm)"]
    rows = []
    for row in result["groups"]:
        comparison = row["against_best"]
        cells = [row["name"], str(len(row["seeds"]))]
        for score in (by, other):
            std = row[score]["std"]
            deviation = "" if std is None else f" ± {_percent(std)}"
            cells.append(f"{_percent(row[score]['mean'])}{deviation}")
        if comparison is None:
            cells += ["–", "–"]
        else:
            low, high = (_percent(value, sign=True) for value in comparison["ci95"])
            cells.append(f"{_percent(comparison['difference'], sign=True)} ({low} to {high})")
            cells.append(format_p(comparison["p_holm"]))
        rows.append(cells)
    return header, rows


def _caption(result: dict[str, Any]) -> str:
    return (
        f"Scores on val, n = {result['n']} images: mean ± standard deviation over seeds. Δ: paired "
        "difference from the best configuration on the same images with its 95 % interval, not "
        "corrected; p corrected for all comparisons (Holm)."
    )


def markdown(result: dict[str, Any]) -> str:
    """Return the leaderboard as a Markdown table with its caption."""
    header, rows = _table(result)
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    lines += [[_escape_markdown(cell) for cell in row] for row in rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{_caption(result)}\n"


def latex(result: dict[str, Any]) -> str:
    """Return the leaderboard as a LaTeX table; it needs ``\\usepackage{booktabs}``."""
    header, rows = _table(result)

    def line(cells: list[str]) -> str:
        escaped = ("".join(_LATEX.get(char, char) for char in cell) for cell in cells)
        return f"    {' & '.join(escaped)} \\\\"

    caption = "".join(_LATEX.get(char, char) for char in _caption(result))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"    \toprule",
            line(header),
            r"    \midrule",
            *map(line, rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )
