"""``display=web``: serve the page until Ctrl-C, or Stop on the page."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner

_OWN = ("127.0.0.1", "localhost", "::1")
_NEEDED = ("starlette", "uvicorn")
#: A page that is open learns why before the server goes.
_GRACE_S = 1.0


def check_installed() -> None:
    """Look for what only this display needs.

    Raises:
        UserError: If it is not installed.
    """
    import importlib

    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"display=web needs {name}, which is not installed: pip install "
                f"{' '.join(_NEEDED)}, or set display=window or display=none."
            ) from None


def _free_port(family: int, host: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def open_socket(host: str, port: int) -> socket.socket:
    """Take the address, before anything else is started.

    Args:
        host: Name or number of one of this machine's addresses.
        port: 0 takes any free one.

    Raises:
        UserError: If it is taken, not allowed, or no address of this machine.
    """
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"web.host={host} web.port={port} is no address: set for instance "
            "web.host=127.0.0.1 web.port=8080."
        ) from error
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share a port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(place)
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"Port {port} is taken by another program: set "
                f"web.port={_free_port(family, place[0])}."
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(f"Port {port} is not open to this user: set web.port=8080.") from error
        raise UserError(
            f"web.host={host} is no address of this machine ({error.strerror}): set "
            "web.host=127.0.0.1, or 0.0.0.0 for all of them."
        ) from error
    return server


def address(host: str, port: int, token: str | None) -> str:
    """Return what to open in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def take(cfg: dict[str, Any]) -> socket.socket:
    """Take the address of the ``web`` group, before anything slow is loaded.

    Raises:
        UserError: For an address that cannot be used, or a library that is missing.
    """
    check_installed()
    host = str(cfg["host"])
    if host not in _OWN and cfg["token"] in (None, ""):
        raise UserError(
            f"web.host={host} lets others see the page: set a secret, web.token=<word>, or "
            "web.host=127.0.0.1."
        )
    return open_socket(host, int(cfg["port"]))


def serve(
    session: PipelineRunner, cfg: dict[str, Any], run_dir: Path, taken: socket.socket | None = None
) -> None:
    """Run ``session`` on a thread and show it on a page until the user ends it.

    The page stays when a clip has ended, so that results can be looked at and fetched.

    Args:
        session: Not run yet, with an overlay.
        cfg: The ``web`` group: ``host``, ``port``, ``token``.
        run_dir: Where snapshots, recordings and, without ``log=``, ``live.jsonl`` go.
        taken: What :func:`take` returned, if it was called before; it is closed.

    Raises:
        UserError: As :func:`take`, and for what ended the session, such as a camera that went away.
    """
    token = None if cfg["token"] in (None, "") else str(cfg["token"])
    with taken or take(cfg) as server:
        _serve(session, server, str(cfg["host"]), token, run_dir)


def _serve(
    session: PipelineRunner, taken: socket.socket, host: str, token: str | None, run_dir: Path
) -> None:
    import uvicorn

    from emotion_lab.video.web.routes import build_app
    from emotion_lab.video.web.session_thread import WebSession
    from emotion_lab.video.web.sessions import SessionManager

    class Server(uvicorn.Server):
        """Lets waiting requests go first, and leaves the process to us after a signal."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            hub.release()
            await super().shutdown(sockets)

    def leave() -> None:
        server.should_exit = True

    def ended(show: WebSession) -> None:
        if show.error is not None:
            time.sleep(_GRACE_S)
            leave()

    hub = SessionManager(session, run_dir, ended)
    port = taken.getsockname()[1]
    app = build_app(hub, leave, token, host in _OWN, port)
    settings = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = Server(settings)
    print(f"page: {address(host, port, token)} (Ctrl-C ends)", flush=True)
    try:
        hub.main.start()
        server.run([taken])
    except KeyboardInterrupt:  # before the server took over the signal
        pass
    finally:
        hub.close()
        if session.report.frames:
            print("\n".join(session.report.lines(session.source.stills)))
        print(f"rows: {hub.main.rows}")
        print(run_dir, flush=True)
    error = hub.main.error
    if error is not None:
        raise error
