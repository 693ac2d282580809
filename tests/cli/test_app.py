"""Entry points: exit codes, one line on standard error, no heavy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_lab.config.overrides import flags, flags_first

#: Runs an entry point and prints the imported heavy packages on the last line of stdout.
WATCH = """
import sys
from emotion_lab.{entry} import main
sys.argv = ["{entry}", *sys.argv[1:]]
try:
    main()
finally:
    heavy = [name for name in ("torch", "lightning", "timm", "cv2") if name in sys.modules]
    print("heavy:", *heavy)
"""


def run(
    *arguments: str, cwd: Path, entry: str = "train", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an entry point in a separate process."""
    environment = {**os.environ, "EMOTION_LAB_DATA": "", "HYDRA_FULL_ERROR": "0", **environment}
    return subprocess.run(
        [sys.executable, "-c", WATCH.format(entry=entry), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def refused(
    *arguments: str, cwd: Path, entry: str = "train", heavy: bool = False, code: int = 2
) -> str:
    """Return the line that a refused command prints on stderr."""
    completed = run(*arguments, cwd=cwd, entry=entry)
    assert completed.returncode == code, completed.stderr
    assert completed.stderr.startswith("error: ")
    assert completed.stderr.count("\n") == 1, completed.stderr
    assert "Traceback" not in completed.stdout + completed.stderr
    if not heavy:
        assert completed.stdout == "heavy:\n"
        assert not any(cwd.iterdir()), "a run directory was created"
    return completed.stderr


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("train", ("model=\n", "weighted_focal", "optim.lr=0.001", "seed=0", "mix=", "HYDRA_FULL")),
        ("evaluate", ("data=\n", "ckpt=fer2013", "split=val", "trainer.accelerator=auto")),
    ],
)
def test_help_is_complete_and_light(entry: str, words: tuple[str, ...], tmp_path: Path) -> None:
    completed = run("--help", cwd=tmp_path, entry=entry)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.endswith("\nheavy:\n")
    for word in words:
        assert word in completed.stdout
    assert not any(tmp_path.iterdir())


def test_help_into_a_closed_pipe(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m emotion_lab.train --help | head -n 1"
    completed = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert completed.stderr == "" and completed.stdout.count("\n") == 1


def test_a_config_error_is_one_line(tmp_path: Path) -> None:
    text = refused("model=senett", cwd=tmp_path)
    assert "Did you mean 'senet'?" in text and "Set it with model=<name>." in text
    assert "--resume=x" in refused("--resume=x", cwd=tmp_path)


def test_a_sweep_over_several_devices_is_refused(tmp_path: Path) -> None:
    text = refused("-m", "trainer.devices=2", "seed=1,2", cwd=tmp_path)
    assert "a sweep runs one device a job" in text


def test_nothing_to_resume_or_to_overwrite(tmp_path: Path) -> None:
    assert "no such run directory" in refused("resume=none such", cwd=tmp_path)
    run_dir = tmp_path / "run [1]=a b"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "last.ckpt").touch()
    work = tmp_path / "work"
    work.mkdir()
    assert "already holds a run" in refused(f"hydra.run.dir={run_dir}", cwd=work)
    text = refused(f"resume={run_dir}", "model=cnn", cwd=work)
    assert "'model=cnn' cannot change" in text
    assert [p.name for p in run_dir.iterdir()] == ["checkpoints"]


def test_evaluate_needs_a_checkpoint(tmp_path: Path) -> None:
    assert "ckpt is missing" in refused("ckpt=null", cwd=tmp_path, entry="evaluate")
    assert "no such checkpoint: a b" in refused("ckpt=a b", cwd=tmp_path, entry="evaluate")


def test_missing_data_is_one_line_and_a_traceback_on_request(tmp_path: Path) -> None:
    text = refused("data.path=/no such/data", "trainer=cpu", cwd=tmp_path, heavy=True)
    assert "/no such/data" in text and "data.path=" in text
    completed = run("model=senett", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert completed.returncode == 1
    assert "Traceback" in completed.stderr and "UserError: Unknown model" in completed.stderr


def test_the_log_is_named_after_the_entry_point(tmp_path: Path) -> None:
    """The wrapper around the task must not rename Hydra's job."""
    code = (
        "import sys; from emotion_lab.cli import app\n"
        "from emotion_lab.core.errors import UserError\n"
        "def task(cfg): raise UserError('seed %d' % cfg.seed)\n"
        "app.run('train', task)\n"
    )
    command = [sys.executable, "-c", code, "hydra.run.dir=out"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (completed.returncode, completed.stderr) == (2, "error: seed 0\n")
    assert (tmp_path / "out" / "train.log").exists()
    # One failed job of a sweep does not stop the others.
    command = [sys.executable, "-c", code, "hydra.sweep.dir=many", "-m", "seed=1,2"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert completed.returncode == 2 and completed.stderr.endswith("error: seed 1\n")
    assert (tmp_path / "many" / "1" / "train.log").exists()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("loss=ce,focal seed=1,2 -m", "-m loss=ce,focal seed=1,2"),
        ("loss=ce,focal -m seed=1,2", "-m loss=ce,focal seed=1,2"),
        ("seed=1 -cn job seed=2 --cfg job ~logger", "-cn job --cfg job seed=1 seed=2 ~logger"),
        ("-m seed=1,2", "-m seed=1,2"),
    ],
)
def test_flags_may_stand_anywhere(typed: str, expected: str) -> None:
    argv = typed.split()
    overrides, multirun, _ = flags(argv)
    assert multirun == ("-m" in argv)
    assert flags_first(argv, overrides) == expected.split()


@pytest.mark.parametrize("multirun", [(), ("-m", "hydra.sweep.dir=many")])
def test_relative_paths_do_not_depend_on_chdir(tmp_path: Path, multirun: tuple[str, ...]) -> None:
    code = (
        "import sys; from pathlib import Path; from emotion_lab.cli import app\n"
        "def task(cfg): print(Path.cwd(), Path(cfg.data.path).resolve())\n"
        "app.run('train', task)\n"
    )
    (tmp_path / "faces").mkdir()
    command = [sys.executable, "-c", code, *multirun, "hydra.run.dir=out", "data.path=faces"]
    command.append("hydra.job.chdir=true")
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert completed.stdout == f"{tmp_path} {tmp_path / 'faces'}\n"
    assert completed.stderr.startswith("hydra.job.chdir=true has no effect: ")
    assert completed.stderr.count("\n") == 1
