"""W&B offline: what was written is read back record by record, and ``wandb sync`` takes it."""

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

import lightning as L
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.final import finish
from emotion_lab.training.fit import fit
from emotion_lab.training.loggers import LoggerContext, close
from emotion_lab.training.loggers import wandb as ours
from tests.conftest import TINY, composed

wandb = pytest.importorskip("wandb")

GIVEN = (*TINY, "logger=wandb", "trainer.log_every_n_steps=1", "trainer.precision=fp32")
#: A port where nobody listens.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True, scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """Nobody is logged in, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
            patch.delenv(key, raising=False)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield patch


def records(folder: Path) -> Iterator[Any]:
    """Yield W&B's records of a run folder's offline directories, oldest first.

    The frames are those of LevelDB's log; what is in them W&B's own protobuf reads.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, place, parts = file.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while place + 7 <= len(data):
            left = 32768 - place % 32768
            _, size, kind = struct.unpack_from("<IHB", data, place)
            if left < 7 or kind == 0:  # the rest of a block
                place += left
                continue
            parts += data[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(parts)
                parts = b""


def written(folder: Path) -> None:
    """Wait for W&B's own process, which may still write when ``finish`` returns."""
    until = time.monotonic() + 20
    runs = len(list(folder.glob("wandb/offline-run-*")))
    while time.monotonic() < until:
        kinds = [record.WhichOneof("record_type") for record in records(folder)]
        if kinds.count("exit") == runs:
            return
        time.sleep(0.1)
    raise AssertionError(f"W&B did not finish writing in {folder}")


def of(folder: Path, kind: str) -> list[Any]:
    return [getattr(r, kind) for r in records(folder) if r.WhichOneof("record_type") == kind]


def values(items: Any) -> dict[str, Any]:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}


def history(folder: Path) -> list[dict[str, Any]]:
    return [values(row.item) for row in of(folder, "history")]


def train(run: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    run.mkdir(parents=True, exist_ok=True)
    cfg = composed(*GIVEN, *overrides)
    last = run / "checkpoints" / "last.ckpt"
    fitted = fit(cfg, run, last if resume else None)
    finish(cfg, run, fitted)
    close(fitted.loggers, "success")
    written(run)
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the first job of a sweep, and its ``metrics.json``."""
    sweep = tmp_path_factory.mktemp("outputs") / "2026-01-31" / "12-00-00"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text("{}")
    return sweep / "0", train(sweep / "0", "logger.wandb.tags=[a,b]", "seed=4")


def test_run_config_and_curves(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = swept
    (run,) = of(folder, "run")
    card = json.loads((folder / "wandb.json").read_text())
    assert run.run_id == card["id"] and card["mode"] == "offline" and card["url"] is None
    assert run.run_group == card["group"] == "2026-01-31_12-00-00"
    assert run.job_type == "train" and run.project == "emotion_lab" and list(run.tags) == ["a", "b"]
    assert run.display_name == "senet, ce, seed 4"
    config = values(item for record in of(folder, "config") for item in record.update)
    assert config["seed"] == 4 and config["model"]["widths"] == [8, 8, 8, 8]
    rows = history(folder)
    assert [row["_step"] for row in rows] == list(range(9))
    scored = [row for row in rows if "val/macro_f1" in row]
    assert [row["_step"] for row in scored] == [3, 7]
    assert max(row["val/macro_f1"] for row in scored) == pytest.approx(metrics["monitor"]["best"])


def test_summary_pictures_and_graph(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = swept
    summary = values(item for record in of(folder, "summary") for item in record.update)
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
    assert of(folder, "exit")[-1].exit_code == 0


def test_what_is_not_sent(swept: tuple[Path, dict[str, Any]]) -> None:
    """Neither host nor packages nor repository; no checkpoint while offline."""
    folder, _ = swept
    (run,) = of(folder, "run")
    assert not run.host and not run.git.remote_url and not run.git.commit
    for kind in ("environment", "artifact", "output", "output_raw"):
        assert not of(folder, kind), kind
    files = {path.name for path in folder.glob("wandb/offline-run-*/files/*") if path.is_file()}
    assert not files & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}


def test_wandb_sync_takes_it(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = swept
    (offline,) = folder.glob("wandb/offline-run-*")
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", str(offline)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Would sync 1 run" in done.stdout + done.stderr


class Stop(L.Callback):
    """Ends a run at the beginning of a step, as a crash does."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if trainer.global_step == 8:
            raise RuntimeError("crash")


def test_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    """The second directory goes on with the id and the steps of the first."""
    cfg = composed(*GIVEN, "trainer.max_epochs=3", "logger.wandb.faces=false")
    with pytest.raises(RuntimeError, match="crash"):
        fit(cfg, tmp_path, callbacks=[Stop()])
    written(tmp_path)
    assert of(tmp_path, "exit")[-1].exit_code == 1
    before = json.loads((tmp_path / "wandb.json").read_text())["id"]
    time.sleep(1.1)  # W&B names its directories by the second
    train(tmp_path, "trainer.max_epochs=3", "logger.wandb.faces=false", resume=True)
    runs = of(tmp_path, "run")
    assert [run.run_id for run in runs] == [before, before] and all(run.resume for run in runs)
    rows = history(tmp_path)
    assert [row["_step"] for row in rows] == list(range(13))
    # faces=false: no image of a person.
    assert {key for key in rows[-1] if key.endswith("/path")} == {
        "curves/path",
        "val/confusion/path",
    }
    # A run that begins anew in the folder of one that never saved is another run.
    assert ours.known_id(LoggerContext(cfg, tmp_path, None)) is None
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(UserError, match=r"wandb\.json cannot be read"):
        ours.known_id(LoggerContext(cfg, tmp_path, 8))


def test_artifact_holds_the_checkpoint(tmp_path: Path) -> None:
    """Written into an offline run here: nothing can be sent where the tests run."""
    cfg = composed(*GIVEN)
    logger = ours.build(cfg["logger"]["wandb"], LoggerContext(cfg, tmp_path))
    file = tmp_path / "best.ckpt"
    torch.save({"weights": torch.zeros(3)}, file)
    logger.keep(file, {"best/val/accuracy": 0.5})
    logger.close("success")
    written(tmp_path)
    (artifact,) = of(tmp_path, "artifact")
    assert artifact.name == f"best-{logger.run.id}" and artifact.type == "model"
    assert "best" in artifact.aliases
    assert json.loads(artifact.metadata) == {"best/val/accuracy": 0.5}
    (content,) = artifact.manifest.contents
    assert content.path == "best.ckpt" and content.size == file.stat().st_size


def test_checkpoint_is_kept_online_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(ours.Wandb, "keep", lambda self, file, facts: kept.append(file))
    cfg = composed(*GIVEN)
    for offline, wanted in ((True, True), (False, False), (False, True)):
        run = type("Run", (), {"offline": offline, "summary": {}})()
        options = {**cfg["logger"]["wandb"], "checkpoint": wanted}
        ours.Wandb(run, options, tmp_path).results({"best/epoch": 1}, tmp_path / "b", 3)
    assert kept == [tmp_path / "b"]


def test_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``auto`` is online with a key for the server in use, and only then."""
    assert ours.offline("auto") and ours.offline("offline") and not ours.offline("online")
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    own = urlsplit(wandb.Settings().base_url).netloc
    for machine, offline in (("example.org", True), ("api.wandb.ai", False), (own, False)):
        netrc.write_text(f"machine {machine} login user password secret\n")
        assert ours.offline("auto") == offline, machine
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert ours.offline("auto")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not ours.offline("auto") and ours.offline("offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert ours.offline("auto")
    with pytest.raises(UserError, match="Unknown logger.wandb.mode 'on'"):
        ours.offline("on")


def test_sweep_name(tmp_path: Path) -> None:
    for parts, name in ((("2026-01-31", "12-00-00"), "2026-01-31_12-00-00"), (("x", "y"), "y")):
        sweep = tmp_path.joinpath(*parts)
        sweep.mkdir(parents=True)
        assert ours.sweep_of(sweep / "0") is None
        (sweep / "multirun.yaml").write_text("")
        assert ours.sweep_of(sweep / "0") == name


def test_server_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked for online: an error before the training. Else offline, which is said."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setattr(ours, "INIT_S", 2.0)
    cfg = composed(*GIVEN)
    begin = time.monotonic()
    with pytest.raises(UserError, match="W&B cannot be used online .* logger.wandb.mode=offline"):
        ours.build({**cfg["logger"]["wandb"], "mode": "online"}, LoggerContext(cfg, tmp_path))
    logger = ours.build(cfg["logger"]["wandb"], LoggerContext(cfg, tmp_path))
    assert time.monotonic() - begin < 40
    assert logger.run.offline
    logger.log_metrics({"val/loss": 1.0}, 0)
    logger.close("success")
    written(tmp_path)
    assert "going on offline" in capfd.readouterr().out
    assert history(tmp_path)[-1]["val/loss"] == 1.0


def test_failing_tracker_loses_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [0]
    original = wandb.Run.log

    def log(self: Any, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise BrokenPipeError(32, "its process is gone")
        original(self, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", log)
    metrics = train(tmp_path)
    out = capsys.readouterr().out
    assert metrics["epochs"] == 2 and calls[0] == 3
    assert out.count("wandb: [Errno 32] its process is gone; going on without it") == 1
