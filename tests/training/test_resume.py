"""A killed or stopped run ends with the same weights as an uninterrupted one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.training import callbacks
from emotion_lab.training.fit import fit
from tests.conftest import TINY, command, composed
from tests.training.conftest import DRIVER, Tiny, press_ctrl_c

#: Components with a state or random numbers.
CASES = {
    "onecycle": (
        "schedule=onecycle",
        "optim=sgd",
        "trainer.ema_decay=0.8",
        "augment=strong",
        "mix.mixup=0.3",
        "mix.cutmix=0.5",
        "mix.probability=0.7",
    ),
    "plateau": (
        "schedule=plateau",
        "schedule.patience=0",
        "schedule.mode=max",
        "data.sampler=weighted",
        "model.freeze=backbone",
        "model.unfreeze_at_epoch=1",
        "trainer.patience=5",
        "augment=device",
        "augment.erase_p=0.5",
        "augment.progressive_resize=[[0,32],[0.5,48]]",
    ),
    "cosine": (
        "schedule=cosine",
        "trainer.accumulate_grad_batches=2",
        "augment=light",
        "data.num_workers=2",
    ),
}


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, averaged weights and history are identical."""
    a = ckpt.read(one / "checkpoints" / "last.ckpt")
    b = ckpt.read(other / "checkpoints" / "last.ckpt")
    for key in ("state_dict", "current_model_state"):
        for name, value in a.get(key, {}).items():
            assert torch.equal(value, b[key][name]), (key, name)
    assert a["global_step"] == b["global_step"] and a["epoch"] == b["epoch"]
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    best = [ckpt.read(run / "checkpoints" / "best.ckpt") for run in (one, other)]
    for name, value in best[0]["state_dict"].items():
        assert torch.equal(value, best[1]["state_dict"][name]), name


Reference = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def reference_of(make_once: Callable[..., Path]) -> Callable[[str], Reference]:
    """Return a function from a case to its config and uninterrupted run, 3 epochs of 4 steps."""

    def reference(case: str) -> Reference:
        cfg = composed(*TINY, *CASES[case], "trainer.max_epochs=3")
        return cfg, make_once(f"uninterrupted_{case}", lambda run: fit(cfg, run))

    return reference


@pytest.fixture(params=CASES)
def reference(
    request: pytest.FixtureRequest, reference_of: Callable[[str], Reference]
) -> Reference:
    return reference_of(request.param)


@pytest.mark.parametrize("step", [1, 5])
def test_ctrl_c_during_an_epoch(step: int, reference: Reference, tmp_path: Path) -> None:
    """Ctrl-C saves after the batch; the resumed run equals the uninterrupted one."""
    cfg, reference_dir = reference
    run = tmp_path / "stopped"
    run.mkdir()
    stopped = pytest.raises(callbacks.RunInterruptedError, match="resume=")
    with press_ctrl_c(step // 4, step % 4), stopped:
        fit(cfg, run)
    assert ckpt.read(run / "checkpoints" / "last.ckpt")["emotion_lab"]["epoch"] == step // 4
    fit(cfg, run, run / "checkpoints" / "last.ckpt")
    assert_same_end(reference_dir, run)


def test_stop_between_epochs_and_move_the_run(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped after validation, moved and resumed keeps its best.ckpt."""
    cfg, reference_dir = reference
    run = tmp_path / "stopped"
    run.mkdir()
    original = callbacks.MetricsHistory.on_train_epoch_end

    def press_ctrl_c(self: Any, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.MetricsHistory, "on_train_epoch_end", press_ctrl_c)
        with pytest.raises(callbacks.RunInterruptedError):
            fit(cfg, run)
    moved = run.rename(tmp_path / "elsewhere")
    fit(cfg, moved, moved / "checkpoints" / "last.ckpt")
    assert_same_end(reference_dir, moved)


@pytest.mark.parametrize(("moment", "count"), [("step", 6), ("save", 3), ("save", 4)])
def test_sigkill(
    moment: str,
    count: int,
    reference_of: Callable[[str], Reference],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL during an epoch and while a checkpoint is written; then resume=<run>."""
    (tmp_path / "driver.py").write_text(DRIVER)
    monkeypatch.setenv("FAILURE", f"{moment},0,{count}")
    run = tmp_path / "killed"
    overrides = [*TINY, *CASES["onecycle"], "trainer.max_epochs=3", f"hydra.run.dir={run}"]
    killed = command(*overrides, module="driver", cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = (run / "config.yaml").read_text()
    done = command(f"resume={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(run)
    assert_same_end(reference_of("onecycle")[1], run)
    assert (run / "config.yaml").read_text() == config and (run / "metrics.json").exists()
    assert not list((run / "checkpoints").glob(".*.tmp"))


def test_resume_of_a_broken_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    fit(tiny("trainer.max_epochs=1"), tmp_path)
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated"):
        fit(tiny(), tmp_path, file)


@pytest.mark.parametrize("updates", [0, 3])
def test_resume_a_checkpoint_of_an_older_version(
    updates: int, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history is complete; training metrics of a started epoch are reported as partial."""
    cfg = tiny("trainer.max_epochs=2", "schedule=none")
    fit({**cfg, "trainer": {**cfg["trainer"], "max_epochs": 1}}, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = ckpt.read(last)
    content["half_epoch"] = {"train_scores.accuracy": {"state": {}, "updates": updates}}
    content["callbacks"]["History"] = content["callbacks"].pop("MetricsHistory")
    ckpt.write(last, content)
    capsys.readouterr()
    assert len(fit(cfg, tmp_path, last).history.rows) == 2
    assert ("older version" in capsys.readouterr().out) == bool(updates)
