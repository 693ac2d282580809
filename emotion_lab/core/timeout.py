"""Function calls with a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def call_with_timeout(function: Callable[[], Any], seconds: float) -> Any:
    """Return ``function()``, for network access: a DNS lookup has no timeout of its own.

    The call runs in a daemon thread, so that one that hangs does not block the exit of the program.

    Raises:
        TimeoutError: If there is no result after ``seconds``.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(function())
        except Exception as error:  # raised again in the waiting thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return results[0]
