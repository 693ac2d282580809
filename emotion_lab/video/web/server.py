"""``display=web``: serves the page until Ctrl-C or Stop on the page."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from emotion_lab.core.errors import UserError
from emotion_lab.video.multi_runner import LoadMonitor, print_error, raise_errors
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.web.address import LOCAL_HOSTS, check_secret

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from emotion_lab.video.web.session_thread import WebSession
    from emotion_lab.video.web.sessions import SessionManager

_REQUIRED = ("starlette", "uvicorn")
#: After an error, open pages can fetch the message before the server stops.
_ERROR_GRACE_S = 1.0


def _check_installed() -> None:
    for name in _REQUIRED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(
                f"display=web needs {name}, which is not installed: pip install "
                f"{' '.join(_REQUIRED)}, or set display=window or display=none."
            ) from None


def _free_port(family: int, host: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def open_socket(host: str, port: int) -> socket.socket:
    """Bind and listen; port 0 selects a free one."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"web.host={host} web.port={port} is not a valid address: set for instance "
            "web.host=127.0.0.1 web.port=8080."
        ) from error
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows this option allows two programs on one port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(128)
    except OSError as error:
        server.close()
        if error.errno == errno.EADDRINUSE:
            free_port = _free_port(family, str(address[0]))
            raise UserError(
                f"Port {port} is in use by another program: set web.port={free_port}."
            ) from error
        if error.errno == errno.EACCES:
            raise UserError(f"No permission to use port {port}: set web.port=8080.") from error
        raise UserError(
            f"web.host={host} is not an address of this machine ({error.strerror}): set "
            "web.host=127.0.0.1, or 0.0.0.0 for all its addresses."
        ) from error
    return server


def page_url(host: str, port: int, token: str | None) -> str:
    """Return the URL to open in a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def bind(cfg: dict[str, Any]) -> socket.socket:
    """Check the ``web`` group and bind its address, before anything slow is loaded."""
    _check_installed()
    check_secret(cfg)
    return open_socket(str(cfg["host"]), int(cfg["port"]))


def _make_server(app: Starlette, on_shutdown: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Wakes waiting requests on shutdown; does not re-raise signals."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            on_shutdown()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )


def serve(
    runners: Mapping[str, PipelineRunner],
    cfg: dict[str, Any],
    run_dir: Path,
    server_socket: socket.socket,
) -> None:
    """Run each pipeline in a thread and serve the page until the user ends it.

    The page stays available after the end of a video, so that results can be viewed and fetched.
    An error that ends the only session, such as a disconnected camera, is raised at once; of
    several sessions when all have failed, or at the end.

    Args:
        runners: By the name of the source; not started yet, with an overlay and a JSON lines sink.
        cfg: The ``web`` group: ``host``, ``port``, ``token``.
        run_dir: Output folder of snapshots and recordings.
        server_socket: From :func:`bind`; not closed here.
    """
    from emotion_lab.video.web.routes import build_app
    from emotion_lab.video.web.sessions import SessionManager

    def shut_down() -> None:
        server.should_exit = True

    def on_end(session: WebSession) -> None:
        if session.error is None:
            return
        sessions = manager.mains.values()
        if len(sessions) > 1:
            print_error(session.name, session.error)
        if all(one.error is not None for one in sessions):
            time.sleep(_ERROR_GRACE_S)
            shut_down()

    token = None if cfg["token"] in (None, "") else str(cfg["token"])
    host, port = str(cfg["host"]), server_socket.getsockname()[1]
    manager = SessionManager(runners, run_dir, on_end)
    allowed_hosts = LOCAL_HOSTS if host in LOCAL_HOSTS else None
    app = build_app(manager, shut_down, token, allowed_hosts, port)
    server = _make_server(app, manager.release)
    print(f"page: {page_url(host, port, token)} (Ctrl-C ends)", flush=True)
    monitor = LoadMonitor(runners, paced=True)
    try:
        for session in manager.mains.values():
            session.start()
        if len(runners) > 1:
            monitor.start()
        server.run([server_socket])
    except KeyboardInterrupt:  # before uvicorn installed its signal handler
        pass
    finally:
        monitor.close()
        manager.close()
        _print_results(manager)
        print(run_dir, flush=True)
    errors = {name: s.error for name, s in manager.mains.items() if s.error is not None}
    if len(runners) > 1:
        raise_errors(errors, len(runners))
    elif manager.main.error is not None:
        raise manager.main.error


def _print_results(manager: SessionManager) -> None:
    """Print the counters and the file of the rows of every main session."""
    for name, session in manager.mains.items():
        runner, prefix = session.runner, f"{name}: " if len(manager.mains) > 1 else ""
        if runner.stats.frames:
            lines = runner.stats.summary_lines(runner.source.stills)
            print(prefix + "; ".join(lines) if prefix else "\n".join(lines))
        print(f"{prefix}rows: {session.rows}")
