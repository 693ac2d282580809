"""Runs with several processes: every image once, equal scores, one error message."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.samplers import ResumableRandomSampler, SequentialDistributedSampler
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.losses import build_loss
from emotion_lab.training import callbacks, strategy
from emotion_lab.training.fit import fit
from tests.conftest import TINY, command, composed
from tests.training.conftest import DRIVER, Tiny, after_batch, press_ctrl_c, read_history

#: The last step has 4 of 8 images; val has 9 images, which two processes cannot share equally.
ODD = ("data.n=94", "data.size=24", "model.image_size=32", "data.batch_size=4")
ODD += ("trainer.precision=fp32",)
TRAIN, VAL = 76, 9
#: Overrides of TINY that trainer=<name> replaces.
CPU = ("trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.max_epochs=2")


def run_ranks(work: Callable[[int], None], count: int = 2, nodes: bool = False) -> list[int]:
    """Run ``work(rank)`` in connected processes and return their exit codes.

    The processes are forked, so they do not import torch again. With ``nodes``, each is a node.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])

    def run(rank: int) -> None:
        rank_key, zero_key = ("NODE_RANK", "LOCAL_RANK") if nodes else ("LOCAL_RANK", "NODE_RANK")
        os.environ.update({rank_key: str(rank), zero_key: "0"})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        # A process that hangs prints its stack and exits.
        faulthandler.dump_traceback_later(100, exit=True)
        work(rank)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]


def record_positions(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Write the images that each process trains on: one line a batch, [epoch, positions]."""
    file = folder / f"seen{os.getpid()}.jsonl"

    def record(trainer: Any, batch: Any, index: int) -> None:
        with file.open("a") as stream:
            stream.write(json.dumps([trainer.current_epoch, batch.positions.tolist()]) + "\n")

    return after_batch(record)


def image_counts(folder: Path, epoch: int) -> Counter[int]:
    """Return how often each image was trained on in an epoch, over all processes and sessions."""
    counts: Counter[int] = Counter()
    for file in folder.glob("seen*.jsonl"):
        for line in file.read_text().splitlines():
            line_epoch, positions = json.loads(line)
            counts.update(positions if line_epoch == epoch else [])
    return counts


def check_scores(cfg: dict[str, Any], run: Path) -> None:
    """Compare the best val scores of history.csv with an evaluation in one process."""
    row = read_history(run)[ckpt.read(run / "checkpoints" / "best.ckpt")["epoch"]]
    result = evaluate_checkpoint(run / "checkpoints" / "best.ckpt", cfg["data"])
    data = EmotionData(cfg["data"], ("train",))
    weights, counts = data.class_weights().tolist(), data.class_counts().tolist()
    criterion = build_loss(cfg["loss"], len(data.classes), weights, counts)
    value = float(criterion(result.predictions.logits, result.predictions.labels))
    scores = {**result.scores, "criterion": value}
    assert scores["n"] == VAL
    for name in ("accuracy", "macro_f1", "loss", "criterion"):
        assert scores[name] == pytest.approx(float(row[f"val/{name}"]), abs=1e-4), name


def test_training_samplers_share_every_step() -> None:
    """A step has the same images for every number of processes, also after a resume."""
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
def test_validation_samplers_have_equal_lengths(size: int, batch: int) -> None:
    shares = [SequentialDistributedSampler(size, batch, rank, 2) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(list(shares[0])) == len(list(shares[1]))
    batches = [[p for _, p in batch] for share in shares for batch in share]
    assert sorted(itertools.chain(*batches)) == list(range(size))
    assert all(1 <= len(b) <= batch + 1 for b in batches)


def test_fewer_images_than_processes() -> None:
    with pytest.raises(UserError, match="1 images cannot be shared by 2"):
        SequentialDistributedSampler(1, 8, 0, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer=fsdp", "trainer.devices=1"), "set trainer.devices"),
        (("trainer=ddp", "trainer.devices=-1"), "selects all GPUs"),
        (("trainer=ddp", "model.unfreeze_at_epoch=1"), "works on one device only"),
        (("trainer=ddp", "data.feature_cache=ram"), "feature_cache works on one device only"),
        (
            ("trainer=fsdp", "trainer.ema_decay=0.9"),
            "trainer.ema_decay=0.9 does not work with trainer=fsdp",
        ),
        (("trainer=fsdp", "model.compile=true"), "model.compile=True does not work"),
        (("trainer=fsdp", "trainer.channels_last=true"), "trainer.channels_last=True does not"),
    ],
)
def test_options_unsupported_on_several_devices(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        strategy.check(composed(*overrides), "cpu")
    assert strategy.check(composed("trainer=ddp", "trainer.num_nodes=3"), "cpu") == 6


@pytest.mark.parametrize(
    "options",
    [
        ("trainer.devices=2", "trainer.ema_decay=0.8", "trainer.enable_progress_bar=true"),
        ("trainer=fsdp", "trainer.devices=2"),
        ("trainer.num_nodes=2",),
    ],
    ids=["ddp", "fsdp", "nodes"],
)
def test_two_processes_train_one_network(
    options: tuple[str, ...], tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two nodes of one device each are found by MASTER_ADDR, MASTER_PORT and NODE_RANK."""
    cfg = tiny(*ODD, *options, *CPU, "loss=weighted_focal", "schedule=plateau", "mix.mixup=0.2")

    def work(rank: int) -> None:
        with record_positions(tmp_path):
            result = fit(cfg, tmp_path)
        assert result.is_global_zero == (rank == 0) and result.facts["processes"] == 2

    assert run_ranks(work, nodes=cfg["trainer"]["num_nodes"] == 2) == [0, 0]
    for epoch in (0, 1):
        assert image_counts(tmp_path, epoch) == Counter(range(TRAIN))
    check_scores(cfg, tmp_path)
    assert capfd.readouterr().out.count("  2/2  ") == 1


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1)])
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_resume_on_another_number_of_devices(
    engine: str, worlds: tuple[int, int], tiny: Tiny, tmp_path: Path
) -> None:
    """One process is stopped during an epoch; after the resume, each image was used once."""
    batch = 8 // worlds[0]
    common = (*ODD, f"data.batch_size={batch}")

    def start(world: int, stop: bool) -> None:
        parallel = () if world == 1 else ("trainer.devices=2", f"trainer.strategy={engine}")
        cfg = tiny(*common, *parallel)
        last = None if stop else tmp_path / "checkpoints" / "last.ckpt"

        def work(rank: int) -> None:
            # The signal reaches the last process only; all must stop.
            stop_index = 3 if stop and rank == world - 1 else None
            try:
                with record_positions(tmp_path), press_ctrl_c(0, stop_index):
                    fit(cfg, tmp_path, last)
            except callbacks.RunInterruptedError:
                raise SystemExit(130) from None

        assert run_ranks(work, world) == [130 if stop else 0] * world

    start(worlds[0], True)
    half = image_counts(tmp_path, 0)
    assert len(half) == 32 and ckpt.read(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4
    start(worlds[1], False)
    for epoch in (0, 1):
        assert image_counts(tmp_path, epoch) == Counter(range(TRAIN))
    state = ckpt.read(tmp_path / "checkpoints" / "last.ckpt")
    assert state["global_step"] == 20
    # The metrics cover both sessions and all processes.
    correct = float(read_history(tmp_path)[0]["train/accuracy"])
    assert correct * TRAIN == pytest.approx(round(correct * TRAIN), abs=1e-3)
    check_scores(tiny(*common), tmp_path)


def test_step_that_processes_cannot_share(tiny: Tiny, tmp_path: Path) -> None:
    data = EmotionData(tiny()["data"], ("train",))
    data.prepare_for(48, 1)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    data.load_state_dict({"epoch": 0, "start": 3, "step": 9})
    with pytest.raises(UserError, match="9 images per step, which 2 processes cannot share"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("failure", "message"),
    [("error", "rank 1 failed"), ("step", "process 1 of this run was killed")],
)
def test_failing_rank_ends_the_run_with_one_line(
    failure: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    monkeypatch.setenv("FAILURE", f"{failure},1,2")
    overrides = [*TINY, *ODD, "trainer.devices=2", f"hydra.run.dir={tmp_path / 'run'}"]
    done = command(*overrides, module="driver", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stdout.count("data: synthetic") == 1
