"""TensorBoard: logged data is read back with TensorBoard's readers and its server."""

from __future__ import annotations

import errno
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from emotion_lab.models.base import Backbone, EmotionNet, InputSpec
from emotion_lab.reports.logger_media import monitoring_callbacks
from emotion_lab.training import fit as fitting
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import LoggerContext, close
from emotion_lab.training.loggers.tensorboard import TensorBoard, hyperparameters
from tests.conftest import TINY, composed, run_training
from tests.training.conftest import Crash

#: 4 steps an epoch.
OVERRIDES = (*TINY, "logger=tensorboard", "trainer.log_every_n_steps=1")


def train(run: Path, *overrides: str) -> dict[str, Any]:
    cfg = composed(*OVERRIDES, *overrides)
    return run_training(cfg, run, callbacks=monitoring_callbacks(cfg))


def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0}).Reload()


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value) of all scalars."""
    reader = events(run)
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a sweep of two runs with different learning rates and losses."""
    folder = tmp_path_factory.mktemp("sweep")
    jobs = (
        ("optim.lr=0.001", "logger.tensorboard.pictures_every=1"),
        ("optim.lr=0.003", "loss=focal", "logger.tensorboard.explain=0"),
    )
    return folder, [train(folder / str(i), *job) for i, job in enumerate(jobs)]


def test_scalars_graph_and_pictures(sweep: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (metrics, other) = sweep
    assert len([*(folder / "0" / "tensorboard").glob("events.*")]) == 1
    scalars = curves(folder / "0")
    assert [step for step, _ in scalars["val/macro_f1"]] == [3, 7]
    assert [step for step, _ in scalars["train/criterion_step"]] == list(range(8))
    for name in ("accuracy", "macro_f1", "loss"):
        assert scalars[f"best/val/{name}"] == [(8, pytest.approx(metrics["val"][name], abs=1e-6))]
    assert scalars["best/epoch"] == [(8, metrics["best_epoch"])]
    reader = events(folder / "0")
    every = {tag: [event.step for event in reader.Images(tag)] for tag in reader.Tags()["images"]}
    last = {key: [8] for key in ("val/confusion", "val/samples", "val/explain", "curves")}
    assert every == {"val/confusion_by_epoch": [4, 8], **last}
    picture = reader.Images("val/explain")[0]
    assert picture.encoded_image_string[:4] == b"\x89PNG" and picture.width > 400
    names = {node.name.split("/")[0] for node in reader.Graph().node}
    assert {"EmotionNet", "input", "output"} <= names
    # The second run has neither explanation maps nor a matrix for every epoch.
    assert set(events(folder / "1").Tags()["images"]) == {"val/confusion", "val/samples", "curves"}
    assert (folder / "0" / "explain_val.png").is_file()
    assert not (folder / "1" / "explain_val.png").exists()
    assert other["val"]["n"] == 8


def test_confusion_matrix_agrees_with_the_scores_of_its_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matrix sums to the images of val and has the logged accuracy."""
    from emotion_lab.reports import figures

    drawn = []
    original = figures.confusion

    def record(counts: torch.Tensor, *args: Any, title: str, **options: Any) -> Any:
        drawn.append((counts, title))
        return original(counts, *args, title=title, **options)

    monkeypatch.setattr(figures, "confusion", record)
    options = ("trainer.max_epochs=3", "trainer.ema_decay=0.5")
    cfg = composed(*OVERRIDES, *options, "logger.tensorboard.pictures_every=2")
    result = fit(cfg, tmp_path, callbacks=monitoring_callbacks(cfg))
    close(result.loggers, "success")
    ((counts, title),) = drawn
    assert title == "val, epoch 2: n = 8" and int(counts.sum()) == 8
    accuracy = float(counts.diag().sum()) / 8
    assert accuracy == pytest.approx(result.history.rows[1]["val/accuracy"])
    for overrides in (OVERRIDES, TINY):
        assert not monitoring_callbacks(composed(*overrides))


def test_hparams_of_a_sweep(sweep: tuple[Path, list[dict[str, Any]]]) -> None:
    """TensorBoard's server returns the differing keys and the best scores of every run."""
    folder, all_metrics = sweep
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
    url = board.launch()

    def query(endpoint: str, **body: Any) -> Any:
        data = json.dumps({"experimentName": "", **body}).encode()
        path = f"{url}data/plugin/hparams/{endpoint}"
        request = urllib.request.Request(path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    experiment = query("experiment")
    differing = {info["name"] for info in experiment["hparamInfos"] if info.get("differs")}
    assert {"optim.lr", "loss.name"} <= differing and "seed" not in differing
    # A key of the focal loss only.
    assert "loss.gamma" in {info["name"] for info in experiment["hparamInfos"]}
    names = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert {"best/val/macro_f1", "best/val/accuracy"} <= names
    order = [{"hparam": "optim.lr", "order": "ORDER_ASC"}]
    body = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": order, "sliceSize": 10}
    groups, end = [], time.monotonic() + 60
    while len(groups) < len(all_metrics) and time.monotonic() < end:  # it reads the runs one by one
        groups = query("session_groups", startIndex=0, **body)["sessionGroups"]
        time.sleep(0.2)
    assert [group["hparams"]["optim.lr"] for group in groups] == [0.001, 0.003]
    for group, metrics in zip(groups, all_metrics, strict=True):
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert values["best/val/macro_f1"] == pytest.approx(metrics["val"]["macro_f1"], abs=1e-6)


def test_hyperparameters() -> None:
    """Dotted keys and plain values, without output locations."""
    values = hyperparameters(composed(*OVERRIDES, "seed=3", "resume=x"))
    assert values["seed"] == 3 and values["model.name"] == "senet"
    assert values["model.widths"] == "[8, 8, 8, 8]"
    assert "trainer.max_time" not in values
    assert not any(key.startswith(("logger", "resume", "test_ledger", "sweep")) for key in values)


RESUMED = (*OVERRIDES, "trainer.max_epochs=3", "trainer.precision=fp32")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of an uninterrupted run."""
    run = tmp_path_factory.mktemp("uninterrupted")
    run_training(composed(*RESUMED), run)
    return curves(run)


@pytest.mark.parametrize("step", [6, 8])
def test_resumed_run_continues_its_curves(
    step: int, uninterrupted: dict[str, list[tuple[int, float]]], tmp_path: Path
) -> None:
    """A crashed and resumed run has the curves of an uninterrupted run, without duplicates."""
    with pytest.raises(RuntimeError, match="crash"):
        fit(composed(*RESUMED), tmp_path, callbacks=[Crash(step)])
    assert [at for at, _ in curves(tmp_path)["train/criterion_step"]] == list(range(step))
    assert "_hparams_/session_end_info" not in events(tmp_path).PluginTagToContent("hparams")
    # TensorBoard sorts event files of the same process and second by name, 10 before 9.
    time.sleep(1.1)
    run_training(composed(*RESUMED), tmp_path, resume=True)
    assert curves(tmp_path) == uninterrupted
    assert [at for at, _ in uninterrupted["train/criterion_step"]] == list(range(12))
    plugin = events(tmp_path).PluginTagToContent("hparams")
    end = HParamsPluginData.FromString(plugin["_hparams_/session_end_info"])
    assert end.session_end_info.status == 1  # STATUS_SUCCESS


class Untraceable(nn.Module):
    """A network whose output torch cannot trace."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"a": object(), "b": x}


def test_network_that_cannot_be_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = TensorBoard(LoggerContext(composed(*OVERRIDES), tmp_path))
    net = EmotionNet(Backbone(Untraceable(), [], []), InputSpec(48, 1, (0.5,), (0.5,)))
    net.train()
    logger.log_network(net)
    logger.log_metrics({"val/loss": 1.0}, 0)
    logger.close("success")
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == 1 and "cannot be traced" in out.out and not out.err
    tags = events(tmp_path).Tags()
    assert not tags["graph"] and tags["scalars"] == ["val/loss"]
    assert net.training


def test_graph_is_traced_on_a_copy_that_is_not_compiled(tmp_path: Path) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("the compiled network was called")

    logger = TensorBoard(LoggerContext(composed(*OVERRIDES), tmp_path))
    backbone = Backbone(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), ["1"], [["0"]])
    net = EmotionNet(backbone, InputSpec(48, 1, (0.5,), (0.5,)))
    net(torch.zeros(1, 1, 48, 48))
    backbone._compiled_call_impl = called
    logger.log_network(net)
    logger.close("success")
    assert events(tmp_path).Tags()["graph"] and backbone._compiled_call_impl is called


def fail_after(calls_before: int, error: Exception) -> Callable[..., None]:
    calls = [0]

    def add_scalar(*_: Any, **__: Any) -> None:
        calls[0] += 1
        if calls[0] > calls_before:
            raise error

    return add_scalar


def test_training_continues_without_a_failing_logger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = fail_after(5, PermissionError(13, "not allowed"))
    monkeypatch.setattr(SummaryWriter, "add_scalar", failing)
    metrics = train(tmp_path / "run")
    out = capsys.readouterr().out
    warning = "warning: tensorboard failed and is disabled for this run: [Errno 13] not allowed"
    assert metrics["epochs"] == 2 and out.count(warning) == 1


def test_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The OSError is raised unchanged; last.ckpt exists."""
    monkeypatch.setattr(SummaryWriter, "add_scalar", fail_after(30, OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError) as caught:
        train(tmp_path / "run", "trainer.max_epochs=3")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_loggers_are_closed_if_one_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_lab.core.errors import UserError
    from emotion_lab.training.loggers import base

    closed = []
    monkeypatch.setattr(TensorBoard, "close", lambda self, status: closed.append(status))
    cfg = composed(*OVERRIDES)
    cfg["logger"]["nonesuch"] = {}
    with pytest.raises(UserError, match="Unknown logger 'nonesuch'"):
        base.build_loggers(LoggerContext(cfg, tmp_path))
    assert closed == ["failed"] and fitting.build_loggers is base.build_loggers
