"""A sweep ends in an answer: jobs apart from each other, what is missing run later, a summary."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from emotion_lab import train
from emotion_lab.config import compose
from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import read_predictions
from emotion_lab.evaluation.rescore import restore
from emotion_lab.experiments.sweep import directory, subprocess_job, summary
from tests.conftest import TINY, command


def wait_for(file: Path, lines: int = 1, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if file.is_file() and len(file.read_text().splitlines()) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"{file} did not come to {lines} lines")


def table(place: Path) -> list[dict[str, str]]:
    with open(place / "summary.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_failed_jobs_end_no_other_and_a_restart_does_what_is_missing(tmp_path: Path) -> None:
    place = tmp_path / "a sweep = [1]"
    asked = [
        *("-m", *TINY, "trainer.max_epochs=1", "optim.lr=0.001,1e30"),
        *("model.weights=null,missing.pth", f"hydra.sweep.dir={place}"),
    ]
    done = command(*asked, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Error executing job" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "3 of 4 jobs have no result" in last and "sweep.resume=true" in last
    rows = table(place)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed", "failed"]
    assert "missing.pth does not exist" in rows[1]["reason"]
    assert "optim.lr" in rows[2]["reason"] and "nan" in rows[2]["reason"].lower()
    assert rows[0]["reason"] == "" and 0 <= float(rows[0]["val_accuracy"]) <= 1
    for row in rows[1:]:  # the reason is on the screen too
        assert row["reason"] in done.stdout
    # Without sweep.resume nothing is touched.
    refused = command(*asked, cwd=tmp_path)
    assert refused.returncode == 2 and "add sweep.resume=true" in refused.stderr
    # The weights have come; the job that failed for the want of them now has a result.
    first = (place / "0" / "metrics.json").read_bytes()
    (place / "0" / "checkpoints" / "best.ckpt").rename(tmp_path / "missing.pth")
    again = command(*asked, "sweep.resume=true", cwd=tmp_path)
    assert again.returncode == 1, again.stderr
    assert "2 of 4 jobs have no result" in again.stderr
    assert [row["status"] for row in table(place)] == ["finished", "finished", "failed", "failed"]
    assert (place / "0" / "metrics.json").read_bytes() == first
    assert "[0] " not in again.stdout and "[1] epoch 1/1" in again.stdout


def test_a_killed_job_is_named_and_goes_on_and_one_can_be_pruned(tmp_path: Path) -> None:
    asked = [*TINY, "trainer.max_epochs=25", "trainer.patience=null"]
    ends: list[subprocess_job.JobResult] = []
    worker = threading.Thread(target=lambda: ends.append(subprocess_job.run(asked, tmp_path / "0")))
    worker.start()
    wait_for(tmp_path / "0" / "history.csv", 3)
    assert subprocess_job.read(tmp_path / "0").status == "running"  # type: ignore[union-attr]
    # What `kill -9 <job>` does; the job's command names its folder.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(f"{tmp_path}/0'" in word for word in words):
            os.kill(int(process.name), signal.SIGKILL)
    worker.join(60)
    assert ends[0].status == "killed" and "SIGKILL" in str(ends[0].reason)
    wait = []
    # The same job goes on from its last checkpoint, and is stopped by whoever watches it.
    pruned = subprocess_job.run(
        asked, tmp_path / "0", watch=lambda run: wait.append(run) or len(wait) > 1
    )  # type: ignore[func-returns-value]
    assert (pruned.status, pruned.value) == ("pruned", None)
    assert pruned.seconds > ends[0].seconds
    assert subprocess_job.read(tmp_path / "0") == pruned


def test_finished_is_not_run_again_and_another_job_is_refused(tmp_path: Path) -> None:
    asked = [*TINY, "trainer.max_epochs=1"]
    first = subprocess_job.run(asked, tmp_path / "0")
    assert first.status == "finished" and first.reason is None and first.value is not None
    begin = time.perf_counter()
    again = subprocess_job.run(asked, tmp_path / "0")
    assert again == first and time.perf_counter() - begin < 1
    with pytest.raises(UserError, match="holds another job"):
        subprocess_job.run([*asked, "seed=9"], tmp_path / "0")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_ends_all_and_the_summary_is_written(tmp_path: Path) -> None:
    place = tmp_path / "s"
    sweep = subprocess.Popen(
        [
            *(sys.executable, "-m", "emotion_lab.train", "-m", *TINY, "trainer.max_epochs=500"),
            *("trainer.patience=null", "seed=1,2", f"hydra.sweep.dir={place}"),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(place / "0" / "history.csv", 2)
    sweep.send_signal(signal.SIGINT)
    _, errors = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "Traceback" not in errors, errors
    assert (place / "0" / "checkpoints" / "last.ckpt").is_file()
    (row,) = table(place)
    assert row["status"] == "stopped"
    left = [
        process
        for process in Path("/proc").glob("[0-9]*")
        if str(place) in (process / "cmdline").read_text(errors="replace")
    ]
    assert not left


def test_what_a_job_has_lost_is_brought_back(tmp_path: Path) -> None:
    run = tmp_path / "a job = [0]"
    asked = [*TINY, "trainer.max_epochs=5", "trainer.patience=1", "seed=3", "optim.lr=1e-5"]
    first = subprocess_job.run(asked, run)
    assert first.status == "finished"
    predictions, metrics = run / "predictions_val.csv", run / "metrics.json"
    was, scores = predictions.read_bytes(), json.loads(metrics.read_text())
    kept = {name: (run / name).read_bytes() for name in ("metrics.json", "checkpoints/best.ckpt")}
    predictions.unlink()
    with pytest.raises(UserError, match="no predictions of val") as caught:
        read_predictions(run, "val")
    # What the error says to type does bring them back, and changes nothing else.
    typed = shlex.split(str(caught.value).split("Bring them back with ")[1])
    assert typed[:3] == ["python", "-m", "emotion_lab.evaluate"]
    done = command(*typed[3:], module=typed[2], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert predictions.read_bytes() == was and not (tmp_path / "outputs").exists()
    assert {name: (run / name).read_bytes() for name in kept} == kept
    # So does the sweep, where they are another run's; and no epoch is trained.
    predictions.write_bytes(was.replace(b"angry,angry", b"angry,sad", 1).replace(b",", b";", 1))
    assert not subprocess_job.finished(run)
    again = subprocess_job.run(asked, run)
    assert (again.status, again.value) == ("finished", first.value)
    assert predictions.read_bytes() == was and subprocess_job.finished(run)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    # Without its scores it is scored anew. It had stopped early and trains no further epoch.
    history = (run / "history.csv").read_bytes()
    metrics.unlink()
    assert subprocess_job.run(asked, run).value == first.value
    assert json.loads(metrics.read_text())["val"] == scores["val"]
    assert (run / "history.csv").read_bytes() == history and scores["epochs"] < 5
    # What the job said of itself may be lost too.
    (run / subprocess_job.FILE).write_text("{")
    assert subprocess_job.run(asked, run).value == first.value
    # Other weights than those that were scored are refused.
    wrong = {**scores["val"], "accuracy": scores["val"]["accuracy"] / 2 + 0.1}
    metrics.write_text(json.dumps({**scores, "val": wrong}))
    predictions.unlink()
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    with pytest.raises(UserError, match="nothing is restored"):
        restore(run, data, "cpu")
    assert not predictions.exists()


# -- the summary --------------------------------------------------------------------------------


def fake(place: Path, number: int, overrides: list[str], value: float | None, **how: str) -> None:
    run = place / str(number)
    run.mkdir(parents=True)
    status = how.get("status", "finished" if value is not None else "failed")
    subprocess_job.JobResult(run, overrides, status, how.get("reason"), value, 10.0).save()
    if value is None:
        return
    seed = int(next(text for text in overrides if text.startswith("seed="))[5:])
    (run / "config.yaml").write_text(f"monitor: {how.get('monitor', 'val/macro_f1')}\n"
                                     "trainer: {mode: auto}\n")  # fmt: skip
    val = {"accuracy": value + 0.1, "macro_f1": value, "loss": 1.0}
    content = {"val": val, "seed": seed, "epochs": 3, "monitor": {"best": value}}
    (run / "metrics.json").write_text(json.dumps(content))


def test_groups_over_seeds_rank_by_the_mean(tmp_path: Path) -> None:
    scores = {("model=cnn", 1): 0.5, ("model=cnn", 2): 0.7, ("model=senet", 1): 0.65}
    scores |= {("model=senet", 2): 0.61}
    for number, ((model, seed), value) in enumerate(scores.items()):
        fake(tmp_path, number, [model, f"seed={seed}"], value)
    fake(tmp_path, 4, ["model=vit", "seed=1"], None, reason="no weights")
    fake(tmp_path, 10, ["model=vit", "seed=2"], None, status="running")
    found = summary.write(tmp_path)
    assert found["jobs"] == {"all": 6, "finished": 4, "failed": 1, "killed": 1}
    assert [group["overrides"] for group in found["groups"]] == [
        ["model=senet"],
        ["model=cnn"],
        ["model=vit"],
    ]
    senet, cnn, vit = found["groups"]
    assert cnn["n"] == 2 and cnn["seeds"] == [1, 2] and cnn["seconds"] == 20
    assert cnn["value"]["mean"] == pytest.approx(0.6)
    assert cnn["value"]["std"] == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert senet["val_accuracy"]["mean"] == pytest.approx(0.73)
    assert vit["n"] == 0 and vit["value"] is None and vit["failed"] == 2
    # The best single job need not be of the best group.
    assert found["best"]["job"] == "1" and found["best"]["value"] == 0.7
    assert [row["job"] for row in table(tmp_path)] == ["0", "1", "2", "3", "4", "10"]
    assert json.loads((tmp_path / "summary.json").read_text()) == found
    text = "\n".join(summary.lines(tmp_path, found))
    assert "model=senet" in text and "± 0.1414" in text and "no weights" in text


def test_equal_runs_count_once(tmp_path: Path) -> None:
    for number, value in enumerate((0.5, 0.7, 0.9)):
        fake(tmp_path, number, ["model=cnn", f"seed={min(number, 1) + 1}"], value)
    found = summary.write(tmp_path)
    (group,) = found["groups"]
    assert (group["n"], group["seeds"], group["repeated"], group["failed"]) == (2, [1, 2], 1, 0)
    assert group["value"]["mean"] == pytest.approx(0.7)  # 0.5 and the later of the equal two
    (line,) = [text for text in summary.lines(tmp_path, found) if "not counted" in text]
    assert "1 not counted: the same settings and seed again" in line


def test_a_job_whose_scores_are_damaged_has_no_result(tmp_path: Path) -> None:
    fake(tmp_path, 0, ["seed=1"], 0.5)
    fake(tmp_path, 1, ["seed=2"], 0.6)
    (tmp_path / "0" / "metrics.json").write_text('{"val": ')
    fake(tmp_path, 2, ["seed=3"], 0.7)
    (tmp_path / "2" / subprocess_job.FILE).write_text("{")
    found = summary.write(tmp_path)
    assert found["jobs"] == {"all": 3, "failed": 2, "finished": 1} and found["best"]["job"] == "1"
    assert "job.json cannot be read" in table(tmp_path)[2]["reason"]
    assert "cannot be read as a training run" in table(tmp_path)[0]["reason"]


def test_where_less_is_better_the_lowest_wins(tmp_path: Path) -> None:
    for number, value in enumerate((1.2, 0.9)):
        fake(tmp_path, number, [f"optim.lr={number}", "seed=1"], value, monitor="val/loss")
    found = summary.write(tmp_path)
    assert found["mode"] == "min" and found["best"]["job"] == "1"
    assert found["groups"][0]["overrides"] == ["optim.lr=1"]
    assert found["groups"][0]["value"]["std"] is None


def test_a_sweep_without_any_result_has_a_summary_too(tmp_path: Path) -> None:
    fake(tmp_path, 0, ["seed=1"], None, reason="no data")
    found = summary.write(tmp_path)
    assert found["best"] is None and found["monitor"] is None
    assert "no data" in "\n".join(summary.lines(tmp_path, found))


# -- the folder ---------------------------------------------------------------------------------


def choose(*typed: str) -> Path:
    return directory.choose(compose.precheck("train", list(typed), True), list(typed))


def test_the_same_sweep_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = choose("seed=1,2")
    assert directory.named([directory.override(first)]) == first
    other = choose("seed=1,2", "model=cnn")
    assert first != other, "two sweeps of one second have two folders"
    assert choose("seed=1,2", "sweep.resume=true").resolve() == first.resolve()
    with pytest.raises(UserError, match="no sweep with these options"):
        choose("seed=1,2,3", "sweep.resume=true")
    # One that is damaged is in nobody's way, but may be the one that is looked for.
    (other / directory.FILE).write_text("{}")
    assert choose("seed=1,2", "sweep.resume=true").resolve() == first.resolve()
    with pytest.raises(UserError, match=r"sweep.json is damaged \('overrides'\)"):
        choose("seed=1,2,3", "sweep.resume=true")


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    place = f"hydra.sweep.dir={tmp_path}/s"
    choose("seed=1,2", place)
    with pytest.raises(UserError, match="add sweep.resume=true"):
        choose("seed=1,2", place)
    with pytest.raises(UserError, match="holds another sweep"):
        choose("seed=1,2,3", place, "sweep.resume=true")
    assert choose("seed=1,2", place, "sweep.resume=true") == tmp_path / "s"
    (tmp_path / "s" / directory.FILE).write_text('{"overrides": ["seed')
    with pytest.raises(UserError, match="sweep.json is damaged"):
        choose("seed=1,2", place, "sweep.resume=true")
    (tmp_path / "t" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no sweep of ours"):
        choose("seed=1", f"hydra.sweep.dir={tmp_path}/t", "sweep.resume=true")


# -- mistakes, before any job starts --------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["seed=1,1"], "'seed=1,1' names 1 twice"),
        (["optim.lr=0.01,1e-2"], "names 0.01 twice"),
        (["model=cnn,senet,cnn"], "names cnn twice"),
        (["data.folds=5", "data.fold=range(6)"], "data.fold=5 is not valid: expected 0 to 4"),
        (["data.folds=3,5", "data.fold=2,3"], "data.fold=3 is not valid: expected 0 to 2"),
        (["data.fold=range(3)"], "means nothing without data.folds"),
        (["hydra.launcher.n_jobs=4", "seed=1,2"], "Name the launcher too, hydra/launcher=<name>"),
        (["hydra/launcher=jobli", "seed=1,2"], "Unknown hydra/launcher 'jobli'. Did you mean"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line(typed: list[str], said: str, tmp_path: Path) -> None:
    typed = ["data=synthetic", *typed, f"hydra.sweep.dir={tmp_path / 'never'}"]
    with pytest.raises(UserError) as caught:
        train.validate(compose.precheck("train", typed, True), typed)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_a_mistake_in_one_run_is_told_before_the_data_is_read(tmp_path: Path) -> None:
    def refused(*typed: str) -> str:
        overrides = ["data=synthetic", *typed, f"hydra.run.dir={tmp_path / 'never'}"]
        with pytest.raises(UserError) as caught:
            train.validate(compose.precheck("train", overrides), overrides)
        return str(caught.value)

    assert "expected 0 to 4" in refused("data.folds=5", "data.fold=5")
    assert "add -m" in refused("hydra/launcher=joblib")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no checkpoints/best.ckpt in" in refused(f"distill.teacher={empty}")


def test_a_folder_that_is_in_use_is_named_by_its_key(tmp_path: Path) -> None:
    def refused(*names: str, **options: str | None) -> str:
        with paths.locked_run_dir(tmp_path), pytest.raises(UserError) as caught:
            with paths.locked_run_dir(tmp_path, *names, **options):
                raise AssertionError
        return str(caught.value)

    assert "or set hydra.run.dir=<a new folder>" in refused()
    assert "or set hydra.sweep.dir=<a new folder>" in refused(key="hydra.sweep.dir")
    assert refused(key=None).endswith("wait until it is done.")
    (tmp_path / "done").touch()
    with pytest.raises(UserError, match="already holds done.* Set out=<a new folder>"):
        paths.check_fresh(tmp_path, "done", key="out")
