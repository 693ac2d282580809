"""Prediction of many files: list, engine, result files, progress and summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import file_progress
from emotion_lab.core.wording import counted
from emotion_lab.video import factory
from emotion_lab.video.batch.base import ENGINES, FileResult
from emotion_lab.video.batch.listing import chunks, list_files
from emotion_lab.video.batch.output import LOG, TABLE, ResultFiles, keep_model
from emotion_lab.video.batch.parquet import NAME, write_parquet
from emotion_lab.video.detectors import auto
from emotion_lab.video.runner import PipelineRunner, progress_bar
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sinks.console import ConsoleSink
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sources.open import open_source

#: Results that are printed.
_SHOWN = 50


class BrokenFilesError(UserError):
    """Some files could not be processed."""

    exit_code = 1


def predict_files(cfg: dict[str, Any], folder: Path) -> None:
    """Process all files of ``cfg["source"]`` and write the results into ``folder``.

    Raises:
        BrokenFilesError: At the end, if there are broken files.
    """
    items, notes = list_files(str(cfg["source"]))
    for note in notes:
        print(f"{cfg['source']}: {note}.", file=sys.stderr)
    cfg = {**cfg, "detector": _one_detector(cfg)}
    model = factory.build_recognizer(cfg)
    factory.print_model(cfg, model)
    model.pipeline(stills=True)  # prints the note about the training data
    made_by = {"detector": cfg["detector"]["name"], "ckpt": model.classifier.model_id[:12]}
    keep_model(folder, cfg["resume"], made_by)
    engine = ENGINES.build(cfg["engine"]["name"], cfg)
    begin, rows = time.perf_counter(), 0
    with ResultFiles(folder, cfg["resume"], cfg["overwrite"]) as files:
        todo = [item for item in items if item.name not in files.done]
        if len(todo) < len(items):
            print(f"resume: {len(items) - len(todo):,} of {len(items):,} files are done already")
        count = 0
        with file_progress(str(cfg["source"]), len(todo)) as advance:
            for result in engine.run(chunks(todo), model) if todo else ():
                if files.write(result):
                    count, rows = count + 1, rows + result.rows
                    _show(result, count)
                    advance()
    if count > _SHOWN:
        print(f"... and {count - _SHOWN:,} more files")
    seconds = time.perf_counter() - begin
    print(
        f"{counted(count, 'file')}, {len(files.broken):,} of them broken; "
        f"{counted(rows, 'row')}; {count / seconds:.1f} files/s"
    )
    _convert(cfg, folder, model.classes)
    print(folder, flush=True)
    if files.broken:
        name, reason = next(iter(files.broken.items()))
        raise BrokenFilesError(
            f"{len(files.broken):,} of {count:,} files are broken, listed in {folder / TABLE}; the "
            f"first is {name}: {reason}"
        )


def _one_detector(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the detector of all processes: ``auto`` is resolved here, once.

    Another machine (``engine=ray``) finds the file of YuNet itself, or fails.
    """
    detector = cfg["detector"]
    if detector["name"] != "auto":
        return detector
    resolved = auto.resolve(detector)
    is_local = cfg["engine"]["name"] == "local" or resolved["name"] != "yunet"
    return resolved if is_local else {**resolved, "file": detector["file"]}


def _show(result: FileResult, number: int) -> None:
    """Print the result of one of the first files, and every broken file."""
    for note in result.notes:
        print(note, file=sys.stderr)
    if result.error is not None:
        print(f"{result.name}: broken: {result.shown}", file=sys.stderr)
    elif number <= _SHOWN:
        print(f"{result.name}: {result.shown}", flush=True)


def predict_one(cfg: dict[str, Any], folder: Path) -> None:
    """Process one photo or clip, frame by frame, and write the results into ``folder``."""
    with open_source(cfg) as source:
        # Before the model is loaded, which takes seconds.
        sinks: list[Sink] = [factory.build_save_sink(cfg, source)] if cfg["save"] else []
        pipeline = factory.build_pipeline(cfg, source.stills, bool(source.truth))
        overlay = factory.build_overlay(cfg, pipeline.classes) if cfg["save"] else None
        if source.stills:
            sinks.append(ConsoleSink(pipeline.classes))
        # Created last, because it truncates an existing file: nothing may fail afterwards.
        log = JsonlSink(folder / LOG, pipeline.classes, cfg["overwrite"])
        runner = PipelineRunner(source, pipeline, overlay, [log, *sinks])
        try:
            with progress_bar(source.name, source.count) as on_frame:
                runner.run(on_frame)
        finally:
            print("\n".join(runner.stats.summary_lines(source.stills)))
            print(folder, flush=True)
    _convert(cfg, folder, pipeline.classes)


def _convert(cfg: dict[str, Any], folder: Path, classes: Sequence[str]) -> None:
    """Write the Parquet file if ``format`` asks for one."""
    if cfg["format"] == "jsonl":
        return
    write_parquet(folder / LOG, folder / NAME, classes)
    if cfg["format"] == "parquet":
        (folder / LOG).unlink()
