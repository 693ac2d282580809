"""Results of many files: ``predictions.jsonl`` and a table of the files, ``files.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import replaced_file, to_bytes, write_json
from emotion_lab.video.batch.base import FileResult
from emotion_lab.video.sinks.base import new_file
from emotion_lab.video.sinks.jsonl import LineWriter
from emotion_lab.video.types import Closeable

LOG, TABLE, MODEL = "predictions.jsonl", "files.csv", "model.json"
COLUMNS = ("source", "rows", "with_face", "faces", "error", "notes")


def _csv_line(values: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return to_bytes(text.getvalue())


def _records(table: Path) -> Iterator[dict[str, str]]:
    """Yield the complete lines of ``files.csv``."""
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for record in csv.DictReader(file):
            if None not in record.values():
                yield record


def keep_model(folder: Path, resume: bool, model: dict[str, str]) -> None:
    """Write what gives the results, and with ``resume`` check that it gave the earlier ones.

    The config does not name it: ``detector=auto`` depends on the files of the machine, and a
    checkpoint can be replaced.

    Args:
        model: Config key -> what it stands for now.
    """
    file = folder / MODEL
    if resume and file.is_file():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        for key, value in model.items():
            if earlier[key] != value:
                raise UserError(
                    f"resume=true: the results in {folder} are of {key} {earlier[key]}, now it is "
                    f"{value}. Set {key}= as before, or out=<a new folder>."
                )
    write_json(file, model)


def keep_whole(folder: Path) -> set[str]:
    """Remove the rows of broken and half-written files from the results of an earlier run.

    Returns:
        The names of the files whose rows remain.

    Raises:
        UserError: If there are no such results, or the two files do not belong together.
    """
    log, table = folder / LOG, folder / TABLE
    if not (log.is_file() and table.is_file()):
        raise UserError(
            f"resume=true: {folder} lacks {LOG} or {TABLE} of an interrupted run. Set out=<its "
            "folder>, or leave resume=true out."
        )
    done: set[str] = set()
    try:
        with (
            replaced_file(log) as new_log,
            replaced_file(table) as new_table,
            log.open("rb") as rows,
            new_log.open("wb") as kept,
            new_table.open("wb") as names,
        ):
            names.write(_csv_line(COLUMNS))
            for record in _records(table):
                lines = [rows.readline() for _ in range(int(record["rows"]))]
                _check_source(lines, record["source"], log)
                if not record["error"] and record["source"] not in done:
                    kept.writelines(lines)
                    names.write(_csv_line(tuple(record[name] for name in COLUMNS)))
                    done.add(record["source"])
    except OSError as error:
        raise UserError(f"resume=true: cannot rewrite {log}: {error.strerror}.") from None
    return done


def _check_source(lines: list[bytes], source: str, log: Path) -> None:
    try:
        if lines and json.loads(lines[0])["source"] == source and lines[-1].endswith(b"\n"):
            return
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"resume=true: {log} and {TABLE} do not belong together (rows of {source!r}). Set "
        "out=<a new folder>."
    )


class ResultFiles(Closeable):
    """Appends the rows of each file to ``predictions.jsonl``, then a line to ``files.csv``.

    A file is whole if it has a line in ``files.csv``.

    Args:
        resume: Keep the whole files of an earlier run.
        overwrite: Replace the results of an earlier run.

    Attributes:
        done: Names of the files that are whole.
        broken: Name -> reason of the broken files.
    """

    def __init__(self, folder: Path, resume: bool = False, overwrite: bool = False) -> None:
        self.done = keep_whole(folder) if resume else set()
        self.broken: dict[str, str] = {}
        log, table = (new_file(folder / name, overwrite or resume) for name in (LOG, TABLE))
        self.log = LineWriter(log, overwrite, append=resume)
        self._table = LineWriter(table, overwrite, append=resume)
        if not resume:
            self._table.append(_csv_line(COLUMNS))

    def write(self, result: FileResult) -> bool:
        """Append the results of one file; return False for a file that is whole already."""
        if result.name in self.done:
            return False
        self.log.append(result.lines, result.rows)
        counts = (result.rows, result.with_face, result.faces)
        notes = "; ".join(result.notes)
        self._table.append(_csv_line((result.name, *counts, result.error or "", notes)))
        self.done.add(result.name)
        if result.error is not None:
            self.broken[result.name] = result.error
        return True

    def close(self) -> None:
        """Close both files."""
        self.log.close()
        self._table.close()
