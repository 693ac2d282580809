"""User errors that involve several parts of the package: one early line, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.cli import app
from emotion_lab.core.environment import choose_precision
from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.models.base import build_model
from emotion_lab.training.factory import device_augment
from emotion_lab.training.fit import check_same_data, fit
from tests.conftest import TINY, command, composed

Tiny = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(("key", "value"), [("std", "nan"), ("mean", "inf")])
def test_numbers_must_be_finite(key: str, value: str, tiny: Tiny) -> None:
    cfg = tiny()["model"] | {key: [float(value)]}
    with pytest.raises(UserError, match="is not valid: expected a number"):
        build_model(cfg, 7)


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        choose_precision("fp16", "cpu")


def test_weights_that_diverge_in_the_last_step_are_not_saved(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny("optim=sgd", "optim.lr=1e30", "schedule=none", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"became|NaN"):
        fit(cfg, tmp_path)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_early_stopping_by_a_training_metric(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny(
        "monitor=train/loss",
        "trainer.monitor_mode=max",  # the loss falls, so no epoch after the first is better
        "trainer.patience=2",
        "trainer.max_epochs=9",
    )
    assert len(fit(cfg, tmp_path).history.rows) == 3


def test_small_colour_images_for_a_grey_network(tiny: Tiny) -> None:
    cfg = tiny("data.size=24", "data.channels=3", "augment=device")
    data = EmotionData(cfg["data"], ("train",), 0, "device")
    data.prepare_for(48, 1)
    assert next(iter(data.train_dataloader())).images.shape[1:] == (1, 48, 48)


def test_sizes_too_small_for_the_network(tiny: Tiny) -> None:
    cfg = composed("model=cnn", "model.widths=[8,8,8,8,8]", "augment=device")
    cfg["augment"]["progressive_resize"] = [[0, 16], [0.5, 48]]
    net, _ = build_model(cfg["model"], 7)
    with pytest.raises(UserError, match="does not accept 16 pixels"):
        device_augment(cfg["augment"], net)


def _folder(root: Path, names: list[str], count: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / name / f"{i}.png"), generator.integers(0, 256, (20, 20, 3)))
    return root


def test_one_class_is_refused(tmp_path: Path) -> None:
    _folder(tmp_path / "one", ["happy"])
    cfg = composed("data=image_folder", f"data.path={tmp_path / 'one'}")["data"]
    with pytest.raises(UserError, match="one class, happy"):
        load_data(cfg, ("train", "val"))


def test_foreign_data_without_splits_is_one_split(tmp_path: Path) -> None:
    _folder(tmp_path, ["happy", "sad"])
    cfg = composed("data=image_folder", f"data.path={tmp_path}")["data"]
    assert len(load_data(cfg, ("val",)).splits["val"]) < 12
    source = load_data(cfg, ("val",), carve=False)
    assert len(source.splits["val"]) == 12
    assert any("all 12 images are scored" in note for note in source.notes)


def test_data_that_changed_since_the_start_of_the_run() -> None:
    old = {"val": {"hash": "a" * 32, "n": 10}}
    check_same_data(old, {"val": {"hash": "a" * 32, "n": 10}})
    with pytest.raises(UserError, match="10 images at the start, 12 now"):
        check_same_data(old, {"val": {"hash": "b" * 32, "n": 12}})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (MemoryError("Unable to allocate 5.82 TiB"), "not enough memory"),
        (MemoryError(), "not enough memory (MemoryError)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("something else"), None),
        (ValueError("something else"), None),
    ],
)
def test_full_disk_and_full_memory_are_user_errors(error: Exception, words: str | None) -> None:
    result = app.as_user_error(error)
    assert (result is None) if words is None else (words in str(result))


def test_the_traceback_of_a_worker_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Caught in worker.\n  File x\nemotion_lab.core.errors.UserError: Bad image a.png."
    with pytest.raises(SystemExit):
        app.fail(UserError(text))
    assert capsys.readouterr().err == "error: Bad image a.png.\n"


def test_cfg_prints_the_config(tmp_path: Path) -> None:
    shown = command("--cfg", "job", module="emotion_lab.evaluate", cwd=tmp_path)
    assert shown.returncode == 0 and "tta: none" in shown.stdout


def test_two_ranks_open_the_test_split_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    completed = command(
        *(text for text in TINY if not text.startswith("trainer=")),
        *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1"),
        *("test=true", f"test_ledger={ledger}", f"hydra.run.dir={tmp_path / 'run'}"),
        cwd=tmp_path,
    )
    assert completed.returncode == 0, completed.stderr
    assert len(ledger.read_text().splitlines()) == 1
    assert completed.stdout.count("test: n =") == 1
    assert completed.stdout.count("synthetic faces of") == 1


def test_a_batch_of_one_that_batchnorm_cannot_train() -> None:
    with pytest.raises(ValueError) as caught:
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    assert "data.batch_size=2" in str(app.as_user_error(caught.value))
