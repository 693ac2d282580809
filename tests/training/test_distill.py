"""Distillation: the loss against a reference, the teacher's view of the images, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.models.base import InputSpec
from emotion_lab.training.distill import Distillation, build
from tests.conftest import TINY, command, make_checkpoint

CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


class Says(torch.nn.Module):
    """A teacher that says what it was told, and keeps what it saw."""

    def __init__(self, logits: torch.Tensor, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        self.spec = InputSpec(size, channels, (0.5,), (0.5,))
        self.says = torch.nn.Parameter(logits)
        self.seen = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return self.says


def test_the_loss_is_the_one_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    theirs, own = rng.normal(size=(2, 5, 3)) * 3
    order, t, share = [2, 0, 1], 3.0, 0.6
    teacher = Says(torch.tensor(theirs))
    distil = Distillation(teacher, order, teacher.spec, t, share)  # type: ignore[arg-type]
    student = torch.tensor(own, requires_grad=True)
    loss = distil(torch.tensor(1.25), student, torch.zeros(5, 1, 8, 8))
    p = softmax(theirs[:, order] / t, 1)
    kl = (p * (np.log(p) - log_softmax(own / t, 1))).sum(1).mean()
    assert float(loss) == pytest.approx(0.4 * 1.25 + 0.6 * t * t * kl, rel=1e-5)
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.says.grad is None and not teacher.says.requires_grad


@pytest.mark.parametrize(("own", "theirs"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_the_teacher_sees_its_own_channels_and_size(own: int, theirs: int) -> None:
    teacher = Says(torch.zeros(2, 3), theirs, 12)
    spec = InputSpec(8, own, (0.5,), (0.5,))
    distil = Distillation(teacher, [0, 1, 2], spec, 1, 1)  # type: ignore[arg-type]
    images = torch.full((2, own, 8, 8), 200.0)
    if own == 3:
        images[:, 1:] = 0
    distil.targets(images)
    assert teacher.seen.shape == (2, theirs, 12, 12)
    # Red alone is 0.299 of grey (BT.601).
    assert float(teacher.seen.max()) == pytest.approx(59.8 if (own, theirs) == (3, 1) else 200)


def node(**keys: Any) -> dict[str, Any]:
    return {"teacher": None, "temperature": 4.0, "alpha": 0.7, **keys}


def test_what_is_said_of_a_teacher(
    tmp_path: Path, tiny: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = InputSpec(48, 1, (0.5,), (0.25,))
    path = make_checkpoint(tiny(), tmp_path / "t.ckpt", list(reversed(CLASSES)))
    prints = ckpt.read(path)[ckpt.CARD]["fingerprints"]
    assert build(node(), spec, CLASSES, prints) == (None, None)
    prints["train"] = {"hash": "other", "n": 1}
    distil, facts = build(node(teacher=str(path)), spec, CLASSES, prints)
    assert distil is not None and distil.order == [6, 5, 4, 3, 2, 1, 0]
    assert facts is not None and facts["val_seen"] is None and len(facts["sha256"]) == 64
    assert "warning" not in capsys.readouterr().out
    other = {"train": {"hash": "a"}, "val": {"hash": "b"}}
    _, facts = build(node(teacher=str(path)), spec, CLASSES, other)
    assert facts is not None and "another val split" in facts["val_seen"]
    assert "another val split" in capsys.readouterr().out
    with pytest.raises(UserError, match="does not know bored"):
        build(node(teacher=str(path)), spec, [*CLASSES, "bored"], prints)


def test_a_student_is_trained_and_resumed(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    teacher = make_checkpoint(tiny("data.n=120"), tmp_path / "a teacher = 1.ckpt", CLASSES)
    run = tmp_path / "run"
    asked = [*TINY, f"distill.teacher={teacher}", "distill.alpha=1", f"hydra.run.dir={run}"]
    done = command(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["teacher"]["checkpoint"] == str(teacher)
    assert "another val split" in metrics["teacher"]["val_seen"]
    # The teacher is no part of the student: neither weights nor size.
    state = ckpt.read(run / "checkpoints" / "best.ckpt")["state_dict"]
    assert not [key for key in state if "teacher" in key or "distil" in key]
    assert metrics["parameters"]["total"] < 10_000
    # Going on needs the teacher again.
    more = command(f"resume={run}", cwd=tmp_path)
    assert more.returncode == 0 and f"teacher: {teacher}" in more.stdout
    teacher.unlink()
    gone = command(f"resume={run}", cwd=tmp_path)
    assert gone.returncode == 2 and str(teacher) in gone.stderr


def test_a_teacher_is_needed_and_must_be_there(tmp_path: Path) -> None:
    done = command("experiment=distill", "data=synthetic", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: a teacher is needed: distill.teacher=<a checkpoint or run folder>.\n"
    )
    done = command("experiment=distill", "data=synthetic", "distill.teacher=none", cwd=tmp_path)
    assert done.returncode == 2 and "no such checkpoint: none" in done.stderr
    assert not list(tmp_path.iterdir())
