"""Manages the main sessions and the client sessions of the web page."""

from __future__ import annotations

import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.overlay.primitives import UNCERTAIN, Colour, text_colour_on
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.web.session_thread import WebSession
from emotion_lab.video.web.uploads import BrowserCameraReader, open_upload

#: Running and ended client sessions that are kept; each holds one frame in memory.
MAX_CLIENTS = 4
MAIN = "live"


class ClientSession(WebSession):
    """Session of an uploaded file or a browser camera.

    Attributes:
        temp_dir: Holds the upload and the JSON lines until the session is closed.
        camera: Receives the frames of a browser camera, else None.
    """

    temp_dir: tempfile.TemporaryDirectory[str]
    camera: BrowserCameraReader | None = None


class SessionManager:
    """All sessions of the web page, by name.

    Args:
        runners: Runners of the main sessions by the name of the source, not started yet; each
            must have an overlay and a JSON lines sink. A single one is the session ``MAIN``.
        on_end: Called in the thread of a main session after its run.

    Attributes:
        mains: The main sessions by name.
        main: The first of them.
    """

    def __init__(
        self,
        runners: Mapping[str, PipelineRunner],
        folder: Path,
        on_end: Callable[[WebSession], None] = lambda session: None,
    ) -> None:
        self.folder = folder
        self.mains: dict[str, WebSession] = {}
        for name, runner in runners.items():
            rows = next(sink.path for sink in runner.sinks if isinstance(sink, JsonlSink))
            view = MAIN if len(runners) == 1 else name
            is_tile = len(runners) > 1
            self.mains[view] = WebSession(runner, view, folder, rows, False, on_end, is_tile)
        self.main = next(iter(self.mains.values()))
        if self.main.runner.overlay is None:
            raise ValueError("the runner needs an overlay")
        self.pipeline, self.overlay = self.main.runner.pipeline, self.main.runner.overlay
        self.clients: dict[str, ClientSession] = {}
        #: Set at the end of the program, so that requests stop waiting.
        self.closing = False
        self._lock = threading.Lock()
        self._num_created = 0

    @property
    def sessions(self) -> list[WebSession]:
        """All sessions, the main sessions first."""
        return [*self.mains.values(), *self.clients.values()]

    def get(self, name: str) -> WebSession:
        """Return a session by name."""
        session = self.mains.get(name) or self.clients.get(name)
        if session is None:
            raise UserError(f"'{name[:40]}' is closed. Go back to the live view.")
        return session

    def add_upload(
        self, path: Path, name: str, temp_dir: tempfile.TemporaryDirectory[str]
    ) -> ClientSession:
        """Start a session of an uploaded photo or video.

        Args:
            path: The upload, a file in ``temp_dir``; deleted when the session ends.
        """
        try:
            source = open_upload(path, name)
        except UserError:
            temp_dir.cleanup()
            raise
        return self._add("upload", source, temp_dir, upload=path)

    def add_camera(self) -> ClientSession:
        """Start a session of a browser camera; :meth:`camera_frame` feeds it."""
        camera = BrowserCameraReader("browser camera", lambda: self.closing)
        return self._add("camera", FrameSource(camera), make_temp_dir(), camera=camera)

    def camera_frame(self, name: str, data: bytes) -> None:
        """Pass an encoded frame to a browser camera session."""
        session = self.clients.get(name)
        if session is None or session.camera is None or session.over:
            raise UserError("This camera session has ended. Start it again.")
        session.camera.put(data)

    def _add(
        self,
        kind: str,
        source: FrameSource,
        temp_dir: tempfile.TemporaryDirectory[str],
        camera: BrowserCameraReader | None = None,
        upload: Path | None = None,
    ) -> ClientSession:
        def on_end(session: WebSession) -> None:
            if upload is not None:
                upload.unlink(missing_ok=True)
            if session.error is not None and not isinstance(session.error, UserError):
                traceback.print_exception(session.error)

        with self._lock:
            try:
                self._make_room()
            except UserError:
                source.close()
                temp_dir.cleanup()
                raise
            self._num_created += 1
            while (name := f"{kind}-{self._num_created}") in self.mains:
                self._num_created += 1
            rows = Path(temp_dir.name) / "rows.jsonl"
            pipeline = self.pipeline.clone(source.stills)
            sinks = [JsonlSink(rows, pipeline.classes)]
            runner = PipelineRunner(source, pipeline, self.overlay.clone(), sinks)
            session = ClientSession(runner, name, self.folder, rows, True, on_end)
            session.temp_dir, session.camera = temp_dir, camera
            self.clients[name] = session
        session.start()
        return session

    def _make_room(self) -> None:
        """Remove the ended session that was requested least recently, if the limit is reached."""
        if len(self.clients) < MAX_CLIENTS:
            return
        ended = [session for session in self.clients.values() if session.over]
        if not ended:
            raise UserError(f"{MAX_CLIENTS} cameras or clips are open already. Close one first.")
        self._remove(min(ended, key=lambda session: session.requested_at))

    def _remove(self, session: ClientSession) -> None:
        """Delete all data of a client session except snapshots and recordings."""
        self.main.saved.update(session.saved)
        self.clients.pop(session.name, None)
        session.temp_dir.cleanup()

    def close_client(self, session: ClientSession) -> None:
        """End a client session and delete its data."""
        session.stop()
        session.join()
        with self._lock:
            if session.name in self.clients:
                self._remove(session)

    def saved_file(self, name: str) -> Path | None:
        """Return the path of a snapshot or recording made from the page, else None."""
        return next((s.saved[name] for s in self.sessions if name in s.saved), None)

    def release(self) -> None:
        """Wake all waiting requests."""
        self.closing = True
        for session in self.sessions:
            session.notify()

    def close(self) -> None:
        """End all sessions, close their files and delete client data."""
        self.release()
        for session in self.sessions:
            session.stop()
        for session in self.sessions:
            session.join()
        for client in self.clients.values():
            client.temp_dir.cleanup()


def describe(
    pipeline: Pipeline, overlay: Overlay, views: Sequence[str] = (MAIN,)
) -> dict[str, Any]:
    """Return main views, classes, labels and colours for the page, as JSON types."""

    def to_hex(colour: Colour) -> str:
        return "#{:02x}{:02x}{:02x}".format(*colour)

    translations, colours = overlay.translations, overlay.colours
    return {
        "views": list(views),
        "classes": pipeline.classes,
        "labels": list(translations.labels),
        "uncertain": translations.uncertain,
        "no_face": translations.no_face,
        "turned_away": translations.turned_away,
        "colours": [to_hex(colour) for colour in colours],
        "text_colours": [to_hex(text_colour_on(colour)) for colour in colours],
        "uncertain_colour": to_hex(UNCERTAIN),
        "uncertain_text_colour": to_hex(text_colour_on(UNCERTAIN)),
        "detector": pipeline.detector.name,
        "backend": pipeline.classifier.runtime_name,
        "anonymize": overlay.anonymizer.mode if overlay.anonymizer else "none",
        "timeline_s": overlay.history.seconds or 30.0,
        "can_enrol": pipeline.enrolment is not None,
    }


def make_temp_dir() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder, deleted at the latest when the program ends."""
    return tempfile.TemporaryDirectory(prefix="emotion_lab_", ignore_cleanup_errors=True)
