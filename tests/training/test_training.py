"""Training end to end: every backbone, every loss, metrics, loggers, failures."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.losses import LOSSES, build_loss
from emotion_lab.models import MODELS, build_model
from emotion_lab.models.load import restore
from emotion_lab.training.fit import fit
from emotion_lab.training.module import EmotionModule
from tests.conftest import TINY, command, composed, run_training
from tests.training.conftest import Tiny, read_history

#: Overrides that make a model family small; other families run at 48 px.
SMALL = {
    "vit": ("model.image_size=64", "model.depth=2", "model.embed_dim=48", "model.heads=2"),
    "senet": ("model.widths=[8,8,8,8]", "model.stem=8"),
    "cnn": ("model.widths=[8,8,16,16]",),
    "timm": ("model.backbone=resnet10t", "model.image_size=48"),
    "torchvision": ("model.backbone=squeezenet1_1", "model.image_size=48"),
}


def small_model(name: str) -> list[str]:
    return [f"model={name}", *SMALL.get(name, ("model.image_size=48",))]


@pytest.mark.parametrize("model", MODELS.names())
def test_every_backbone_with_every_loss(model: str, tmp_path: Path) -> None:
    """One optimiser step with each loss; then save, load safely, equal logits."""
    cfg = composed("data=synthetic", *small_model(model))
    net, spec = build_model(cfg["model"], 7)
    images = torch.randint(0, 256, (4, spec.channels, spec.image_size, spec.image_size))
    images, labels = images.to(torch.uint8), torch.tensor([0, 1, 3, 6])
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    for loss in LOSSES.names():
        loss_cfg = composed("data=synthetic", f"loss={loss}")["loss"]
        criterion = build_loss(loss_cfg, 7, [1.0] * 7, [10] * 7)
        net.train()
        output = net(images)
        logits, auxiliary = output if isinstance(output, tuple) else (output, [])
        value = criterion(logits, labels) + sum(0.3 * criterion(a, labels) for a in auxiliary)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert torch.isfinite(value), loss
    assert len(auxiliary) == (2 if model == "googlenet" else 0)
    card = {
        "format": ckpt.FORMAT,
        "config": cfg,
        "classes": list("abcdefg"),
        "input": {**asdict(spec), "mean": list(spec.mean), "std": list(spec.std)},
    }
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    ckpt.write(tmp_path / "x.ckpt", {"state_dict": state, ckpt.CARD: card})
    again, _ = restore(tmp_path / "x.ckpt")
    with torch.inference_mode():
        torch.testing.assert_close(again(images), net.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("model", ["cnn", "googlenet", "mobilenetv3", "efficientnet_b3", "vit"])
def test_every_backbone_fits(model: str, tmp_path: Path) -> None:
    """Train two steps; the checkpoint evaluates to the scores of the history."""
    limits = ("data.limit=64", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    cfg = composed(*TINY[:3], *TINY[6:], *small_model(model), *limits)
    metrics = run_training(cfg, tmp_path)
    assert metrics["val"]["n"] == 8 and metrics["epochs"] == 1
    (row,) = read_history(tmp_path)
    assert metrics["val"]["accuracy"] == pytest.approx(float(row["val/accuracy"]), abs=1e-6)


def test_run_directory(tiny: Tiny, tmp_path: Path) -> None:
    """All public files exist and agree; the averaged weights are evaluated."""
    cfg = tiny(
        "trainer.ema_decay=0.8", "logger=[csv,tensorboard]", "test=true", "loss=weighted_focal"
    )
    cfg["test_ledger"] = str(tmp_path / "ledger.jsonl")
    run = tmp_path / "run"
    metrics = run_training(cfg, run)
    best = [row for row in read_history(run) if row["best"] == "True"][-1]
    assert metrics["monitor"]["best"] == pytest.approx(float(best["val/macro_f1"]))
    # best.ckpt was selected by the scores of the averaged weights, so it must contain them.
    for name in ("accuracy", "macro_f1", "macro_recall"):
        assert metrics["val"][name] == pytest.approx(float(best[f"val/{name}"]), abs=1e-6)
    for split in ("val", "test"):
        assert {"n", "accuracy", "macro_f1", "per_class", "confusion"} <= set(metrics[split])
        assert sum(map(sum, metrics[split]["confusion"])) == metrics[split]["n"]
    keys = {"seed", "commit", "epochs", "seconds", "images_per_s", "hardware", "versions"}
    assert keys <= metrics.keys()
    for name in ("curves.png", "confusion_val.png", "samples_val.png", "classification_report.txt"):
        assert (run / name).stat().st_size > 100
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert line["n"] == metrics["test"]["n"] and line["accuracy"] == metrics["test"]["accuracy"]
    assert line["checkpoint"] == file_hash(run / "checkpoints" / "best.ckpt")
    card = ckpt.read(run / "checkpoints" / "best.ckpt")[ckpt.CARD]
    assert card["classes"][3] == "happy" and card["fingerprints"]["val"]["n"] == 8
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    assert "val/macro_f1" in events.Tags()["scalars"] and "curves" in events.Tags()["images"]
    logged = (run / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "val/accuracy" in logged and "train/loss" in logged


def test_same_seed_same_run(tiny: Tiny, tmp_path: Path) -> None:
    """Seed 0 counts: two runs write the same history and weights; another seed does not."""
    text = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = tmp_path / name
        run.mkdir()
        fit(tiny(f"seed={seed}", "augment=light", "mix.mixup=0.2"), run)
        text.append((run / "history.csv").read_text())
    assert text[0] == text[1] != text[2]


def test_every_epoch_has_its_own_order_and_augmentation(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[Any]] = {}
    original = EmotionModule.training_step

    def spy(self: EmotionModule, batch: Any, index: int) -> Any:
        seen.setdefault(self.current_epoch, []).append(batch)
        return original(self, batch, index)

    monkeypatch.setattr(EmotionModule, "training_step", spy)
    fit(tiny("augment=light", "trainer.max_epochs=3"), tmp_path)
    orders = [torch.cat([b.positions for b in seen[e]]) for e in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(64))
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    first = [torch.cat([b.images for b in seen[e]])[orders[e].argsort()] for e in range(2)]
    assert (first[0] != first[1]).flatten(1).any(1).float().mean() > 0.8


def test_training_cannot_read_the_test_split(tiny: Tiny, tmp_path: Path) -> None:
    data = fit(tiny("trainer.max_epochs=1"), tmp_path).data
    assert set(data.source.splits) == {"train", "val"}
    with pytest.raises(UserError, match="not loaded"):
        data.eval_dataloader("test")


@pytest.mark.parametrize("option", ["monitor=test/accuracy", "schedule.monitor=test/loss"])
def test_monitoring_a_test_metric_is_refused(option: str, tiny: Tiny) -> None:
    with pytest.raises(UserError, match="never test/"):
        tiny("schedule=plateau", option)


def test_nan_loss_names_the_step_and_keeps_the_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = EmotionModule.training_step

    def diverge(self: EmotionModule, batch: Any, index: int) -> Any:
        if self.global_step == 6:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
        return original(self, batch, index)

    monkeypatch.setattr(EmotionModule, "training_step", diverge)
    with pytest.raises(UserError, match=r"at step 6 .*epoch 2") as caught:
        fit(tiny("trainer.max_epochs=3"), tmp_path)
    assert "last good checkpoint is kept" in str(caught.value)
    _, card = restore(tmp_path / "checkpoints" / "best.ckpt")
    assert card["epoch"] == 0


def test_full_disk_keeps_the_last_good_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    real = torch.save

    def full(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(file)
        if len(calls) > 2:
            file.write(b"half")
            raise OSError(28, os.strerror(28))
        real(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"disk is full; the last good .* is kept"):
        fit(tiny(), tmp_path)
    monkeypatch.undo()
    assert ckpt.read(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("schedule", ["none", "plateau", "step", "cosine", "onecycle"])
@pytest.mark.parametrize("optim", ["adam", "adamw", "sgd"])
def test_optimisers_and_schedules(schedule: str, optim: str, tiny: Tiny, tmp_path: Path) -> None:
    options = {
        "step": ["schedule.step_size=1"],
        "plateau": [f"schedule.{text}" for text in ("factor=0.5", "patience=0", "mode=max")],
    }.get(schedule, [])
    cfg = tiny(f"schedule={schedule}", f"optim={optim}", "optim.lr=0.01", *options)
    rates = [row["lr"] for row in fit(cfg, tmp_path).history.rows]
    if schedule == "none":
        assert rates == [0.01, 0.01]
    elif schedule == "step":
        assert rates == pytest.approx([0.001, 0.0001])
    elif schedule != "plateau":
        # With eight steps, the last learning rate is close to the end of the curve.
        assert rates[-1] < rates[0] and rates[-1] < 1e-3


def test_unfreezing(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen backbone is trained from unfreeze_at_epoch on; its BatchNorm stays frozen."""
    cfg = tiny("model.freeze=backbone", "model.unfreeze_at_epoch=1", "trainer.max_epochs=2")
    torch.manual_seed(0)
    seen: dict[int, dict[str, torch.Tensor]] = {}
    original = EmotionModule.on_train_epoch_start

    def spy(self: EmotionModule) -> None:
        original(self)
        seen[self.current_epoch] = {k: v.clone() for k, v in self.model.state_dict().items()}

    monkeypatch.setattr(EmotionModule, "on_train_epoch_start", spy)
    parameters = fit(cfg, tmp_path).facts["parameters"]
    moved = [k for k in seen[0] if not torch.equal(seen[0][k], seen[1][k])]
    assert moved and all("head" in k or "fc" in k or "classifier" in k for k in moved), moved
    last = ckpt.read(tmp_path / "checkpoints" / "last.ckpt")["state_dict"]
    assert any(not torch.equal(seen[1][k], last[f"model.{k}"]) for k in seen[1] if "conv" in k)
    assert parameters["trainable"] < parameters["total"]


def test_early_stopping(tiny: Tiny, tmp_path: Path) -> None:
    options = ("trainer.max_epochs=8", "trainer.patience=1", "optim.lr=1e-9", "schedule=none")
    assert len(fit(tiny(*options), tmp_path).history.rows) < 8


@pytest.mark.parametrize("mix", ["mix.mixup=0.4", "mix.cutmix=1.0"])
@pytest.mark.parametrize("loss", LOSSES.names())
def test_mixing_with_every_loss(mix: str, loss: str, tiny: Tiny, tmp_path: Path) -> None:
    fitted = fit(tiny(mix, f"loss={loss}", "trainer.max_epochs=1"), tmp_path)
    assert 0 < fitted.history.rows[0]["train/loss"] < 10


def test_command_line(tmp_path: Path) -> None:
    """The run directory is printed last; evaluate gives the same scores; best is not resumed."""
    run = tmp_path / "a run = [ä]"
    done = command(*TINY, f"hydra.run.dir={run}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(run)
    files = {path.name for path in run.iterdir()}
    assert {"checkpoints", "metrics.json", "history.csv", ".hydra"} <= files
    arguments = (f"ckpt={run}", f"hydra.run.dir={tmp_path / 'e'}")
    again = command(*arguments, module="emotion_lab.evaluate", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first = json.loads((run / "metrics.json").read_text())["val"]
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["val"] == first
    best = command(f"resume={run / 'checkpoints' / 'best.ckpt'}", cwd=tmp_path)
    assert best.returncode == 2 and "resume from the run directory" in best.stderr
