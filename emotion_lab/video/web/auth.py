"""Who may see the page: every request passes here, and no answer may be used by another site."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What a browser calls this machine when the page is for this machine only.
OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
#: The page needs nothing from elsewhere, nobody may frame it, and its address, which may hold the
#: token, is told to no other site.
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


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


class AuthMiddleware:
    """Answers 403 to whoever lacks the token or comes from another site.

    A site the user visits may point its own name at 127.0.0.1 (DNS rebinding) or send requests
    here from the user's browser: the first shows in the Host header, the second in Origin and
    Sec-Fetch-Site, which browsers set and pages cannot.

    Args:
        app: Answers the rest.
        token: Asked for as ``?token=`` or in a cookie, which the first visit sets; None asks for
            none.
        own_only: Whether only this machine's own names are accepted as Host.
        cookie: Name of the cookie; cookies do not tell ports apart, so it should.
    """

    def __init__(self, app: ASGIApp, token: str | None, own_only: bool, cookie: str) -> None:
        self.app, self.token, self.own_only, self.cookie = app, token, own_only, cookie

    def refusal(self, connection: HTTPConnection) -> str | None:
        """Say why a request may not pass, None if it may."""
        headers: Headers = connection.headers
        host = headers.get("host", "")
        if self.own_only:
            try:
                name = urlsplit(f"//{host}").hostname
            except ValueError:
                name = None
            if name not in OWN_NAMES:
                return "This page answers to 127.0.0.1 and localhost only."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "Requests from other sites are refused."
        # A link to the page is fine; a picture, script or form of another site is not.
        other = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if other and headers.get("sec-fetch-mode") != "navigate":
            return "Requests from other sites are refused."
        if self.token is not None:
            query = connection.query_params.get("token", "")
            cookie = connection.cookies.get(self.cookie, "")
            if not (_same(query, self.token) or _same(cookie, self.token)):
                return "Open the address with ?token=<the token web.token was set to>."
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] != "http":
            return
        connection = HTTPConnection(scope)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        reason = self.refusal(connection)
        if reason is not None:
            await PlainTextResponse(reason + "\n", 403)(scope, receive, sealed)
        else:
            await self.app(scope, receive, sealed)
