"""HTTP routes of the web page. Every response is JSON, a file, or a frame."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from emotion_lab.core.errors import UserError
from emotion_lab.video.enrolment import ENROL_S
from emotion_lab.video.web.auth import AuthMiddleware
from emotion_lab.video.web.session_thread import GRID_S, WebSession, tiles
from emotion_lab.video.web.sessions import (
    MAIN,
    ClientSession,
    SessionManager,
    describe,
    make_temp_dir,
)
from emotion_lab.video.web.uploads import safe_filename

STATIC = Path(__file__).parent
_SCRIPTS = ("page.js", "grid.js", "timeline.js", "uploads.js")
_MEDIA_TYPES = {"page.css": "text/css", **dict.fromkeys(_SCRIPTS, "text/javascript")}
#: How long a request waits for the next frame; the page then asks again.
WAIT_S = 10.0
UPLOAD_LIMIT, FRAME_LIMIT = 2**30, 8 * 2**20  # bytes


class BodyTooLargeError(UserError):
    """Request body over the size limit."""


async def _body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the request body, up to ``limit`` bytes."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLargeError(f"The file is too large: the limit is {limit // 2**20} MiB.")
        yield part


def complete_lines(path: Path) -> Iterator[bytes]:
    """Yield the file up to its last newline; the last line may still be incomplete."""
    with path.open("rb") as file:
        remaining = path.stat().st_size
        incomplete = b""
        while remaining > 0 and (part := file.read(min(remaining, 1 << 16))):
            remaining -= len(part)
            lines, newline, incomplete = (incomplete + part).rpartition(b"\n")
            yield lines + newline


class Routes:
    """Request handlers."""

    def __init__(
        self, manager: SessionManager, shut_down: Callable[[], None], token: str | None, cookie: str
    ) -> None:
        self.manager, self.shut_down = manager, shut_down
        self.token, self.cookie = token, cookie

    def _session(self, request: Request) -> WebSession:
        return self.manager.get(request.query_params.get("view", MAIN))

    @staticmethod
    def _on(request: Request) -> bool:
        value = request.query_params.get("on", "1")
        if value not in ("0", "1"):
            raise UserError(f"on={value[:20]} is not valid: expected 0 or 1.")
        return value == "1"

    async def page(self, request: Request) -> Response:
        """``GET /``: the page; stores the token in a cookie."""
        response = FileResponse(STATIC / "page.html", media_type="text/html")
        if self.token is not None:
            response.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return response

    async def static(self, request: Request) -> Response:
        """``GET /page.css`` and the scripts."""
        name = request.url.path.lstrip("/")
        return FileResponse(STATIC / name, media_type=_MEDIA_TYPES[name])

    async def about(self, request: Request) -> Response:
        """``GET /api/about``: classes, labels, colours, detector and backend."""
        manager = self.manager
        return JSONResponse(describe(manager.pipeline, manager.overlay, list(manager.mains)))

    async def next(self, request: Request) -> Response:
        """``GET /api/next?view=&after=``: the latest frame, once it is newer than ``after``.

        A browser gets the latest frame when it asks, so a slow one skips frames and delays nobody.
        The response is 204 after :data:`WAIT_S` without a new frame, else the length of the JSON
        as a big-endian uint32, the JSON, and the JPEG.
        """
        session = self._session(request)
        try:
            after = int(request.query_params.get("after", -1))
        except ValueError:
            raise UserError("after is not valid: expected a whole number.") from None
        session.requested_at = session.shown_at = time.monotonic()
        version = session.version
        if not self.manager.closing:
            version = await session.wait_for_change(after, WAIT_S)
        session.requested_at = session.shown_at = time.monotonic()
        if version == after:
            return Response(status_code=204)
        row, jpeg = await run_in_threadpool(session.latest)
        status = {**session.status(), "version": version, "row": row}
        data = json.dumps(status, ensure_ascii=False).encode()
        content = struct.pack(">I", len(data)) + data + jpeg
        return Response(content, media_type="application/octet-stream")

    async def grid(self, request: Request) -> Response:
        """``GET /api/grid?after=``: the latest frames of all main views that changed.

        ``after`` lists the versions that the page shows, in the order of the views, separated by
        commas. The response is 204 after :data:`WAIT_S` without a change, else the length of the
        JSON as a big-endian uint32, the JSON (``views``: as of ``/api/next``, with ``bytes``, the
        length of its JPEG; 0 if it is the same), and the JPEGs.
        """
        sessions = list(self.manager.mains.values())
        try:
            after = [int(text) for text in request.query_params.get("after", "").split(",") if text]
        except ValueError:
            raise UserError("after is not valid: expected whole numbers.") from None
        after += [-1] * (len(sessions) - len(after))
        deadline = time.monotonic() + WAIT_S
        while all(s.version == known for s, known in zip(sessions, after, strict=False)):
            if time.monotonic() > deadline or self.manager.closing:
                return Response(status_code=204)
            await asyncio.sleep(GRID_S / 2)
        views, jpegs = await run_in_threadpool(tiles, sessions, after)
        data = json.dumps({"views": views}, ensure_ascii=False).encode()
        content = b"".join([struct.pack(">I", len(data)), data, *jpegs])
        return Response(content, media_type="application/octet-stream")

    async def pause(self, request: Request) -> Response:
        """``POST /api/pause?view=&on=``."""
        session = self._session(request)
        session.pause(self._on(request))
        return JSONResponse({"state": session.state})

    async def enrol(self, request: Request) -> Response:
        """``POST /api/enrol?view=``: measure the neutral faces during the next seconds."""
        self._session(request).runner.pipeline.enrol()
        return JSONResponse({"seconds": ENROL_S})

    async def snapshot(self, request: Request) -> Response:
        """``POST /api/snapshot?view=``: save a PNG in the run directory."""
        return JSONResponse({"file": await run_in_threadpool(self._session(request).snapshot)})

    async def record(self, request: Request) -> Response:
        """``POST /api/record?view=&on=``: record an MP4 in the run directory."""
        session, on = self._session(request), self._on(request)
        if on and session.over:
            raise UserError("Cannot record: this view has ended.")
        return JSONResponse({"file": await run_in_threadpool(session.record, on)})

    async def rows(self, request: Request) -> Response:
        """``GET /api/rows?view=``: all JSON lines so far, without pixels."""
        session = self._session(request)
        name = quote(session.name)  # of a file, perhaps not in Latin letters
        return StreamingResponse(
            complete_lines(session.rows),
            media_type="application/x-ndjson",
            headers={"content-disposition": f"attachment; filename*=utf-8''{name}.jsonl"},
        )

    async def file(self, request: Request) -> Response:
        """``GET /api/file/<name>``: a snapshot or recording made from the page."""
        name = request.path_params["name"]
        path = self.manager.saved_file(name)
        if path is None or not path.is_file():
            return JSONResponse({"error": "File not found."}, 404)
        return FileResponse(path, filename=name)

    async def upload(self, request: Request) -> Response:
        """``POST /api/upload?name=`` with the file as body: start a session of a photo or clip."""
        name = safe_filename(request.query_params.get("name", ""))
        temp_dir = make_temp_dir()
        path = Path(temp_dir.name) / f"upload-{name}"
        try:
            with path.open("wb") as file:
                async for part in _body(request, UPLOAD_LIMIT):
                    await run_in_threadpool(file.write, part)
        except BaseException as error:
            temp_dir.cleanup()
            if isinstance(error, OSError):
                raise UserError(f"Cannot store {name}: {error.strerror}.") from error
            raise
        session = await run_in_threadpool(self.manager.add_upload, path, name, temp_dir)
        return JSONResponse({"view": session.name, "name": name})

    async def camera(self, request: Request) -> Response:
        """``POST /api/camera``: start a session of the browser's camera."""
        session = await run_in_threadpool(self.manager.add_camera)
        return JSONResponse({"view": session.name})

    async def camera_frame(self, request: Request) -> Response:
        """``POST /api/camera/<view>`` with a JPEG as body: the next camera frame."""
        data = b"".join([part async for part in _body(request, FRAME_LIMIT)])
        await run_in_threadpool(self.manager.camera_frame, request.path_params["view"], data)
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        """``POST /api/stop?view=``: close a client session, or with ``live`` end the program."""
        session = self._session(request)
        if isinstance(session, ClientSession):
            await run_in_threadpool(self.manager.close_client, session)
        else:
            self.shut_down()
        return JSONResponse({})


async def _user_error(request: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, BodyTooLargeError) else 400
    return JSONResponse({"error": str(error)}, status)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    """End a request whose browser went away while sending; nobody receives the response."""
    return Response(status_code=400)


async def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("Not found.\n", 404)


def build_app(
    manager: SessionManager,
    shut_down: Callable[[], None],
    token: str | None,
    allowed_hosts: Collection[str] | None,
    port: int,
) -> Starlette:
    """Build the ASGI application.

    Args:
        shut_down: Called when the user ends the program from the page.
        allowed_hosts: Accepted host names, or None to accept any.
    """
    cookie = f"emotion_lab_{port}"
    routes = Routes(manager, shut_down, token, cookie)
    get, post = partial(Route, methods=["GET"]), partial(Route, methods=["POST"])
    return Starlette(
        routes=[
            get("/", routes.page),
            *(get(f"/{name}", routes.static) for name in _MEDIA_TYPES),
            get("/api/about", routes.about),
            get("/api/next", routes.next),
            get("/api/grid", routes.grid),
            get("/api/rows", routes.rows),
            get("/api/file/{name}", routes.file),
            post("/api/pause", routes.pause),
            post("/api/enrol", routes.enrol),
            post("/api/snapshot", routes.snapshot),
            post("/api/record", routes.record),
            post("/api/upload", routes.upload),
            post("/api/camera", routes.camera),
            post("/api/camera/{view}", routes.camera_frame),
            post("/api/stop", routes.stop),
        ],
        middleware=[
            Middleware(AuthMiddleware, token=token, allowed_hosts=allowed_hosts, cookie=cookie)
        ],
        exception_handlers={
            UserError: _user_error,
            ClientDisconnect: _client_disconnected,
            404: _not_found,
        },
    )
