"""Several processes of one run: the same images, the same numbers, one voice, one end."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.torch_dataset import ResumableRandomSampler, SequentialDistributedSampler
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.training import callbacks, strategy
from emotion_lab.training.fit import fit
from tests.conftest import TINY, composed

Tiny = Callable[..., dict[str, Any]]

#: The last step has 4 of 8 images, and val an odd number: 5 of batches of 4 and 4.
ODD = ("data.n=94", "data.size=24", "model.image_size=32", "data.batch_size=4")
ODD += ("trainer.precision=fp32",)
TRAIN, VAL = 76, 9
#: What trainer=<name> took away from TINY.
CPU = ("trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.max_epochs=2")


def free_port() -> str:
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def forked(work: Callable[[int], None], count: int = 2, nodes: bool = False) -> list[int]:
    """Run ``work(rank)`` in processes that find each other; return their exit codes.

    Forked, for they need not import torch again.

    Args:
        work: What each does.
        count: How many.
        nodes: Each is a machine of its own instead of a process of one.
    """
    port = free_port()

    def one(rank: int) -> None:
        own, other = ("NODE_RANK", "LOCAL_RANK") if nodes else ("LOCAL_RANK", "NODE_RANK")
        os.environ.update({own: str(rank), other: "0"})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        # A process that hangs says where, and ends.
        faulthandler.dump_traceback_later(100, exit=True)
        work(rank)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    hanging = [process for process in processes if process.is_alive()]
    for process in hanging:
        process.kill()
    assert not hanging
    return [process.exitcode for process in processes]


@contextlib.contextmanager
def seen(folder: Path) -> Iterator[None]:
    """Write down which images each process trains on: one line a batch, [epoch, positions]."""
    original = callbacks.DataPositionCallback.on_train_batch_end
    file = folder / f"seen{os.getpid()}.jsonl"

    def note(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        with open(file, "a") as stream:
            stream.write(json.dumps([trainer.current_epoch, batch.positions.tolist()]) + "\n")
        original(self, trainer, module, outputs, batch, index)

    callbacks.DataPositionCallback.on_train_batch_end = note  # type: ignore[method-assign]
    try:
        yield
    finally:
        callbacks.DataPositionCallback.on_train_batch_end = original  # type: ignore[method-assign]


@contextlib.contextmanager
def asked_to_stop(index: int | None) -> Iterator[None]:
    """Send Ctrl-C to this process alone after batch ``index`` of the first epoch."""
    original = callbacks.DataPositionCallback.on_train_batch_end

    def press(self: Any, trainer: Any, *others: Any) -> None:
        original(self, trainer, *others)
        if trainer.current_epoch == 0 and others[-1] == index:
            os.kill(os.getpid(), signal.SIGINT)

    callbacks.DataPositionCallback.on_train_batch_end = press  # type: ignore[method-assign]
    try:
        yield
    finally:
        callbacks.DataPositionCallback.on_train_batch_end = original  # type: ignore[method-assign]


def counted(folder: Path, epoch: int) -> Counter[int]:
    """Return how often each image was trained on in an epoch, over all processes and sessions."""
    found: Counter[int] = Counter()
    for file in folder.glob("seen*.jsonl"):
        for line in file.read_text().splitlines():
            at, positions = json.loads(line)
            found.update(positions if at == epoch else [])
    return found


def same_score(cfg: dict[str, Any], run: Path) -> None:
    """The best val scores of history.csv are those of the checkpoint, scored in one process."""
    best = ckpt.read(run / "checkpoints" / "best.ckpt")
    rows = (run / "history.csv").read_text().splitlines()
    names = rows[0].split(",")
    row = dict(zip(names, rows[1 + best["epoch"]].split(","), strict=True))
    scores = evaluate_checkpoint(
        run / "checkpoints" / "best.ckpt", cfg["data"], "val", run, "cpu"
    ).scores
    assert scores["n"] == VAL
    for name in ("accuracy", "macro_f1", "loss"):
        assert scores[name] == pytest.approx(float(row[f"val/{name}"]), abs=1e-4), name


def test_samplers_share_every_image_once() -> None:
    """Steps hold the same images however many processes share them, also from mid-epoch on."""
    for size in (64, 65, 66, 70, 79):
        whole = ResumableRandomSampler(size, 8, seed=3)
        steps = [[p for _, p in batch] for batch in whole]
        for world in (2, 4):
            shares = [
                ResumableRandomSampler(size, 8 // world, 3, None, rank, world)
                for rank in range(world)
            ]
            assert {len(share) for share in shares} == {len(steps)}
            for share in shares:
                share.start = 5
            parts = [[p for batch in step for _, p in batch] for step in zip(*shares, strict=True)]
            assert all(len(batch) >= 2 for share in shares for batch in share)
            for step, part in zip(steps[5:], parts, strict=True):
                few = len(step) < 2 * world
                assert set(part) >= set(step) and (few or len(part) == len(step))


@pytest.mark.parametrize(("size", "batch"), [(9, 4), (8, 4), (7, 1), (33, 16), (2, 8)])
def test_all_processes_score_equally_often(size: int, batch: int) -> None:
    shares = [SequentialDistributedSampler(size, batch, rank, 2) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(list(shares[0])) == len(list(shares[1]))
    batches = [[p for _, p in batch] for share in shares for batch in share]
    assert sorted(sum(batches, [])) == list(range(size))
    assert all(1 <= len(one) <= batch + 1 for one in batches)


def test_fewer_images_than_processes() -> None:
    with pytest.raises(UserError, match="1 images cannot be shared by 2"):
        SequentialDistributedSampler(1, 8, 0, 2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("trainer=fsdp", "trainer.devices=1"), "set trainer.devices"),
        (("trainer=ddp", "trainer.devices=-1"), "counts GPUs"),
        (("trainer=ddp", "model.unfreeze_at_epoch=1"), "works on one device"),
        (("trainer=fsdp", "trainer.ema_decay=0.9"), "trainer.ema_decay=0.9 does not work with trainer=fsdp"),
        (("trainer=fsdp", "model.compile=true"), "model.compile=True does not work"),
        (("trainer=fsdp", "trainer.channels_last=true"), "trainer.channels_last=True does not"),
    ],
)
def test_what_several_devices_cannot_do(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        strategy.check(composed(*overrides), "cpu")
    assert strategy.check(composed("trainer=ddp", "trainer.num_nodes=3"), "cpu") == 6


@pytest.mark.parametrize(
    "options",
    [("trainer.strategy=ddp", "trainer.ema_decay=0.8", "trainer.enable_progress_bar=true"), ("trainer=fsdp",)],
    ids=["ddp", "fsdp"],
)
def test_two_processes_train_one_network(
    options: tuple[str, ...], tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny(*ODD, "trainer.devices=2", *options, *CPU, "schedule=plateau", "mix.mixup=0.2")

    def work(rank: int) -> None:
        with seen(tmp_path):
            fitted = fit(cfg, tmp_path)
        assert fitted.main == (rank == 0) and fitted.facts["processes"] == 2

    assert forked(work) == [0, 0]
    for epoch in (0, 1):
        assert counted(tmp_path, epoch) == Counter(range(TRAIN))
    same_score(cfg, tmp_path)
    assert capfd.readouterr().out.count("epoch 2/2 | train") == 1


def test_two_machines(tiny: Tiny, tmp_path: Path) -> None:
    """Two nodes of one device each, found by MASTER_ADDR, MASTER_PORT and NODE_RANK."""
    cfg = tiny(*ODD, "trainer.num_nodes=2", "trainer.max_epochs=1")

    def work(rank: int) -> None:
        with seen(tmp_path):
            assert fit(cfg, tmp_path).main == (rank == 0)

    assert forked(work, nodes=True) == [0, 0]
    assert counted(tmp_path, 0) == Counter(range(TRAIN))
    same_score(cfg, tmp_path)


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1)])
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_resume_on_another_number_of_devices(
    engine: str, worlds: tuple[int, int], tiny: Tiny, tmp_path: Path
) -> None:
    """Stopped in mid-epoch by one of them; every image is learnt once in that epoch."""
    batch = 8 // worlds[0]
    common = (*ODD, f"data.batch_size={batch}")

    def start(world: int, stop: bool) -> None:
        several = () if world == 1 else ("trainer.devices=2", f"trainer.strategy={engine}")
        cfg = tiny(*common, *several)
        last = None if stop else tmp_path / "checkpoints" / "last.ckpt"

        def work(rank: int) -> None:
            # The last process is asked to stop: the first has to learn of it.
            with seen(tmp_path), asked_to_stop(3 if stop and rank == world - 1 else None):
                fit(cfg, tmp_path, last)

        def expecting(rank: int) -> None:
            try:
                work(rank)
            except callbacks.RunInterruptedError:
                raise SystemExit(130) from None

        assert forked(expecting, world) == [130 if stop else 0] * world

    start(worlds[0], True)
    half = counted(tmp_path, 0)
    assert len(half) == 32 and ckpt.read(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4
    start(worlds[1], False)
    for epoch in (0, 1):
        assert counted(tmp_path, epoch) == Counter(range(TRAIN))
    state = ckpt.read(tmp_path / "checkpoints" / "last.ckpt")
    assert state["global_step"] == 20
    # Counted over both sessions and all processes, not over those of one.
    row = (tmp_path / "history.csv").read_text().splitlines()
    correct = float(dict(zip(row[0].split(","), row[1].split(","), strict=True))["train/accuracy"])
    assert correct * TRAIN == pytest.approx(round(correct * TRAIN), abs=1e-3)
    same_score(tiny(*common), tmp_path)


def test_a_step_that_cannot_be_shared(tiny: Tiny, tmp_path: Path) -> None:
    data = EmotionData(tiny()["data"], ("train",))
    data.prepare_for(48, 1)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    data.load_state_dict({"epoch": 0, "start": 3, "step": 9})
    with pytest.raises(UserError, match="9 images a step, which 2 processes cannot share"):
        data.train_dataloader()


#: The real entry point; one process fails, or is killed, in the middle of the first epoch.
DRIVER = """
import os, signal
from lightning.pytorch.callbacks import Callback
import emotion_lab.training.fit as fit
from emotion_lab.core.errors import UserError
from emotion_lab.train import main

build = fit.make_trainer

class Trouble(Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        if index == 2 and trainer.global_rank == int(os.environ["TROUBLED"]):
            if os.environ["TROUBLE"] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("rank %d has had enough" % trainer.global_rank)

def make_trainer(*args, **kwargs):
    trainer = build(*args, **kwargs)
    trainer.callbacks.append(Trouble())
    return trainer

if __name__ == "__main__":
    fit.make_trainer = make_trainer
    main()
"""


@pytest.mark.parametrize(
    ("troubled", "trouble", "words"),
    [(1, "fails", "rank 1 has had enough"), (1, "killed", "process 1 of this run was killed")],
)
def test_one_that_fails_ends_all_with_one_line(
    troubled: int, trouble: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "driver.py", *TINY, *ODD, "trainer.devices=2", f"hydra.run.dir={run}"],
        cwd=tmp_path,
        env={**os.environ, "TROUBLED": str(troubled), "TROUBLE": trouble},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert done.stdout.count("data: synthetic") == 1
