"""Grid sweeps: isolated jobs, resuming, the summary and the sweep directory."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.evaluation.predictions_file import read_predictions
from emotion_lab.experiments.run.rescore import rescore
from emotion_lab.experiments.sweep import directory, subprocess_job, summary
from tests import forked
from tests.conftest import TINY, command, composed, make_checkpoint


def wait_for(file: Path, lines: int = 1, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if file.is_file() and len(file.read_text().splitlines()) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"{file} did not reach {lines} lines")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_failed_jobs_do_not_stop_the_sweep_and_resume_runs_missing_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "a sweep = [1]"
    # The third job diverges: its first layer overflows.
    large = make_checkpoint(composed(*TINY), tmp_path / "large.ckpt", list(EMOTIONS))
    content = ckpt.read(large)
    next(iter(content["state_dict"].values())).fill_(3e38)
    ckpt.write(large, content)
    overrides = [
        *("-m", *TINY, "trainer.max_epochs=1"),
        *("model.weights=null,missing.pth,large.ckpt", f"hydra.sweep.dir={folder}"),
    ]
    done = command(*overrides, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Error executing job" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "2 of 3 jobs have no result" in last and "sweep.resume=true" in last
    rows = table(folder)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed"]
    assert "missing.pth does not exist" in rows[1]["reason"]
    assert "optim.lr" in rows[2]["reason"] and "nan" in rows[2]["reason"].lower()
    assert rows[0]["reason"] == "" and 0 <= float(rows[0]["val_accuracy"]) <= 1
    for row in rows[1:]:  # the reason is printed once, in the line of the job
        assert done.stdout.count(row["reason"]) == 1
    assert "(model.weights=large.ckpt) failed; for the reason see above" in done.stdout
    # Without sweep.resume nothing is changed.
    repeated = command(*overrides, cwd=tmp_path)
    assert repeated.returncode == 2 and "add sweep.resume=true" in repeated.stderr
    # Once the weights exist, the job that failed without them is repeated.
    first = (folder / "0" / "metrics.json").read_bytes()
    (folder / "0" / "checkpoints" / "best.ckpt").rename(tmp_path / "missing.pth")
    again = command(*overrides, "sweep.resume=true", cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert "1 of 3 jobs have no result" in again.stderr
    assert [row["status"] for row in table(folder)] == ["finished", "finished", "failed"]
    assert (folder / "0" / "metrics.json").read_bytes() == first
    logs = [(folder / str(i) / "job.log").read_text() for i in range(3)]
    assert [log.count("  1/1  ") for log in logs] == [1, 1, 0]
    assert "error: " in logs[1], "the log has the output of both starts"
    job_lines = [line for line in again.stdout.splitlines() if line.startswith("job ")]
    assert job_lines[0].startswith("job 0: model.weights=null, val/macro_f1 0.")
    assert job_lines[1].startswith("job 1: model.weights=missing.pth, val/macro_f1 0.")
    assert job_lines[2].startswith("job 2: model.weights=large.ckpt, failed after ")
    assert again.stdout.startswith("3 jobs; the output of each is in ")
    assert "1/1" not in again.stdout and "Launching" not in again.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_job_is_resumed_and_can_be_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = forked.fork_jobs(monkeypatch)
    overrides = [*TINY, "trainer.max_epochs=25", "trainer.patience=null"]
    results: list[subprocess_job.JobResult] = []
    worker = threading.Thread(
        target=lambda: results.append(subprocess_job.run(overrides, tmp_path / "0"))
    )
    worker.start()
    wait_for(tmp_path / "0" / "history.csv", 3)
    job = subprocess_job.read(tmp_path / "0")
    assert job is not None and job.status == "running"
    jobs[0].kill()
    worker.join(60)
    assert results[0].status == "killed" and "SIGKILL" in str(results[0].reason)
    calls: list[Path] = []

    def should_prune(folder: Path) -> bool:
        calls.append(folder)
        return len(calls) > 1

    # The same job is resumed from its last checkpoint, and pruned at the second call.
    pruned = subprocess_job.run(overrides, tmp_path / "0", should_prune)
    assert (pruned.status, pruned.value) == ("pruned", None)
    assert pruned.seconds > results[0].seconds
    assert subprocess_job.read(tmp_path / "0") == pruned


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_stops_all_jobs_and_writes_the_summary(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    typed = (*TINY, "trainer.max_epochs=500", "trainer.patience=null", "seed=1,2")
    arguments = [sys.executable, "-m", "emotion_lab.train", "-m", *typed]
    with (tmp_path / "out").open("w") as out, (tmp_path / "errors").open("w") as errors:
        sweep = forked.Popen(
            [*arguments, f"hydra.sweep.dir={folder}"], cwd=tmp_path, stdout=out, stderr=errors
        )
    wait_for(folder / "0" / "history.csv", 2)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(60) == 130 and "Traceback" not in (tmp_path / "errors").read_text()
    assert (folder / "0" / "checkpoints" / "last.ckpt").is_file()
    (row,) = table(folder)
    assert row["status"] == "stopped"
    # No process trains in the directory.
    with FileLock(folder / "0" / ".lock", timeout=0):
        pass
    assert not (folder / "1").exists()


def test_finished_job_is_not_repeated_and_its_missing_results_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hasattr(os, "fork"):
        forked.fork_jobs(monkeypatch)
    run = tmp_path / "a job = [0]"
    overrides = [*TINY, "trainer.max_epochs=5", "trainer.patience=1", "seed=3", "optim.lr=1e-5"]
    first = subprocess_job.run(overrides, run)
    assert first.status == "finished" and first.reason is None and first.value is not None
    begin = time.perf_counter()
    assert subprocess_job.run(overrides, run) == first and time.perf_counter() - begin < 1
    with pytest.raises(UserError, match="holds another job"):
        subprocess_job.run([*overrides, "seed=9"], run)
    predictions, metrics = run / "predictions_val.csv", run / "metrics.json"
    was, scores = predictions.read_bytes(), json.loads(metrics.read_text())
    kept = {name: (run / name).read_bytes() for name in ("metrics.json", "checkpoints/best.ckpt")}
    predictions.unlink()
    with pytest.raises(UserError, match="no predictions of val") as caught:
        read_predictions(run, "val")
    # The command in the error message restores them and changes nothing else.
    typed = shlex.split(str(caught.value).split("Recreate them with ")[1])
    assert typed[:3] == ["python", "-m", "emotion_lab.evaluate"]
    done = command(*typed[3:], module=typed[2], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert predictions.read_bytes() == was and not (tmp_path / "outputs").exists()
    assert {name: (run / name).read_bytes() for name in kept} == kept
    # The sweep also restores predictions of another run, without training an epoch.
    predictions.write_bytes(was.replace(b"angry,angry", b"angry,sad", 1).replace(b",", b";", 1))
    assert not subprocess_job.is_complete(run)
    again = subprocess_job.run(overrides, run)
    assert (again.status, again.value) == ("finished", first.value)
    assert predictions.read_bytes() == was and subprocess_job.is_complete(run)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    # Without scores it is scored again. It had stopped early and is not trained further.
    history = (run / "history.csv").read_bytes()
    metrics.unlink()
    assert subprocess_job.run(overrides, run).value == first.value
    assert json.loads(metrics.read_text())["val"] == scores["val"]
    assert (run / "history.csv").read_bytes() == history and scores["epochs"] < 5
    # A damaged job.json is replaced.
    (run / subprocess_job.FILE).write_text("{")
    assert subprocess_job.run(overrides, run).value == first.value
    # Weights that do not reproduce the saved scores are rejected.
    wrong = {**scores["val"], "accuracy": scores["val"]["accuracy"] / 2 + 0.1}
    metrics.write_text(json.dumps({**scores, "val": wrong}))
    predictions.unlink()
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    with pytest.raises(UserError, match="nothing is written"):
        rescore(run, data, "cpu")
    assert not predictions.exists()


def write_job(
    folder: Path, number: int, overrides: list[str], value: float | None, **options: str
) -> None:
    run = folder / str(number)
    run.mkdir(parents=True)
    status = options.get("status", "finished" if value is not None else "failed")
    subprocess_job.JobResult(run, overrides, status, options.get("reason"), value, 10.0).save()
    if value is None:
        return
    seed = int(next(text for text in overrides if text.startswith("seed="))[5:])
    (run / "config.yaml").write_text(
        f"monitor: {options.get('monitor', 'val/macro_f1')}\ntrainer: {{mode: auto}}\n"
        f"data: {{fold: {options.get('fold', 'null')}}}\nloss: {{name: {options.get('loss')}}}\n"
    )
    val = {"accuracy": value + 0.1, "macro_f1": value, "loss": 1.0}
    content = {"val": val, "seed": seed, "epochs": 3, "monitor": {"best": value}}
    content["fingerprints"] = {"val": {"hash": options.get("images", "a")}}
    (run / "metrics.json").write_text(json.dumps(content))


def test_groups_over_seeds_are_ranked_by_their_mean(tmp_path: Path) -> None:
    scores = {("model=cnn", 1): 0.5, ("model=cnn", 2): 0.7, ("model=senet", 1): 0.65}
    scores |= {("model=senet", 2): 0.61}
    for number, ((model, seed), value) in enumerate(scores.items()):
        write_job(tmp_path, number, [model, f"seed={seed}"], value)
    write_job(tmp_path, 4, ["model=vit", "seed=1"], None, reason="no weights")
    write_job(tmp_path, 10, ["model=vit", "seed=2"], None, status="running")
    result = summary.write(tmp_path)
    assert result["jobs"] == {"all": 6, "finished": 4, "failed": 1, "killed": 1}
    overrides = [group["overrides"] for group in result["groups"]]
    assert overrides == [["model=senet"], ["model=cnn"], ["model=vit"]]
    senet, cnn, vit = result["groups"]
    assert cnn["n"] == 2 and cnn["seeds"] == [1, 2] and cnn["seconds"] == 20
    assert cnn["value"]["mean"] == pytest.approx(0.6)
    assert cnn["value"]["std"] == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert senet["val_accuracy"]["mean"] == pytest.approx(0.73)
    assert vit["n"] == 0 and vit["value"] is None and vit["failed"] == 2
    # The best single job is not in the best group.
    assert result["best"]["job"] == "1" and result["best"]["value"] == 0.7
    assert [row["job"] for row in table(tmp_path)] == ["0", "1", "2", "3", "4", "10"]
    assert json.loads((tmp_path / "summary.json").read_text()) == result
    text = "\n".join(map(str, summary.lines(tmp_path, result)))
    assert "model=senet" in text and "± 0.1414" in text and "no weights" in text
    assert "seconds (sum)" in text and f"python -m emotion_lab.compare runs={tmp_path}" in text


def test_repeated_runs_count_once(tmp_path: Path) -> None:
    for number, value in enumerate((0.5, 0.7, 0.9)):
        write_job(tmp_path, number, ["model=cnn", f"seed={min(number, 1) + 1}"], value)
    result = summary.write(tmp_path)
    (group,) = result["groups"]
    assert (group["n"], group["seeds"], group["repeated"], group["failed"]) == (2, [1, 2], 1, 0)
    # 0.5 and the later one of the repeated runs.
    assert group["value"]["mean"] == pytest.approx(0.7)
    text = "\n".join(map(str, summary.lines(tmp_path, result)))
    assert "1 not counted: same settings and seed" in text


def test_job_with_damaged_scores_has_no_result(tmp_path: Path) -> None:
    write_job(tmp_path, 0, ["seed=1"], 0.5)
    write_job(tmp_path, 1, ["seed=2"], 0.6)
    (tmp_path / "0" / "metrics.json").write_text('{"val": ')
    write_job(tmp_path, 2, ["seed=3"], 0.7)
    (tmp_path / "2" / subprocess_job.FILE).write_text("{")
    result = summary.write(tmp_path)
    assert result["jobs"] == {"all": 3, "failed": 2, "finished": 1} and result["best"]["job"] == "1"
    assert "job.json cannot be read" in table(tmp_path)[2]["reason"]
    assert "cannot be read as a training run" in table(tmp_path)[0]["reason"]


def test_minimized_metric(tmp_path: Path) -> None:
    for number, value in enumerate((1.2, 0.9)):
        write_job(tmp_path, number, [f"optim.lr={number}", "seed=1"], value, monitor="val/loss")
    result = summary.write(tmp_path)
    assert result["mode"] == "min" and result["best"]["job"] == "1"
    assert result["groups"][0]["overrides"] == ["optim.lr=1"]
    assert result["groups"][0]["value"]["std"] is None


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({}, {"monitor": "val/loss"}, "different monitors, val/loss (min) and val/macro_f1 (max)"),
        (
            {"monitor": "val/criterion", "loss": "ce"},
            {"monitor": "val/criterion", "loss": "focal"},
            "measured val/criterion with different losses",
        ),
        ({"images": "a"}, {"images": "b"}, "scored on different val images"),
        ({"fold": "0"}, {"fold": "1"}, "pool the folds with python -m emotion_lab.crossval runs="),
    ],
)
def test_scores_that_cannot_be_compared_are_not_ranked(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], reason: str
) -> None:
    write_job(tmp_path, 0, ["loss=ce", "seed=1"], 0.5, **first)
    write_job(tmp_path, 1, ["loss=focal", "seed=1"], 1.9, **second)
    write_job(tmp_path, 2, ["loss=focal", "seed=2"], None, reason="no data")
    result = summary.write(tmp_path)
    assert result["best"] is None and result["monitor"] is None and result["mode"] is None
    assert [group["overrides"] for group in result["groups"]] == [["loss=ce"], ["loss=focal"]]
    monitors = [options.get("monitor", "val/macro_f1") for options in (first, second)]
    assert [group["monitor"] for group in result["groups"]] == monitors
    text = "\n".join(map(str, summary.lines(tmp_path, result)))
    assert "not ranked: the jobs " in text and reason in text and "best" not in text
    assert f"1.9000 {monitors[1]}" in text and "emotion_lab.compare" not in text


def test_summary_without_any_result(tmp_path: Path) -> None:
    write_job(tmp_path, 0, ["seed=1"], None, reason="no data")
    result = summary.write(tmp_path)
    assert result["best"] is None and result["monitor"] is None
    assert "job 0 (seed=1) failed: no data" in summary.lines(tmp_path, result)


def test_jobs_that_failed_for_one_reason_are_in_one_line() -> None:
    jobs = [(str(i), "failed", "no data", f"seed={i}") for i in range(10)]
    (line,) = summary.unfinished("job", jobs, ())
    assert line.startswith("jobs 0 (seed=0), 1 (seed=1), ") and "7 (seed=7) and 2 more" in line
    assert line.endswith(" failed: no data")
    (line,) = summary.unfinished("job", jobs[:1], {"no data"})
    assert line == "job 0 (seed=0) failed; for the reason see above"


def open_directory(*typed: str) -> Path:
    return directory.open_directory(compose.precheck("train", list(typed), True), list(typed))


def test_resume_finds_the_sweep_with_the_same_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = open_directory("seed=1,2")
    assert directory.directory_of([directory.directory_override(first)]) == first
    other = open_directory("seed=1,2", "model=cnn")
    assert first != other, "two sweeps started in one second have two directories"
    assert open_directory("seed=1,2", "sweep.resume=true").resolve() == first.resolve()
    # The progress bar and the number of workers do not make another sweep.
    typed = ("seed=1,2", "trainer.enable_progress_bar=false", "data.num_workers=2")
    assert open_directory(*typed, "sweep.resume=true").resolve() == first.resolve()
    with pytest.raises(UserError, match="no sweep with these options"):
        open_directory("seed=1,2,3", "sweep.resume=true")
    # A damaged sweep is ignored if another one matches.
    (other / directory.FILE).write_text("{}")
    assert open_directory("seed=1,2", "sweep.resume=true").resolve() == first.resolve()
    with pytest.raises(UserError, match=r"sweep.json is damaged \('overrides'\)"):
        open_directory("seed=1,2,3", "sweep.resume=true")


def test_directory_of_another_sweep_is_rejected(tmp_path: Path) -> None:
    folder = f"hydra.sweep.dir={tmp_path}/s"
    open_directory("seed=1,2", folder)
    with pytest.raises(UserError, match=r"add sweep.resume=true"):
        open_directory("seed=1,2", folder)
    with pytest.raises(UserError, match="holds another sweep"):
        open_directory("seed=1,2,3", folder, "sweep.resume=true")
    assert open_directory("seed=1,2", folder, "sweep.resume=true") == tmp_path / "s"
    (tmp_path / "s" / directory.FILE).write_text('{"overrides": ["seed')
    with pytest.raises(UserError, match=r"sweep.json is damaged"):
        open_directory("seed=1,2", folder, "sweep.resume=true")
    (tmp_path / "t" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no sweep of emotion_lab"):
        open_directory("seed=1", f"hydra.sweep.dir={tmp_path}/t", "sweep.resume=true")
