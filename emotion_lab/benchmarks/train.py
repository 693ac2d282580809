"""How fast training goes: the plain way, ours from data to weights, and our step alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from emotion_lab.benchmarks import baseline
from emotion_lab.benchmarks import data as reading
from emotion_lab.core.environment import choose_precision
from emotion_lab.core.timing import calls, peak_of, per_second, summary
from emotion_lab.models.base import EmotionNet, InputSpec, build_model, input_spec
from emotion_lab.training.callbacks import DataPositionCallback
from emotion_lab.training.factory import compile_backbone, make_module
from emotion_lab.training.fit import quiet
from emotion_lab.training.optim import build_optimizer, fuses


class InterleavedTimer(L.Callback):
    """Times each epoch of our training and, between the epochs, the other ways.

    The first round warms up and is not counted.
    """

    def __init__(self, images: int, others: dict[str, Callable[[], int]]) -> None:
        self.images, self.others = images, others
        self.rates: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        self._begin = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        _wait(pl_module.device)
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it, then time the others."""
        _wait(pl_module.device)
        took = {"ours": self.images / (time.perf_counter() - self._begin)}
        for name, work in self.others.items():
            with torch.enable_grad():
                took[name] = per_second(work)
        turn = trainer.current_epoch
        for name, rate in took.items():
            print(f"  round {turn} {name}: {rate:,.0f} images/s", flush=True)
            if turn:
                self.rates[name].append(rate)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ceiling(
    cfg: dict[str, Any], net: EmotionNet, spec: InputSpec, device: str, precision: str, classes: int
) -> Iterator[int]:
    """Take steps on one batch that is ready on the device: no data, no metrics, no Trainer.

    Yields:
        The number of images of as many steps as an epoch of the other ways has.
    """
    batch_size = cfg["data"]["batch_size"]
    shape = (batch_size, spec.channels, spec.image_size, spec.image_size)
    images = torch.rand(shape, device=device) * 255
    if net.backbone.conv:
        images = images.contiguous(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)
    net = net.to(device).train()
    labels = torch.arange(batch_size, device=device) % classes
    groups = [{"params": list(net.parameters()), "weight_decay": cfg["optim"]["weight_decay"]}]
    optimizer = build_optimizer(cfg["optim"], groups, fuses(cfg, images.device, precision, False))
    steps = cfg["images"] // batch_size
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    while True:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device, half, enabled=half is not None):
                output = net(images)
                logits = output[0] if isinstance(output, tuple) else output
                loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
        _wait(images.device)
        yield steps * batch_size


def memory(cfg: dict[str, Any], overrides: list[str]) -> float:
    """Return the peak MiB of a process that trains a few steps on the whole training split."""
    groups = ("data", "model", "loss", "optim", "augment")
    keep = (*groups, "trainer", "seed")
    given = [text for text in overrides if text.split("=")[0].split(".")[0] in keep]
    # bench and train have defaults of their own: say all of bench's.
    for group in groups:
        if not any(text.startswith(f"{group}=") for text in given):
            given.insert(0, f"{group}={cfg[group]['name']}")
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *given,
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=8",
            "trainer.limit_val_batches=1",
            "logger=none",
            f"hydra.run.dir={folder}/run",
        ]
        return peak_of(["-m", "emotion_lab.train", *arguments])


def bench(cfg: dict[str, Any], device: str, overrides: list[str]) -> dict[str, Any]:
    """Measure; ``cfg`` is the composed ``bench`` config."""
    quiet()
    spec = input_spec(cfg["model"])
    data = reading.prepared(cfg, spec)
    batch_size = cfg["data"]["batch_size"]
    steps = cfg["images"] // batch_size
    precision = choose_precision(cfg["trainer"]["precision"], device)
    net, _ = build_model(cfg["model"], len(data.classes))
    module = make_module(cfg, data, net, {"classes": data.classes})
    classes = len(data.classes)
    with tempfile.TemporaryDirectory() as folder:
        baseline.write_folder(data.split("train"), data.classes, cfg["images"], Path(folder))
        files = baseline.loader(Path(folder), spec, batch_size, cfg["workers"])
        slow = baseline.epochs(files, build_model(cfg["model"], classes)[0], device)
        alone = build_model(cfg["model"], classes)[0]
        if cfg["model"]["compile"]:
            compile_backbone(alone)
        ready = ceiling(cfg, alone, spec, device, precision, classes)
        timer = InterleavedTimer(
            steps * batch_size, {"plain": calls(slow), "ceiling": calls(ready)}
        )
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            precision=precision,
            max_epochs=cfg["rounds"] + 1,
            limit_train_batches=steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=[DataPositionCallback(), timer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=device == "cuda",
        )
        trainer.fit(module, datamodule=data)
    rates = {name: summary(values) for name, values in timer.rates.items()}
    result = {
        "plain_images_per_s": rates["plain"]["median"],
        "ours_images_per_s": rates["ours"]["median"],
        "ceiling_images_per_s": rates["ceiling"]["median"],
        "ratio": round(rates["ours"]["median"] / rates["plain"]["median"], 2),
        "of_ceiling": round(rates["ours"]["median"] / rates["ceiling"]["median"], 3),
        "rounds": rates,
        "precision": precision,
        "peak_memory_mib": memory(cfg, overrides),
    }
    if device == "cuda":
        result["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return result
