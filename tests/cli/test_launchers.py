"""Launchers for the jobs of a sweep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from emotion_lab.cli import preflight
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError

NAMES = ("joblib", "ray", "submitit_local", "submitit_slurm")

#: A sweep whose jobs have no heavy imports.
LIGHT = """
import os
from pathlib import Path
from emotion_lab.cli import app
from hydra.core.hydra_config import HydraConfig

def task(cfg):
    text = f"{cfg.seed} {os.environ.get('OMP_NUM_THREADS')}"
    Path(HydraConfig.get().runtime.output_dir, "done").write_text(text)
    return 0.0

if __name__ == "__main__":
    app.run("train", task)
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_launcher_composes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("EMOTION_LAB_GPUS_A_JOB", "1")
    cfg = compose.precheck("train", [f"hydra/launcher={name}", "seed=1,2"], multirun=True)
    launcher = OmegaConf.to_container(cfg.hydra.launcher, resolve=name == "ray")
    assert launcher["_target_"].startswith("hydra_plugins.")
    if name == "ray":
        assert launcher["ray"]["init"]["address"] == "10.0.0.1:6379"
        assert launcher["ray"]["remote"]["num_gpus"] == 1
    if name == "submitit_slurm":
        assert launcher["gpus_per_node"] == launcher["tasks_per_node"] == 1


def test_a_launcher_that_is_not_installed() -> None:
    installed = OmegaConf.create({"launcher": {"_target_": "hydra._internal.core_plugins.x.X"}})
    preflight.check_launcher(installed)
    missing = {"launcher": {"_target_": "hydra_plugins.hydra_none_launcher.core.None"}}
    with pytest.raises(UserError, match="pip install hydra-none-launcher"):
        preflight.check_launcher(OmegaConf.create(missing))


def test_joblib_runs_parallel_jobs_and_divides_the_cores(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "light.py").write_text(LIGHT)
    import joblib

    arguments = ("-m", "hydra/launcher=joblib", "hydra.sweep.dir=out", "seed=1,2,3")
    completed = subprocess.run(
        [sys.executable, "light.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert completed.returncode == 0, completed.stderr
    share = max(1, joblib.cpu_count() // 2)
    outputs = [(tmp_path / "out" / str(job) / "done").read_text() for job in range(3)]
    assert outputs == [f"{seed} {share}" for seed in (1, 2, 3)]
