"""Distillation: the loss against a reference, the teacher's input, and complete runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.data.torch_dataset import Batch
from emotion_lab.models.base import InputSpec
from emotion_lab.training.distill import Distillation, build
from emotion_lab.training.fit import fit
from emotion_lab.training.module import EmotionModule
from tests.conftest import TINY, command, make_checkpoint
from tests.training.conftest import CLASSES, Tiny

NO_POSITIONS = torch.zeros(0, dtype=torch.int64)


class FixedTeacher(torch.nn.Module):
    """Returns given logits and records its input."""

    def __init__(self, logits: torch.Tensor, channels: int = 1, size: int = 8) -> None:
        super().__init__()
        self.spec = InputSpec(size, channels, (0.5,), (0.5,))
        self.logits = torch.nn.Parameter(logits)
        self.images = torch.empty(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images = images
        return self.logits


def test_loss_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    teacher_logits, student_logits = rng.normal(size=(2, 5, 3)) * 3
    order, t, alpha = [2, 0, 1], 3.0, 0.6
    teacher = FixedTeacher(torch.tensor(teacher_logits))
    distillation = Distillation(teacher, order, teacher.spec, t, alpha)  # type: ignore[arg-type]
    student = torch.tensor(student_logits, requires_grad=True)
    loss = distillation(torch.tensor(1.25), student, torch.zeros(5, 1, 8, 8), NO_POSITIONS)
    p = softmax(teacher_logits[:, order] / t, 1)
    kl = (p * (np.log(p) - log_softmax(student_logits / t, 1))).sum(1).mean()
    assert float(loss) == pytest.approx(0.4 * 1.25 + 0.6 * t * t * kl, rel=1e-5)
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.logits.grad is None and not teacher.logits.requires_grad


@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_images_are_converted_to_the_teachers_input(student: int, teacher: int) -> None:
    net = FixedTeacher(torch.zeros(2, 3), teacher, 12)
    spec = InputSpec(8, student, (0.5,), (0.5,))
    distillation = Distillation(net, [0, 1, 2], spec, 1, 1)  # type: ignore[arg-type]
    images = torch.full((2, student, 8, 8), 200.0)
    if student == 3:
        images[:, 1:] = 0
    distillation.targets(images)
    assert net.images.shape == (2, teacher, 12, 12)
    # Red has a weight of 0.299 in grey (BT.601).
    grey = (student, teacher) == (3, 1)
    assert float(net.images.max()) == pytest.approx(59.8 if grey else 200)


class LeftHalfTeacher(FixedTeacher):
    """Returns the mean of the left half in units of 100, and 0; counts the images."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2))
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        left = images[..., :4].mean((1, 2, 3)) / 100
        return torch.stack([left, torch.zeros_like(left)], 1)


def test_precomputed_targets_are_the_mean_over_image_and_mirror_image() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 8, 8), generator=generator, dtype=torch.uint8)
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    labels = torch.zeros(6, dtype=torch.int64)
    batches = [Batch(images[part], labels[part], part) for part in order.split(4)]
    net = LeftHalfTeacher()
    distillation = Distillation(net, [1, 0], net.spec, 2.0, 1.0)  # type: ignore[arg-type]
    distillation.precompute(batches, torch.device("cpu"))  # type: ignore[arg-type]
    assert net.seen == 12
    positions = torch.tensor([5, 2])
    loss = distillation(torch.tensor(0.0), torch.zeros(2, 2), torch.zeros(2, 1, 8, 8), positions)
    assert net.seen == 12, "the teacher does not run in a step"
    halves = images[positions].float().reshape(2, 8, 2, 4).mean((1, 3)).numpy() / 100
    zeros = np.zeros(2)
    # The classes of the student are in the opposite order.
    both = [softmax(np.stack([zeros, half], 1) / 2, 1) for half in halves.T]
    p = (both[0] + both[1]) / 2
    kl = (p * (np.log(p) - np.log(0.5))).sum(1).mean()
    assert float(loss) == pytest.approx(4 * kl, rel=1e-4)


def test_precomputed_targets_are_computed_on_the_device_of_the_network(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the CPU before the network is moved."""
    cfg = tiny("data.n=120", "distill.precompute=true", "trainer.max_epochs=1", "augment=device")
    cfg["distill"]["teacher"] = str(make_checkpoint(cfg, tmp_path / "t.ckpt", CLASSES))
    seen: list[Any] = []
    original = Distillation.precompute

    def spy(self: Distillation, batches: Any, device: torch.device) -> None:
        seen.append(device)
        original(self, batches, device)

    monkeypatch.setattr(Distillation, "precompute", spy)
    monkeypatch.setattr(EmotionModule, "device", torch.device("cpu", 0))
    (tmp_path / "run").mkdir()
    fit(cfg, tmp_path / "run")
    assert seen == [torch.device("cpu", 0)]


class DeviceTeacher(LeftHalfTeacher):
    """Records where it and its images are; computes on the CPU."""

    def to(self, device: Any) -> DeviceTeacher:  # type: ignore[override]
        self.device = device
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.device == self.device
        return torch.zeros(len(images), 2)


def test_teacher_and_images_move_to_the_device() -> None:
    batch = Batch(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3), torch.arange(3))
    teacher = DeviceTeacher()
    distillation = Distillation(teacher, [0, 1], teacher.spec, 1.0, 1.0)  # type: ignore[arg-type]
    distillation.precompute([batch], torch.device("meta"))  # type: ignore[arg-type]
    assert teacher.device == torch.device("meta")


def config(**keys: Any) -> dict[str, Any]:
    return {"teacher": None, "temperature": 4.0, "alpha": 0.7, **keys}


def test_teacher_metadata(tmp_path: Path, tiny: Tiny) -> None:
    spec = InputSpec(48, 1, (0.5,), (0.25,))
    path = make_checkpoint(tiny(), tmp_path / "t.ckpt", list(reversed(CLASSES)))
    assert build(config(), spec, CLASSES) == (None, None)
    distillation, teacher = build(config(teacher=str(path)), spec, CLASSES)
    assert distillation is not None and distillation.class_order == [6, 5, 4, 3, 2, 1, 0]
    assert teacher is not None and len(teacher["sha256"]) == 64
    with pytest.raises(UserError, match="lacks the classes bored"):
        build(config(teacher=str(path)), spec, [*CLASSES, "bored"])


def test_train_and_resume_a_student(tmp_path: Path, tiny: Tiny) -> None:
    teacher = make_checkpoint(tiny("data.n=120"), tmp_path / "a teacher = 1.ckpt", CLASSES)
    run = tmp_path / "run"
    overrides = [*TINY, f"distill.teacher={teacher}", "distill.alpha=1", f"hydra.run.dir={run}"]
    done = command(*overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["teacher"]["checkpoint"] == str(teacher)
    (source,) = metrics["checkpoints"]
    assert source["key"] == "distill.teacher" and source["checkpoint"] == str(teacher)
    # The student's checkpoint and size do not include the teacher.
    state = ckpt.read(run / "checkpoints" / "best.ckpt")["state_dict"]
    assert not [key for key in state if "teacher" in key or "distil" in key]
    assert metrics["parameters"]["total"] < 10_000
    # A resumed run loads the teacher again.
    resumed = command(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0 and f"teacher: {teacher}" in resumed.stdout
    assert f"{run} has completed its " in resumed.stdout and "has completed" not in done.stdout
    teacher.unlink()
    missing = command(f"resume={run}", cwd=tmp_path)
    assert missing.returncode == 2 and str(teacher) in missing.stderr


def test_precomputed_targets_need_a_teacher_and_unmixed_images(tmp_path: Path, tiny: Tiny) -> None:
    cfg = tiny("data.n=120", "distill.precompute=true", "mix.cutmix=1")
    teacher = make_checkpoint(cfg, tmp_path / "t.ckpt", CLASSES)
    cfg["distill"]["teacher"] = str(teacher)
    with pytest.raises(UserError, match="does not support mix"):
        fit(cfg, tmp_path / "run")
    cfg["mix"]["cutmix"] = 0.0
    with pytest.raises(UserError, match="precompute=true needs a teacher"):
        fit({**cfg, "distill": {**cfg["distill"], "teacher": None}}, tmp_path / "run")
    losses = []
    for precompute in (True, True, False):
        cfg["distill"]["precompute"] = precompute
        folder = tmp_path / str(len(losses))
        folder.mkdir()
        losses.append(fit(cfg, folder).history.rows[-1]["train/loss"])
    assert losses[0] == losses[1] != losses[2]


def test_missing_teacher(tmp_path: Path) -> None:
    done = command("experiment=distill", "data=synthetic", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "error: a teacher is needed: distill.teacher=<a checkpoint or run directory>.\n"
    )
    done = command("experiment=distill", "data=synthetic", "distill.teacher=none", cwd=tmp_path)
    assert done.returncode == 2 and "no such checkpoint: none" in done.stderr
    assert not list(tmp_path.iterdir())
