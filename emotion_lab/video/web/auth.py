"""Access control of the web page: token, host name and origin checks, security headers."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The page loads nothing from other sites, cannot be framed, and its URL, which may contain the
#: token, is not sent as a referrer.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class AuthMiddleware:
    """Answers 403 to requests without the token and to requests from other sites.

    A malicious site can point its own host name at 127.0.0.1 (DNS rebinding) or make the user's
    browser send requests here. The Host header reveals the first, Origin and Sec-Fetch-Site, which
    browsers set and pages cannot change, the second.

    Args:
        token: Expected as ``?token=`` or in a cookie set by the first visit; None: no token.
        allowed_hosts: Accepted host names, or None to accept any.
        cookie: Cookie name. It should contain the port, because cookies are shared between ports.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, allowed_hosts: Collection[str] | None, cookie: str
    ) -> None:
        self.app, self.token, self.cookie = app, token, cookie
        self.allowed_hosts = allowed_hosts

    def rejection(self, connection: HTTPConnection) -> str | None:
        """Return why a request is rejected, or None if it is accepted."""
        headers = connection.headers
        host = headers.get("host", "")
        if self.allowed_hosts is not None:
            try:
                name = urlsplit(f"//{host}").hostname
            except ValueError:
                name = None
            if name not in self.allowed_hosts:
                return "This page is available at 127.0.0.1 and localhost only."
        origin = headers.get("origin")
        other_origin = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        # Links from other sites are allowed; images, scripts and forms are not.
        other_site = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if other_origin or (other_site and headers.get("sec-fetch-mode") != "navigate"):
            return "Requests from other sites are refused."
        if self.token is not None:
            expected = self.token.encode()
            query = connection.query_params.get("token", "").encode()
            cookie = connection.cookies.get(self.cookie, "").encode()
            if not (hmac.compare_digest(query, expected) or hmac.compare_digest(cookie, expected)):
                return "Open the address with ?token=<the value of web.token>."
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = self.rejection(HTTPConnection(scope))
        app = self.app if reason is None else PlainTextResponse(reason + "\n", 403)
        await app(scope, receive, send_with_headers)
