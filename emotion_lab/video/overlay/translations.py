"""The words of the overlay in the user's language; files and logs keep the class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from emotion_lab.core.errors import UserError, unknown

FOLDER = Path(__file__).parent / "languages"
_STATES = {"uncertain": "uncertain", "no_face": "no face", "paused": "paused"}


@dataclass(frozen=True)
class Translations:
    """What is written on a picture.

    Attributes:
        language: The code or the file they came from.
        labels: One word for each class, in class order.
        uncertain: Written instead of a label.
        no_face: Written when a frame holds no face.
        paused: Written while the picture stands still.
        notes: Lines the user should read, such as the names that are missing.
    """

    language: str
    labels: tuple[str, ...]
    uncertain: str = _STATES["uncertain"]
    no_face: str = _STATES["no_face"]
    paused: str = _STATES["paused"]
    notes: tuple[str, ...] = field(default=())

    def label(self, index: int | None) -> str:
        """Return the word of a class, or the one for "uncertain" where ``index`` is None."""
        return self.uncertain if index is None else self.labels[index]

    def every(self) -> tuple[str, ...]:
        """Return all words, for instance to find a font that has their letters."""
        return (*self.labels, self.uncertain, self.no_face, self.paused)


def languages() -> list[str]:
    """Return the codes of the languages that ship with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def english(classes: Sequence[str], notes: Sequence[str] = ()) -> Translations:
    """Return the class names themselves and the English words."""
    return Translations("en", tuple(classes), notes=tuple(notes))


def load_words(language: str, classes: Sequence[str]) -> Translations:
    """Read the words of a language.

    Args:
        language: A code of :func:`languages`, or a YAML or JSON file of ``class name: word``
            (and ``uncertain``, ``no_face``, ``paused``).
        classes: Class names in the checkpoint's order.

    Returns:
        The words. A name the file lacks keeps its English one, and ``notes`` lists those once.

    Raises:
        UserError: For a language that does not exist, or a file that is no such table.
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
    table = _table(path)
    missing = [name for name in (*classes, *_STATES) if name not in table]
    if language == "en":
        missing = []  # a class of the user's own is written as it is called
    notes = (
        [f"language={language} has no word for {', '.join(missing)}: written in English."]
        if missing
        else []
    )
    return Translations(
        language,
        tuple(table.get(name, name) for name in classes),
        **{name: table.get(name, word) for name, word in _STATES.items()},
        notes=tuple(notes),
    )


def _table(path: Path) -> dict[str, str]:
    """Read ``name: word`` pairs; JSON is YAML too."""
    expected = f"{path} is no table of 'class name: word' lines."
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{expected} Mend it or set language=<code>. ({reason})") from error
    if not isinstance(table, dict):
        raise UserError(f"{expected} Mend it or set language=<code>.")
    for name, word in table.items():
        # YAML reads a bare no or 12 as something else than text.
        if not isinstance(name, str) or not isinstance(word, str) or not word.strip():
            raise UserError(f"{path}: '{name}: {word}' is no word. Write it in quotes.")
    return {name: " ".join(word.split()) for name, word in table.items()}
