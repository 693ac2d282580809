"""The address of the page, checked without importing a web server."""

from __future__ import annotations

from typing import Any

from emotion_lab.core.errors import UserError

#: Hosts that only this machine reaches.
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def check_secret(cfg: Any) -> None:
    """Refuse a page for other machines without ``web.token``; ``cfg`` is the ``web`` group."""
    host = str(cfg["host"])
    if host not in LOCAL_HOSTS and cfg["token"] in (None, ""):
        raise UserError(
            f"web.host={host} makes the page visible to others: set a secret, web.token=<word>, or "
            "web.host=127.0.0.1."
        )
