"""TensorBoard: what was logged is read back by TensorBoard's own readers and its own server."""

from __future__ import annotations

import errno
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from emotion_lab.evaluation.final import finish
from emotion_lab.evaluation.media import monitoring_callbacks
from emotion_lab.models.base import Backbone, EmotionNet, InputSpec
from emotion_lab.training import fit as fitting
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import LoggerContext, close
from emotion_lab.training.loggers.tensorboard import TensorBoard, hyperparameters
from tests.conftest import TINY, composed

#: 4 steps an epoch.
GIVEN = (*TINY, "logger=tensorboard", "trainer.log_every_n_steps=1")


def whole_run(run: Path, *overrides: str) -> dict[str, Any]:
    """Train, score and close, as the command does; returns ``metrics.json``."""
    run.mkdir(parents=True)
    cfg = composed(*GIVEN, *overrides)
    fitted = fit(cfg, run, callbacks=monitoring_callbacks(cfg))
    finish(cfg, run, fitted)
    close(fitted.loggers, "success")
    return json.loads((run / "metrics.json").read_text())


def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0}).Reload()


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value), as TensorBoard shows them."""
    found = events(run)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a sweep of two runs that differ in learning rate and in a key only one has."""
    folder = tmp_path_factory.mktemp("sweep")
    given = (
        ("optim.lr=0.001", "logger.tensorboard.pictures_every=1"),
        ("optim.lr=0.003", "loss=focal", "logger.tensorboard.explain=0"),
    )
    return folder, [whole_run(folder / str(i), *some) for i, some in enumerate(given)]


def test_scalars_graph_and_pictures(sweep: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, (metrics, other) = sweep
    shown = curves(folder / "0")
    assert [step for step, _ in shown["val/macro_f1"]] == [3, 7]
    assert [step for step, _ in shown["train/loss_step"]] == list(range(8))
    for name in ("accuracy", "macro_f1", "loss"):
        assert shown[f"best/val/{name}"] == [(8, pytest.approx(metrics["val"][name], abs=1e-6))]
    assert shown["best/epoch"] == [(8, metrics["best_epoch"] + 1)]
    read = events(folder / "0")
    every = {tag: [event.step for event in read.Images(tag)] for tag in read.Tags()["images"]}
    assert every == {
        "val/confusion_by_epoch": [4, 8],
        "val/confusion": [8],
        "val/samples": [8],
        "val/explain": [8],
        "curves": [8],
    }
    picture = read.Images("val/explain")[0]
    assert picture.encoded_image_string[:4] == b"\x89PNG" and picture.width > 400
    names = {node.name.split("/")[0] for node in read.Graph().node}
    assert {"EmotionNet", "input", "output"} <= names
    # The second run wants neither maps nor matrices of every epoch.
    assert set(events(folder / "1").Tags()["images"]) == {"val/confusion", "val/samples", "curves"}
    assert (folder / "0" / "explain_val.png").is_file()
    assert not (folder / "1" / "explain_val.png").exists()
    assert other["val"]["n"] == 8


def test_confusion_of_an_epoch_is_that_of_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matrix drawn while training sums to val and has the accuracy that was logged."""
    from emotion_lab.reports import plots

    drawn = []
    original = plots.confusion

    def keep(scores: dict[str, Any], path: Path, title: str) -> Path:
        drawn.append((torch.tensor(scores["confusion"]), title))
        return original(scores, path, title)

    monkeypatch.setattr(plots, "confusion", keep)
    options = ("logger.tensorboard.pictures_every=2", "trainer.max_epochs=3", "trainer.ema_decay=0.5")
    cfg = composed(*GIVEN, *options)
    fitted = fit(cfg, tmp_path, callbacks=monitoring_callbacks(cfg))
    close(fitted.loggers, "success")
    ((counts, title),) = drawn
    assert title == "val, epoch 2: n = 8" and int(counts.sum()) == 8
    accuracy = float(counts.diag().sum()) / 8
    assert accuracy == pytest.approx(fitted.history.rows[1]["val/accuracy"])
    assert not monitoring_callbacks(composed(*GIVEN)) and not monitoring_callbacks(composed(*TINY))


def test_hparams_compare_a_sweep(sweep: tuple[Path, list[dict[str, Any]]]) -> None:
    """TensorBoard's own server finds what differs, and the best scores of every run."""
    folder, both = sweep
    board = program.TensorBoard()
    board.configure(argv=[None, "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
    url = board.launch()

    def ask(what: str, **body: Any) -> Any:
        data = json.dumps({"experimentName": "", **body}).encode()
        place = f"{url}data/plugin/hparams/{what}"
        request = urllib.request.Request(place, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    experiment = ask("experiment")
    differing = {info["name"] for info in experiment["hparamInfos"] if info.get("differs")}
    assert {"optim.lr", "loss.name"} <= differing and "seed" not in differing
    # Only the focal loss has it.
    assert "loss.gamma" in {info["name"] for info in experiment["hparamInfos"]}
    names = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert {"best/val/macro_f1", "best/val/accuracy"} <= names
    groups = ask(
        "session_groups",
        allowedStatuses=["STATUS_SUCCESS"],
        colParams=[{"hparam": "optim.lr", "order": "ORDER_ASC"}],
        startIndex=0,
        sliceSize=10,
    )["sessionGroups"]
    assert [group["hparams"]["optim.lr"] for group in groups] == [0.001, 0.003]
    for group, metrics in zip(groups, both, strict=True):
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert values["best/val/macro_f1"] == pytest.approx(metrics["val"]["macro_f1"], abs=1e-6)


def test_hyperparameters() -> None:
    """Dotted keys, values as TensorBoard takes them, nothing about where a run writes."""
    found = hyperparameters(composed(*GIVEN, "seed=3", "resume=x"))
    assert found["seed"] == 3 and found["model.name"] == "senet"
    assert found["model.widths"] == "[8, 8, 8, 8]"
    assert "trainer.max_time" not in found
    assert not any(key.startswith(("logger", "resume", "test_ledger", "sweep")) for key in found)


class Stop(L.Callback):
    """Ends a run at the beginning of a step, as a crash does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("crash")


@pytest.mark.parametrize("step", [6, 8])
def test_resumed_run_continues_its_curves(step: int, tmp_path: Path) -> None:
    """A run that crashed and went on shows the curves of one that never did: nothing twice."""
    cfg = composed(*GIVEN, "trainer.max_epochs=3", "trainer.precision=fp32")
    runs = [tmp_path / name for name in ("whole", "crashed")]
    for run in runs:
        run.mkdir()
    whole = fit(cfg, runs[0])
    finish(cfg, runs[0], whole)
    close(whole.loggers, "success")
    with pytest.raises(RuntimeError, match="crash"):
        fit(cfg, runs[1], callbacks=[Stop(step)])
    before = curves(runs[1])["train/loss_step"]
    assert [at for at, _ in before] == list(range(step))
    assert "_hparams_/session_end_info" not in events(runs[1]).PluginTagToContent("hparams")
    # TensorBoard sorts the files of one process and second by name, 10 before 9.
    time.sleep(1.1)
    again = fit(cfg, runs[1], runs[1] / "checkpoints" / "last.ckpt")
    finish(cfg, runs[1], again)
    close(again.loggers, "success")
    one, other = map(curves, runs)
    assert one == other
    assert [at for at, _ in other["train/loss_step"]] == list(range(12))
    plugin = events(runs[1]).PluginTagToContent("hparams")
    end = HParamsPluginData.FromString(plugin["_hparams_/session_end_info"])
    assert end.session_end_info.status == 1  # STATUS_SUCCESS


class Untraceable(nn.Module):
    """Its output is nothing a tracer can follow."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"a": object(), "b": x}


def test_network_that_cannot_be_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = LoggerContext(composed(*GIVEN), tmp_path)
    logger = TensorBoard(start)
    net = EmotionNet(Backbone(Untraceable(), [], []), InputSpec(48, 1, (0.5,), (0.5,)))
    net.train()
    logger.network(net)
    logger.log_metrics({"val/loss": 1.0}, 0)
    logger.close("success")
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == 1 and "cannot be traced" in out.out and not out.err
    found = events(tmp_path)
    assert not found.Tags()["graph"] and found.Tags()["scalars"] == ["val/loss"]
    assert net.training


def test_graph_leaves_a_compiled_network_alone(tmp_path: Path) -> None:
    """Drawing the graph is done on a copy that is not compiled."""

    def called(*_: Any) -> None:
        raise AssertionError("the compiled network was called")

    logger = TensorBoard(LoggerContext(composed(*GIVEN), tmp_path))
    backbone = Backbone(nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), ["1"], [["0"]])
    net = EmotionNet(backbone, InputSpec(48, 1, (0.5,), (0.5,)))
    net(torch.zeros(1, 1, 48, 48))
    backbone._compiled_call_impl = called
    logger.network(net)
    logger.close("success")
    assert events(tmp_path).Tags()["graph"] and backbone._compiled_call_impl is called


def broken(after: int, error: Exception) -> Callable[..., None]:
    calls = [0]

    def add_scalar(*_: Any, **__: Any) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise error

    return add_scalar


def test_failing_tracker_loses_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SummaryWriter, "add_scalar", broken(5, PermissionError(13, "not allowed")))
    metrics = whole_run(tmp_path / "run")
    out = capsys.readouterr().out
    assert metrics["epochs"] == 2 and out.count("going on without it") == 1
    assert "tensorboard: [Errno 13] not allowed; going on without it" in out


def test_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is passed on as it is: config.run makes the user's line of it, and last.ckpt is there."""
    monkeypatch.setattr(SummaryWriter, "add_scalar", broken(30, OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError) as caught:
        whole_run(tmp_path / "run", "trainer.max_epochs=3")
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_loggers_are_closed_when_one_cannot_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_lab.core.errors import UserError
    from emotion_lab.training.loggers import base

    closed = []
    monkeypatch.setattr(TensorBoard, "close", lambda self, status: closed.append(status))
    cfg = composed(*GIVEN)
    cfg["logger"]["nonesuch"] = {}
    with pytest.raises(UserError, match="Unknown logger 'nonesuch'"):
        base.build_loggers(LoggerContext(cfg, tmp_path))
    assert closed == ["failed"] and fitting.build_loggers is base.build_loggers
