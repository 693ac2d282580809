"""The addresses behind the page. Every answer is plain JSON, a file, or a frame."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from emotion_lab.core.errors import UserError
from emotion_lab.video.web.auth import AuthMiddleware
from emotion_lab.video.web.session_thread import WebSession
from emotion_lab.video.web.sessions import MAIN, SessionManager, plain_name, temporary

STATIC = Path(__file__).parent
_KINDS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "timeline.js": "text/javascript",
    "uploads.js": "text/javascript",
}
#: Of a request that waits for the next frame; the page then asks again.
WAIT_S = 10.0
UPLOAD_LIMIT, FRAME_LIMIT = 2**30, 8 * 2**20  # bytes


class TooLarge(UserError):
    """More was sent than is taken."""


async def _body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield what a browser sends, up to ``limit`` bytes.

    Raises:
        TooLarge: Beyond that.
    """
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"That is too large: up to {limit // 2**20} MiB are taken.")
        yield part


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the file up to its last whole line; a line may be in the making."""
    with path.open("rb") as file:
        left = path.stat().st_size
        rest = b""
        while left > 0 and (part := file.read(min(left, 1 << 16))):
            left -= len(part)
            lines, newline, rest = (rest + part).rpartition(b"\n")
            yield lines + newline


class Routes:
    """Answers requests about the shows of ``hub``.

    Args:
        hub: Keeps the shows.
        leave: Called to end the program.
        token: Of the guard, None if there is none.
        cookie: Name of the cookie that keeps it.
    """

    def __init__(
        self, hub: SessionManager, leave: Callable[[], None], token: str | None, cookie: str
    ) -> None:
        self.hub, self.leave, self.token, self.cookie = hub, leave, token, cookie

    def _show(self, request: Request) -> WebSession:
        return self.hub.show(request.query_params.get("view", MAIN))

    @staticmethod
    def _on(request: Request) -> bool:
        value = request.query_params.get("on", "1")
        if value not in ("0", "1"):
            raise UserError(f"on={value[:20]} is not valid: expected 0 or 1.")
        return value == "1"

    async def page(self, request: Request) -> Response:
        """``GET /``: the page; keeps the token in a cookie."""
        response = FileResponse(STATIC / "page.html", media_type="text/html")
        if self.token is not None:
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return response

    async def static(self, request: Request) -> Response:
        """``GET /page.css`` and the scripts."""
        name = request.url.path.lstrip("/")
        return FileResponse(STATIC / name, media_type=_KINDS[name])

    async def about(self, request: Request) -> Response:
        """``GET /api/about``: classes, words, colours and what runs."""
        return JSONResponse(self.hub.about())

    async def next(self, request: Request) -> Response:
        """``GET /api/next?view=&after=``: wait for something newer than ``after``.

        A browser gets a frame when it asks, and always the newest: one that is slow skips some
        and delays nobody. 204 after :data:`WAIT_S` without news, else the length of the JSON as
        a big-endian uint32, the JSON, the JPEG.
        """
        show = self._show(request)
        view = show.view
        try:
            after = int(request.query_params.get("after", -1))
        except ValueError:
            raise UserError("after is not valid: expected a whole number.") from None
        view.asked = time.monotonic()
        count = view.bell.count if self.hub.closing else await view.bell.after(after, WAIT_S)
        view.asked = time.monotonic()
        if count == after:
            return Response(status_code=204)
        row, picture = await run_in_threadpool(view.newest)
        text = json.dumps({**show.status(), "version": count, "row": row}, ensure_ascii=False)
        data = text.encode()
        return Response(
            struct.pack(">I", len(data)) + data + picture, media_type="application/octet-stream"
        )

    async def pause(self, request: Request) -> Response:
        """``POST /api/pause?view=&on=``."""
        show = self._show(request)
        show.pause(self._on(request))
        return JSONResponse({"state": show.state})

    async def snapshot(self, request: Request) -> Response:
        """``POST /api/snapshot?view=``: a PNG in the run folder."""
        return JSONResponse({"file": await run_in_threadpool(self._show(request).view.snapshot)})

    async def record(self, request: Request) -> Response:
        """``POST /api/record?view=&on=``: an MP4 in the run folder."""
        show, on = self._show(request), self._on(request)
        if on and show.over:
            raise UserError("There is nothing more to record: this view has ended.")
        return JSONResponse({"file": await run_in_threadpool(show.view.record, on)})

    async def rows(self, request: Request) -> Response:
        """``GET /api/rows?view=``: all JSON lines so far; they hold no pixels."""
        show = self._show(request)
        return StreamingResponse(
            whole_lines(show.rows),
            media_type="application/x-ndjson",
            headers={"content-disposition": f'attachment; filename="{show.title}.jsonl"'},
        )

    async def file(self, request: Request) -> Response:
        """``GET /api/file/<name>``: a snapshot or recording made from the page."""
        name = request.path_params["name"]
        path = self.hub.saved(name)
        if path is None or not path.is_file():
            return JSONResponse({"error": "There is no such file."}, 404)
        return FileResponse(path, filename=name)

    async def upload(self, request: Request) -> Response:
        """``POST /api/upload?name=``, the file as the body: a view of a photo or clip."""
        name = plain_name(request.query_params.get("name", ""))
        folder = temporary()
        path = Path(folder.name) / f"given-{name}"
        try:
            with path.open("wb") as file:
                async for part in _body(request, UPLOAD_LIMIT):
                    await run_in_threadpool(file.write, part)
        except OSError as error:
            folder.cleanup()
            raise UserError(f"No room for {name}: {error.strerror}.") from error
        except BaseException:
            folder.cleanup()
            raise
        show = await run_in_threadpool(self.hub.upload, path, name, folder)
        return JSONResponse({"view": show.title, "name": name})

    async def camera(self, request: Request) -> Response:
        """``POST /api/camera``: a view for the page's own camera."""
        show = await run_in_threadpool(self.hub.camera)
        return JSONResponse({"view": show.title})

    async def camera_frame(self, request: Request) -> Response:
        """``POST /api/camera/<view>``: a JPEG of it."""
        data = b"".join([part async for part in _body(request, FRAME_LIMIT)])
        await run_in_threadpool(self.hub.camera_frame, request.path_params["view"], data)
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        """``POST /api/stop?view=``: end a visitor's view, or with ``live`` the program."""
        show = self._show(request)
        if show is self.hub.main:
            self.leave()
        else:
            await run_in_threadpool(self.hub.leave, show)
        return JSONResponse({})


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLarge) else 400)


async def _missing(request: Request, error: Exception) -> Response:
    return PlainTextResponse("There is nothing here.\n", 404)


def build_app(
    hub: SessionManager, leave: Callable[[], None], token: str | None, own_only: bool, port: int
) -> Starlette:
    """Put the pages behind the guard.

    Args:
        hub: Keeps the shows.
        leave: Called when the user ends the program from the page.
        token: Asked for, None if not.
        own_only: Whether the page is for this machine only.
        port: It is served at.
    """
    cookie = f"emotion_lab_{port}"
    pages = Routes(hub, leave, token, cookie)
    get, post = partial(Route, methods=["GET"]), partial(Route, methods=["POST"])
    return Starlette(
        routes=[
            get("/", pages.page),
            *(get(f"/{name}", pages.static) for name in _KINDS),
            get("/api/about", pages.about),
            get("/api/next", pages.next),
            get("/api/rows", pages.rows),
            get("/api/file/{name}", pages.file),
            post("/api/pause", pages.pause),
            post("/api/snapshot", pages.snapshot),
            post("/api/record", pages.record),
            post("/api/upload", pages.upload),
            post("/api/camera", pages.camera),
            post("/api/camera/{view}", pages.camera_frame),
            post("/api/stop", pages.stop),
        ],
        middleware=[Middleware(AuthMiddleware, token=token, own_only=own_only, cookie=cookie)],
        exception_handlers={UserError: _refused, 404: _missing},
    )
