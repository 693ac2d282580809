"""Function calls and connections with a time limit."""

from __future__ import annotations

import http.client
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 10.0  # of one read or connect
DEADLINE_S = 15.0  # of the whole connection


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


def open_url(url: str, deadline_s: float | None = None) -> http.client.HTTPResponse:
    """Open ``url``.

    Args:
        url: Address.
        deadline_s: Seconds to wait for the connection; None: :data:`DEADLINE_S`.

    Raises:
        OSError: If the connection fails, or there is none in time (TimeoutError).
    """
    deadline_s = DEADLINE_S if deadline_s is None else deadline_s
    timeout_s = min(TIMEOUT_S, deadline_s)
    return call_with_timeout(lambda: urllib.request.urlopen(url, timeout=timeout_s), deadline_s)
