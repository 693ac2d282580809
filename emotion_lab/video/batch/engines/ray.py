"""Ray Data: actors on a cluster, each with a loaded model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import emotion_lab
from emotion_lab.core.errors import UserError
from emotion_lab.core.threads import limit_threads
from emotion_lab.video.batch.base import ENGINES, Chunk, FileItem, FileResult
from emotion_lab.video.batch.worker import FileProcessor
from emotion_lab.video.recognizer import EmotionRecognizer

#: Seconds to wait for the answer of every machine.
_ANSWER_S = 60.0


def program_version() -> str:
    """Return the version of this program and a hash of its Python files."""
    root = Path(emotion_lab.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return f"{emotion_lab.__version__} ({digest.hexdigest()[:8]})"


class _Actor:
    """Processes one row of a dataset, a chunk of files, and returns a row for each file."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        limit_threads(max(1, int(cfg["engine"]["num_cpus"])))
        self.processor = FileProcessor(cfg)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        items = [FileItem(*pair) for pair in zip(row["names"], row["paths"], strict=True)]
        return [vars(result) for result in self.processor(items)]


@ENGINES.register("ray")
class RayEngine:
    """Spreads the chunks over the actors of Ray Data.

    Ray starts an actor that ends again, and repeats its chunk. Ray Data limits the number of
    results that wait in memory.
    """

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg, self.options = cfg, cfg["engine"]

    def run(self, chunks: Sequence[Chunk], model: EmotionRecognizer) -> Iterator[FileResult]:
        """Yield the results as they come; the model of this process is not used."""
        with _connected():
            import ray

            _check_versions()
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.print_on_execution_start = False
            rows = [
                {"names": [item.name for item in chunk], "paths": [item.path for item in chunk]}
                for chunk in chunks
            ]
            workers = min(self._num_workers(), len(chunks))
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
                _Actor,
                fn_constructor_args=(self.cfg,),
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=self.options["num_cpus"],
                num_gpus=self.options["num_gpus"] or None,
            )
            try:
                for row in dataset.iter_rows():
                    yield FileResult(**{**row, "notes": tuple(row["notes"])})
            except ray.exceptions.RayError as error:
                # The last line is that of the exception in the actor.
                reason = str(error).strip().splitlines()[-1][:300]
                raise UserError(f"engine=ray: the actors cannot work ({reason}).") from None

    def _num_workers(self) -> int:
        """Return ``engine.workers``, or how many actors fit into the cluster."""
        import ray

        if self.options["workers"]:
            return int(self.options["workers"])
        resources = ray.cluster_resources()
        fits = [resources.get("CPU", 0) / self.options["num_cpus"]]
        if self.options["num_gpus"]:
            fits.append(resources.get("GPU", 0) / self.options["num_gpus"])
        if min(fits) < 1:
            raise UserError(
                f"engine=ray: no actor fits into the cluster, which has {resources.get('CPU', 0):g}"
                f" CPUs and {resources.get('GPU', 0):g} GPUs: set engine.num_cpus and "
                "engine.num_gpus."
            )
        return int(min(fits))


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine."""
    # Ray reports its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray
    import ray.data  # it sets the level of its log, which is changed next

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises plain exceptions where a cluster does not answer
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"engine=ray: cannot use the cluster RAY_ADDRESS={address}: {reason}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_versions() -> None:
    """Check that every machine of the cluster has this version of the program."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)
    def ask() -> tuple[str, str]:
        from emotion_lab.video.batch.engines.ray import program_version

        return socket.gethostname(), program_version()

    expected = program_version()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        try:
            name, version = ray.get(
                ask.options(scheduling_strategy=strategy).remote(), timeout=_ANSWER_S
            )
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-200:]
            raise UserError(
                f"engine=ray: a machine of the cluster cannot run emotion_lab ({reason}). Install "
                f"emotion_lab {expected} there."
            ) from None
        if version != expected:
            raise UserError(
                f"engine=ray: {name} has emotion_lab {version}, this machine has {expected}. "
                "Install the same version on every machine."
            )
