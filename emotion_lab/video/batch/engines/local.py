"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from emotion_lab.core.threads import limit_threads
from emotion_lab.data.images import is_image_name
from emotion_lab.inference.backends.auto import cores
from emotion_lab.video.batch.base import ENGINES, Chunk, FileItem, FileResult
from emotion_lab.video.batch.worker import FileProcessor, failed
from emotion_lab.video.recognizer import EmotionRecognizer

#: Chunks of photos for which a further process is worth its start; a clip counts as many.
_CHUNKS_PER_PROCESS = 4
#: Config and processor of a worker process.
_config: dict[str, Any] = {}
_processors: list[FileProcessor] = []


def _start_worker(config: dict[str, Any], threads: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(threads)
    _config.update(config)


def _work(chunk: Chunk) -> list[FileResult]:
    # Loaded here: an error of an initializer would look like a killed process.
    if not _processors:
        _processors.append(FileProcessor(_config))
    return _processors[0](chunk)


@ENGINES.register("local")
class LocalEngine:
    """Spreads the chunks over processes; each uses an equal part of the cores.

    If a process is killed or crashes, its files are processed again, one after the other, so that
    the file that ends a process is found; it becomes a broken file.
    """

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg

    def num_workers(self, chunks: Sequence[Chunk]) -> int:
        """Return ``engine.workers``, or as many as the chunks are worth, at most one a core."""
        if self.cfg["engine"]["workers"]:
            return min(int(self.cfg["engine"]["workers"]), len(chunks))
        clips = sum(not is_image_name(chunk[0].name) for chunk in chunks)
        load = len(chunks) - clips + _CHUNKS_PER_PROCESS * clips
        return max(1, min(cores(), load // _CHUNKS_PER_PROCESS))

    def run(self, chunks: Sequence[Chunk], model: EmotionRecognizer) -> Iterator[FileResult]:
        """Yield the results as they come; with one worker, in this process."""
        workers = self.num_workers(chunks)
        if workers == 1:
            processor = FileProcessor(self.cfg, model)
            for chunk in chunks:
                yield from processor(chunk)
            return
        todo = deque(chunks)
        while todo:
            suspects = yield from self._in_parallel(todo, workers)
            yield from self._one_by_one(suspects)

    @contextlib.contextmanager
    def _pool(self, workers: int) -> Iterator[ProcessPoolExecutor]:
        """Yield worker processes, which are ended if the run is interrupted."""
        threads = max(1, cores() // workers)
        pool = ProcessPoolExecutor(
            workers,
            # Forked processes inherit the locks of other threads and of the inference programs.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self.cfg, threads),
        )
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        pool.shutdown()

    def _in_parallel(
        self, todo: deque[Chunk], workers: int
    ) -> Generator[FileResult, None, list[FileItem]]:
        """Process ``todo`` until it is empty or a process ends.

        Returns:
            The files that were being processed when a process ended.
        """
        running: dict[Future[list[FileResult]], Chunk] = {}
        with self._pool(workers) as pool:
            while todo or running:
                # Few chunks wait in the queue of the pool: their results are held in memory.
                try:
                    while todo and len(running) < 2 * workers:
                        future = pool.submit(_work, todo[0])
                        running[future] = todo.popleft()
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    # Complete results first: those of a pool without a process are errors.
                    for future in sorted(done, key=lambda future: future.exception() is not None):
                        results = future.result()
                        del running[future]
                        yield from results
                except BrokenProcessPool:
                    break
        return [item for chunk in running.values() for item in chunk]

    def _one_by_one(self, suspects: Sequence[FileItem]) -> Iterator[FileResult]:
        """Process files singly: one that ends its process again is broken."""
        waiting = deque(suspects)
        while waiting:
            with self._pool(1) as pool:
                while waiting:
                    item = waiting.popleft()
                    try:
                        yield from pool.submit(_work, [item]).result()
                    except BrokenProcessPool:
                        yield failed(item, "the process ended while it read this file")
                        break
