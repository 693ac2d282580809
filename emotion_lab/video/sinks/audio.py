"""Copies the audio of the source file into the saved video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

#: A packet of the source, to be copied, or a decoded frame, to be encoded; and its time.
_Item = tuple[Any, Fraction]


class AudioCopier:
    """Copies the first audio stream of a file, packet by packet, while the video is written.

    The audio is copied as it is if the container of the video allows its codec, else encoded with
    the default codec of the container. It lasts as long as the video: it is cut if it is longer,
    and starts again with each repetition of the clip.

    Args:
        source: Path or address of the source.
        output: The video, open and still without packets.
        name: File name of the video, for :attr:`message`.

    Attributes:
        message: One line about the result.
    """

    def __init__(self, source: str | Path, output: OutputContainer, name: str) -> None:
        self.message = f"{name} has no audio: the source has none"
        self._output, self._name = output, name
        self._begun = False
        self._input: InputContainer | None = None
        try:
            self._input = av.open(str(source))
            if not self._input.streams.audio:
                self.close()
                return
            self._add_stream()
            self.message = f"{name} has the audio of {Path(source).name}"
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._fail(f"{name} has no audio", error)
        self._items: Iterator[_Item] = self._read(Fraction(0))
        self._next: _Item | None = None

    def _add_stream(self) -> None:
        assert self._input is not None
        self._source = self._input.streams.audio[0]
        self._copies = self._source.codec_context.name in self._output.supported_codecs
        if self._copies:
            self._stream: Any = self._output.add_stream_from_template(self._source)
            return
        codec = self._output.default_audio_codec
        # Opus has a fixed set of rates; 48 kHz is supported by all of these codecs.
        name, rate = ("libopus", 48000) if codec == "opus" else (codec, self._source.rate)
        self._stream = self._output.add_stream(name, rate=rate, layout=self._source.layout.name)

    def _fail(self, what: str, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        self.message = f"{what}: {reason}"
        self.close()

    def restart(self, time_s: float) -> None:
        """Write the audio up to ``time_s`` and start it again there."""
        if self._input is None:
            return
        self.write_until(time_s)
        try:
            self._input.seek(0)
            self._items, self._next = self._read(Fraction(time_s)), None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._fail(f"{self._name}: the audio ends at {time_s:.1f} s", error)

    def _read(self, offset_s: Fraction) -> Iterator[_Item]:
        """Yield packets or frames with their time in the video."""
        assert self._input is not None
        video = self._input.streams.video
        # The first picture has time 0, also if the audio starts earlier.
        start_s = Fraction(0)
        if video and video[0].start_time is not None and video[0].time_base is not None:
            start_s = video[0].start_time * video[0].time_base
        source = self._source
        items: Iterator[Any]
        items = self._input.demux(source) if self._copies else self._input.decode(source)
        for item in items:
            if item.pts is None or item.time_base is None:
                continue
            time_s = item.pts * item.time_base - start_s
            if time_s >= 0:
                yield item, time_s + offset_s

    def write_until(self, time_s: float) -> None:
        """Write the audio before ``time_s``, in seconds of the video."""
        if self._input is None:
            return
        try:
            while (item := self._next or next(self._items, None)) is not None:
                self._next = item
                if item[1] >= time_s:
                    return
                self._write(*item)
                self._next = None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._fail(f"{self._name}: the audio ends at {time_s:.1f} s", error)

    def _write(self, item: Any, time_s: Fraction) -> None:
        self._begun = True
        item.pts = round(time_s / item.time_base)
        if self._copies:
            item.dts, item.stream = item.pts, self._stream
            self._output.mux(item)
        else:
            self._output.mux(self._stream.encode(item))

    def finish(self, time_s: float) -> None:
        """Write the rest of the audio before ``time_s``, the end of the video."""
        self.write_until(time_s)
        if self._input is not None and not self._begun:
            self.message = f"{self._name} is silent: the audio of the source starts later"
        if self._input is not None and not self._copies:
            self._output.mux(self._stream.encode())
        self.close()

    def close(self) -> None:
        """Close the source."""
        if self._input is not None:
            self._input.close()
            self._input = None
