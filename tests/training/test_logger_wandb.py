"""W&B offline: the written records are read back, and ``wandb sync`` accepts them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import LoggerContext
from emotion_lab.training.loggers import wandb as wandb_logger
from tests.conftest import TINY, composed, run_training
from tests.training.conftest import Crash

wandb = pytest.importorskip("wandb")

OVERRIDES = (*TINY, "logger=wandb", "trainer.log_every_n_steps=1", "trainer.precision=fp32")
#: A port without a server.
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True, scope="module")
def logged_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Hide the W&B login of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
            patch.delenv(key, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield patch


def records(folder: Path) -> Iterator[Any]:
    """Yield W&B's records of the offline directories of a run, oldest first.

    The file has the frames of a LevelDB log with W&B's protobuf messages.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, offset, message = file.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while offset + 7 <= len(data):
            remaining = 32768 - offset % 32768
            _, size, kind = struct.unpack_from("<IHB", data, offset)
            if remaining < 7 or kind == 0:  # padding at the end of a block
                offset += remaining
                continue
            if offset + 7 + size > len(data):  # W&B is still writing it
                break
            message += data[offset + 7 : offset + 7 + size]
            offset += 7 + size
            if kind in (1, 4):  # a complete record, or its last part
                yield Record.FromString(message)
                message = b""


def wait_until_written(folder: Path) -> None:
    """Wait for W&B's service process, which may still write when ``finish`` returns."""
    deadline = time.monotonic() + 20
    runs = len(list(folder.glob("wandb/offline-run-*")))
    while time.monotonic() < deadline:
        kinds = [record.WhichOneof("record_type") for record in records(folder)]
        if kinds.count("exit") == runs:
            return
        time.sleep(0.1)
    raise AssertionError(f"W&B did not finish writing in {folder}")


def records_of(folder: Path, kind: str) -> list[Any]:
    return [getattr(r, kind) for r in records(folder) if r.WhichOneof("record_type") == kind]


def values(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def history(folder: Path) -> list[dict[str, Any]]:
    return [values(row.item) for row in records_of(folder, "history")]


def train(run: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    metrics = run_training(composed(*OVERRIDES, *overrides), run, resume)
    wait_until_written(run)
    return metrics


@pytest.fixture(scope="module")
def sweep_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the run directory of the first job of a sweep, and its ``metrics.json``."""
    sweep = tmp_path_factory.mktemp("outputs") / "2026-01-31" / "12-00-00"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    return sweep / "0", train(sweep / "0", "logger.wandb.tags=[a,b]", "seed=4")


def test_run_config_and_curves(sweep_job: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = sweep_job
    (run,) = records_of(folder, "run")
    card = json.loads((folder / "wandb.json").read_text())
    assert run.run_id == card["id"] and card["mode"] == "offline" and card["url"] is None
    assert run.run_group == card["group"] == "2026-01-31_12-00-00"
    assert run.job_type == "train" and run.project == "emotion_lab" and list(run.tags) == ["a", "b"]
    assert run.display_name == "senet, ce, seed 4"
    config = values(item for record in records_of(folder, "config") for item in record.update)
    assert config["seed"] == 4 and config["model"]["widths"] == [8, 8, 8, 8]
    rows = history(folder)
    assert [row["_step"] for row in rows] == list(range(9))
    scored = [row for row in rows if "val/macro_f1" in row]
    assert [row["_step"] for row in scored] == [3, 7]
    assert max(row["val/macro_f1"] for row in scored) == pytest.approx(metrics["monitor"]["best"])


def test_summary_pictures_and_graph(sweep_job: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = sweep_job
    summary = values(item for record in records_of(folder, "summary") for item in record.update)
    for name in ("accuracy", "macro_f1", "loss"):
        assert summary[f"best/val/{name}"] == metrics["val"][name]
    assert summary["run/parameters_total"] == metrics["parameters"]["total"]
    assert summary["run/seconds"] == metrics["seconds"]
    assert summary["run/temperature"] > 0
    last = history(folder)[-1]
    for name in ("val/confusion", "val/samples", "val/explain", "curves"):
        (path,) = folder.glob(f"wandb/offline-run-*/files/{last[f'{name}/path']}")
        assert path.read_bytes()[:4] == b"\x89PNG"
    (graph,) = folder.glob("wandb/offline-run-*/files/media/graph/*.json")
    nodes = json.loads(graph.read_text())["nodes"]
    assert {"stem", "classifier"} <= {node["name"].split(".")[0] for node in nodes}
    assert records_of(folder, "exit")[-1].exit_code == 0


def test_private_data_is_not_sent(sweep_job: tuple[Path, dict[str, Any]]) -> None:
    """No host name, packages, repository or console output; offline, no checkpoint."""
    folder, _ = sweep_job
    (run,) = records_of(folder, "run")
    assert not run.host and not run.git.remote_url and not run.git.commit
    for kind in ("environment", "artifact", "output", "output_raw"):
        assert not records_of(folder, kind), kind
    files = {path.name for path in folder.glob("wandb/offline-run-*/files/*") if path.is_file()}
    assert not files & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}


def test_wandb_sync_accepts_the_run(sweep_job: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = sweep_job
    (offline,) = folder.glob("wandb/offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", str(offline)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Would sync 1 run" in done.stdout + done.stderr


def test_two_runs_in_one_process(sweep_job: tuple[Path, Any], tmp_path: Path) -> None:
    """The second run gets its own offline directory: the first one was finished."""
    train(tmp_path, "trainer.max_epochs=1")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    assert len(list(sweep_job[0].glob("wandb/offline-run-*"))) == 1
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png"))


def test_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    """The second offline directory continues the id and the steps of the first."""
    cfg = composed(*OVERRIDES, "trainer.max_epochs=3", "logger.wandb.faces=false")
    with pytest.raises(RuntimeError, match="crash"):
        fit(cfg, tmp_path, callbacks=[Crash(8)])
    wait_until_written(tmp_path)
    assert records_of(tmp_path, "exit")[-1].exit_code == 1
    run_id = json.loads((tmp_path / "wandb.json").read_text())["id"]
    time.sleep(1.1)  # the names of W&B's directories have a resolution of one second
    train(tmp_path, "trainer.max_epochs=3", "logger.wandb.faces=false", resume=True)
    runs = records_of(tmp_path, "run")
    assert [run.run_id for run in runs] == [run_id, run_id] and all(run.resume for run in runs)
    rows = history(tmp_path)
    assert [row["_step"] for row in rows] == list(range(13))
    # faces=false: no image shows a face.
    pictures = {key for key in rows[-1] if key.endswith("/path")}
    assert pictures == {"curves/path", "val/confusion/path"}
    # A new run in the same directory gets a new id.
    assert wandb_logger.saved_run_id(LoggerContext(cfg, tmp_path, None)) is None
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb\.json cannot be read"):
        wandb_logger.saved_run_id(LoggerContext(cfg, tmp_path, 8))


def test_artifact_holds_the_checkpoint(tmp_path: Path) -> None:
    """The artifact is written to an offline run: tests have no W&B server."""
    cfg = composed(*OVERRIDES)
    logger = wandb_logger.build(cfg["logger"]["wandb"], LoggerContext(cfg, tmp_path))
    file = tmp_path / "best.ckpt"
    torch.save({"weights": torch.zeros(3)}, file)
    logger.log_checkpoint(file, {"best/val/accuracy": 0.5})
    logger.close("success")
    wait_until_written(tmp_path)
    (artifact,) = records_of(tmp_path, "artifact")
    assert artifact.name == f"best-{logger.run.id}" and artifact.type == "model"
    assert "best" in artifact.aliases
    assert json.loads(artifact.metadata) == {"best/val/accuracy": 0.5}
    (content,) = artifact.manifest.contents
    assert content.path == "best.ckpt" and content.size == file.stat().st_size


def test_checkpoint_is_uploaded_online_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = []
    monkeypatch.setattr(
        wandb_logger.Wandb, "log_checkpoint", lambda self, file, results: uploaded.append(file)
    )
    cfg = composed(*OVERRIDES)
    for offline, upload in ((True, True), (False, False), (False, True)):
        run = type("Run", (), {"offline": offline, "summary": {}})()
        options = {**cfg["logger"]["wandb"], "checkpoint": upload}
        wandb_logger.Wandb(run, options, tmp_path).log_results({"best/epoch": 1}, tmp_path / "b", 3)
    assert uploaded == [tmp_path / "b"]


def test_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``auto`` is online only with an API key for the configured server."""
    modes = ("auto", "offline", "online")
    assert [wandb_logger.is_offline(mode) for mode in modes] == [True, True, False]
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=on is not valid"):
        composed(*OVERRIDES, "logger.wandb.mode=on")
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    default = urlsplit(wandb.Settings().base_url).netloc
    for machine, offline in (("example.org", True), ("api.wandb.ai", False), (default, False)):
        netrc.write_text(f"machine {machine} login user password secret\n")
        assert wandb_logger.is_offline("auto") == offline, machine
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert wandb_logger.is_offline("auto")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not wandb_logger.is_offline("auto") and wandb_logger.is_offline("offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_logger.is_offline("auto")


def test_sweep_name(tmp_path: Path) -> None:
    for parts, name in ((("2026-01-31", "12-00-00"), "2026-01-31_12-00-00"), (("x", "y"), "y")):
        sweep = tmp_path.joinpath(*parts)
        sweep.mkdir(parents=True)
        assert wandb_logger.sweep_name(sweep / "0") is None
        (sweep / "multirun.yaml").write_text("")
        assert wandb_logger.sweep_name(sweep / "0") == name


def test_unreachable_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """mode=online is an error before training; mode=auto logs offline and prints a line."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", UNREACHABLE)
    monkeypatch.setattr(wandb_logger, "INIT_TIMEOUT_S", 2.0)
    cfg = composed(*OVERRIDES)
    start = time.monotonic()
    options, context = cfg["logger"]["wandb"], LoggerContext(cfg, tmp_path)
    refused = pytest.raises(
        UserError, match=r"cannot be used online .* logger\.wandb\.mode=offline"
    )
    with refused:
        wandb_logger.build({**options, "mode": "online"}, context)
    logger = wandb_logger.build(options, context)
    assert time.monotonic() - start < 40
    assert logger.run.offline
    logger.log_metrics({"val/loss": 1.0}, 0)
    logger.close("success")
    wait_until_written(tmp_path)
    assert "logging offline" in capfd.readouterr().out
    assert history(tmp_path)[-1]["val/loss"] == 1.0


def test_training_continues_without_a_failing_logger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [0]
    original = wandb.Run.log

    def log(self: Any, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise BrokenPipeError(32, "process is gone")
        original(self, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", log)
    metrics = train(tmp_path)
    out = capsys.readouterr().out
    assert metrics["epochs"] == 2 and calls[0] == 3
    assert out.count("wandb failed and is disabled for this run: [Errno 32] process is gone") == 1
