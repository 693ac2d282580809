"""All that runs behind the page: the program's own session and those of its visitors."""

from __future__ import annotations

import re
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.video.overlay.primitives import UNCERTAIN, Colour, ink_on
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.web.session_thread import WebSession
from emotion_lab.video.web.uploads import (
    BrowserCameraReader,
    another_overlay,
    another_pipeline,
    open_upload,
    share,
)

#: Of visitors, running or not yet forgotten; each keeps a frame in memory.
MAX_GUESTS = 4
MAIN = "live"


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


class SessionManager:
    """Keeps the shows.

    Args:
        session: The program's own, not run yet; it needs an overlay.
        folder: Where snapshots, recordings and, without ``log=``, the rows go.
        ended: Called on the session's thread when the program's own show is over.

    Raises:
        UserError: If the file of rows cannot be made.
    """

    def __init__(
        self,
        session: PipelineRunner,
        folder: Path,
        ended: Callable[[WebSession], None] = lambda show: None,
    ) -> None:
        if session.overlay is None:
            raise ValueError("a page without an overlay has nothing to show")
        self.folder = folder
        share(session.pipeline)
        log = next((sink for sink in session.sinks if isinstance(sink, JsonlSink)), None)
        if log is None:
            log = JsonlSink(folder / "live.jsonl", session.pipeline.classes)
            session.sinks.append(log)
        self._pipeline, self._overlay = session.pipeline, session.overlay
        # Copied before any frame is drawn, while no other thread touches it.
        self._blank = another_overlay(session.overlay)
        self.main = WebSession(session, MAIN, folder, log.path, ended=ended)
        self.shows: dict[str, WebSession] = {MAIN: self.main}
        #: Set when the program ends, so that no request waits any longer.
        self.closing = False
        self._lock = threading.Lock()
        self._guests = 0
        self._cameras: dict[str, BrowserCameraReader] = {}
        self._temporary: dict[str, tempfile.TemporaryDirectory[str]] = {}

    def show(self, name: str) -> WebSession:
        """Return a show by its name.

        Raises:
            UserError: If there is none.
        """
        show = self.shows.get(name)
        if show is None:
            raise UserError(f"'{name[:40]}' is no longer there. Go back to the live view.")
        return show

    def about(self) -> dict[str, Any]:
        """Return what stays the same while the program runs, as plain values for the page."""
        words, colours = self._overlay.words, self._overlay.colours
        return {
            "classes": self._pipeline.classes,
            "words": list(words.labels),
            "uncertain": words.uncertain,
            "no_face": words.no_face,
            "colours": [_hex(colour) for colour in colours],
            "inks": [_hex(ink_on(colour)) for colour in colours],
            "uncertain_colour": _hex(UNCERTAIN),
            "uncertain_ink": _hex(ink_on(UNCERTAIN)),
            "detector": self._pipeline.detector.name,
            "runtime": getattr(self._pipeline.classifier, "runtime_name", ""),
            "anonymize": self._overlay.anonymizer.mode,
            "timeline_s": self._overlay.history.seconds or 30.0,
        }

    def upload(
        self, write: Path, name: str, folder: tempfile.TemporaryDirectory[str]
    ) -> WebSession:
        """Show a photo or clip that was put into ``folder``; it is deleted when it has been seen.

        Raises:
            UserError: If it is neither, or too much is going on.
        """
        try:
            source = open_upload(write, name)
        except UserError:
            folder.cleanup()
            raise
        return self._add("upload", source, folder, lambda show: write.unlink(missing_ok=True))

    def camera(self) -> WebSession:
        """Open a show for a page's own camera; :meth:`camera_frame` feeds it.

        Raises:
            UserError: If too much is going on.
        """
        reader = BrowserCameraReader("browser camera", lambda: self.closing)
        folder = temporary()
        show = self._add("camera", FrameSource(reader), folder, lambda show: None)
        self._cameras[show.title] = reader
        return show

    def camera_frame(self, name: str, data: bytes) -> None:
        """Feed a frame to a page's camera.

        Raises:
            UserError: If the camera has ended or the data is no image.
        """
        reader = self._cameras.get(name)
        if reader is None or self.show(name).over:
            raise UserError("This camera has ended. Start it again.")
        reader.put(data)

    def _add(
        self,
        kind: str,
        source: FrameSource,
        folder: tempfile.TemporaryDirectory[str],
        ended: Callable[[WebSession], None],
    ) -> WebSession:
        """Start a visitor's show; the oldest that is over makes room."""

        def over(show: WebSession) -> None:
            ended(show)
            if show.error is not None and not isinstance(show.error, UserError):
                traceback.print_exception(show.error)

        with self._lock:
            try:
                self._make_room()
            except UserError:
                source.close()
                folder.cleanup()
                raise
            self._guests += 1
            title = f"{kind}-{self._guests}"
            pipeline = another_pipeline(self._pipeline, source.stills)
            rows = Path(folder.name) / "rows.jsonl"
            session = PipelineRunner(
                source,
                pipeline,
                another_overlay(self._blank),
                [JsonlSink(rows, pipeline.classes)],
                {"detector": pipeline.detector.name},
            )
            show = WebSession(session, title, self.folder, rows, needs_watching=True, ended=over)
            self.shows[title], self._temporary[title] = show, folder
        show.start()
        return show

    def _make_room(self) -> None:
        guests = [show for name, show in self.shows.items() if name != MAIN]
        if len(guests) < MAX_GUESTS:
            return
        over = [show for show in guests if show.over]
        if not over:
            raise UserError(f"{MAX_GUESTS} cameras or clips are open already. Close one first.")
        self._forget(min(over, key=lambda show: show.view.asked))

    def _forget(self, show: WebSession) -> None:
        """Delete all that is known of a visitor's show, but what the user saved."""
        self.main.view.saved.update(show.view.saved)
        self.shows.pop(show.title, None)
        self._cameras.pop(show.title, None)
        self._temporary.pop(show.title).cleanup()

    def leave(self, show: WebSession) -> None:
        """End a visitor's show and delete what it brought."""
        show.stop()
        show.join()
        with self._lock:
            if self.shows.get(show.title) is show:
                self._forget(show)

    def saved(self, name: str) -> Path | None:
        """Return the path of a snapshot or recording made from the page, None for all else."""
        found = (show.view.saved.get(name) for show in list(self.shows.values()))
        return next((path for path in found if path is not None), None)

    def release(self) -> None:
        """Let waiting requests go."""
        self.closing = True
        for show in list(self.shows.values()):
            show.view.bell.ring()

    def close(self) -> None:
        """End all shows; files are closed and what visitors brought is deleted."""
        self.release()
        for show in self.shows.values():
            show.stop()
        for show in self.shows.values():
            show.join()
        for folder in self._temporary.values():
            folder.cleanup()


def temporary() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is deleted with all in it, at the latest when the program ends."""
    return tempfile.TemporaryDirectory(prefix="emotion_lab_", ignore_cleanup_errors=True)


def plain_name(name: str) -> str:
    """Return a file name without folders or odd characters, for instance ``holiday.mp4``."""
    last = re.split(r"[\\/]", name)[-1]
    return re.sub(r"[^\w.() -]", "_", last).strip(". ")[-80:] or "upload"
