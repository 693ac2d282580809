"""A session on a thread of its own, with a view that browsers look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.web.frame_buffer import FrameBuffer
from emotion_lab.video.web.paced_source import STILL_S, PacedSource

#: A visitor's clip or camera that no browser has asked for in this long is let go.
UNWATCHED_S = 30.0
_PATIENCE_S = 0.5  # for the frame at hand, before the source is closed under it
_LISTED = 20  # of the files made, the newest


class WebSession:
    """Runs a session, and obeys pause and stop.

    Args:
        session: Not run yet; its source is paced, and a view is added to its sinks.
        title: Names it in addresses and files.
        folder: Where snapshots and recordings go.
        rows: The JSON lines file that one of the session's sinks writes.
        needs_watching: End when nobody has looked for :data:`UNWATCHED_S`.
        ended: Called on the session's thread when it is over.

    Attributes:
        error: What ended it, if that was no normal end.
    """

    def __init__(
        self,
        session: PipelineRunner,
        title: str,
        folder: Path,
        rows: Path,
        needs_watching: bool = False,
        ended: Callable[[WebSession], None] = lambda show: None,
    ) -> None:
        self.session, self.title, self.rows = session, title, rows
        source = session.source
        fps = 1 / STILL_S if source.stills else source.fps
        self.view = FrameBuffer(title, folder, session.pipeline.classes, fps, source.live)
        self._needs_watching = needs_watching
        self.player = PacedSource(source, self._watched)
        session.source = self.player  # type: ignore[assignment]
        session.sinks.append(self.view)
        self.error: BaseException | None = None
        self.over = False
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name=f"session {title}", daemon=True)

    def _watched(self) -> bool:
        return not self._needs_watching or time.monotonic() - self.view.asked < UNWATCHED_S

    def _run(self) -> None:
        try:
            self.session.run()
        except BaseException as error:  # raised again where the page is served
            self.error = error
        finally:
            self.over = True
            self.view.bell.ring()
            self._ended(self)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def pause(self, on: bool) -> None:
        """Stand still after the frame at hand, or go on."""
        if not self.over:
            self.player.pause(on)
            self.view.bell.ring()

    def stop(self) -> None:
        """End after the frame at hand; does not wait."""
        self.session.stop()
        self.player.stop()

    def join(self) -> None:
        """Wait until the frame at hand is done and all files are closed."""
        if self._thread.ident is None:  # never started
            return
        self._thread.join(_PATIENCE_S)
        self.player.close()  # lets go of a device that gives no frames
        # In steps: Ctrl-C cannot interrupt one long wait everywhere.
        while self._thread.is_alive():
            self._thread.join(0.5)

    @property
    def state(self) -> str:
        """``running``, ``paused``, ``ended`` or ``failed``."""
        if self.over:
            return "failed" if self.error is not None else "ended"
        return "paused" if self.player.paused else "running"

    def status(self) -> dict[str, Any]:
        """Return the state as plain values for the page."""
        report, message = self.session.report, self.view.message
        if self.error is not None:
            known = isinstance(self.error, UserError)
            message = str(self.error) if known else "The program failed: see the terminal."
        return {
            "view": self.title,
            "source": self.player.name,
            "stills": self.player.stills,
            "state": self.state,
            "message": message,
            "recording": self.view.recording,
            "saved": list(self.view.saved)[-_LISTED:],
            "frames": report.frames,
            "dropped": report.dropped,
            "fps": round(float(self.session.info.get("fps") or 0.0), 1),
        }
