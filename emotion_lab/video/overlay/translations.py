"""Overlay texts in the user's language; files and logs keep the class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from emotion_lab.core.errors import UserError, first_line, unknown

FOLDER = Path(__file__).parent / "languages"
#: Instead of the label of a face beyond ``max_turn_deg``.
TURNED_AWAY = "uncertain: face turned away"
_STATES = {"uncertain": "uncertain", "no_face": "no face", "turned_away": TURNED_AWAY}


@dataclass(frozen=True)
class Translations:
    """Texts drawn on a frame.

    Attributes:
        uncertain: Drawn instead of a label.
        no_face: Drawn when a frame contains no face.
        turned_away: Drawn instead of the label of a face beyond ``max_turn_deg``.
        notes: Messages for the user, such as missing translations.
    """

    language: str
    labels: tuple[str, ...]
    uncertain: str = _STATES["uncertain"]
    no_face: str = _STATES["no_face"]
    turned_away: str = TURNED_AWAY
    notes: tuple[str, ...] = ()

    def label(self, index: int | None) -> str:
        """Return the word for a class index, or the word for "uncertain" if it is None."""
        return self.uncertain if index is None else self.labels[index]

    def all_words(self) -> tuple[str, ...]:
        """Return all texts, for instance to find a font that covers them."""
        return (*self.labels, self.uncertain, self.no_face, self.turned_away)


def languages() -> list[str]:
    """Return the sorted codes of the languages included in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def english(classes: Sequence[str], notes: Sequence[str] = ()) -> Translations:
    """Return the class names and the English texts."""
    return Translations("en", tuple(classes), notes=tuple(notes))


def load_translations(language: str, classes: Sequence[str]) -> Translations:
    """Read the texts of a language.

    Args:
        language: A code of :func:`languages`, or a YAML or JSON file with ``class name: word``
            entries (and ``uncertain``, ``no_face``, ``turned_away``).

    Returns:
        The texts. Entries missing in the file stay English and are listed in ``notes``.
    """
    path = FOLDER / f"{language}.yaml"
    if language not in languages():
        path = Path(language).expanduser()
        if path.suffix.lower() not in (".yaml", ".yml", ".json"):
            raise unknown(
                "language", language, languages(), "Set it with language=<code> or <file>.yaml."
            )
        if not path.is_file():
            raise UserError(f"No language file at {path}. Set language=<code> or <file>.yaml.")
    table = _read_table(path)
    missing = [name for name in (*classes, *_STATES) if name not in table]
    notes: tuple[str, ...] = ()
    # In English a class without an entry is drawn under its own name.
    if missing and language != "en":
        names = ", ".join(missing)
        notes = (f"language={language} has no translation for {names}: left in English.",)
    return Translations(
        language,
        tuple(table.get(name, name) for name in classes),
        **{state: table.get(state, text) for state, text in _STATES.items()},
        notes=notes,
    )


def _read_table(path: Path) -> dict[str, str]:
    """Read ``name: word`` pairs; JSON is a subset of YAML."""
    expected = f"{path} is not a list of 'class name: word' lines."
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{expected} Correct it or set language=<code>. ({first_line(error)})"
        ) from error
    if not isinstance(table, dict):
        raise UserError(f"{expected} Correct it or set language=<code>.")
    for name, word in table.items():
        # YAML reads a bare no or 12 as a bool or a number.
        if not isinstance(name, str) or not isinstance(word, str) or not word.strip():
            raise UserError(f"{path}: '{name}: {word}' is not text. Put the word in quotes.")
    return {name: " ".join(word.split()) for name, word in table.items()}
