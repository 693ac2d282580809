"""Keep the console output of a run in a file."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from emotion_lab.core.errors import UserError

#: Escape sequence of a colour or style.
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class _Tee:
    """Text stream that writes to another stream and, without colours, to a log file."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        """Write to both."""
        if not self.log.closed:
            self.log.write(_STYLE.sub("", text))
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def console_log(path: Path) -> Iterator[None]:
    """Append all that is printed to stdout and stderr to a file, and the error that ends it."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (cast(TextIO, _Tee(stream, log)) for stream in streams)
        try:
            yield
        except BaseException as error:
            log.write(f"{error}\n" if isinstance(error, UserError) else traceback.format_exc())
            raise
        finally:
            sys.stdout, sys.stderr = streams


def without_log(stream: TextIO) -> TextIO:
    """Return the stream below a log, for output such as a progress bar."""
    return stream.stream if isinstance(stream, _Tee) else stream


def with_log_of(stream: TextIO, replacement: TextIO) -> TextIO:
    """Return ``replacement``, with the log of ``stream`` if that has one."""
    if isinstance(stream, _Tee) and replacement is not stream:
        return cast(TextIO, _Tee(replacement, stream.log))
    return replacement
