"""Benchmark of training: baseline, ours from data to weights, and our training step alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from emotion_lab.benchmarks import baseline
from emotion_lab.benchmarks.data import build_data
from emotion_lab.core.environment import choose_precision
from emotion_lab.core.errors import UserError
from emotion_lab.core.timing import calls, peak_memory_mib, per_second, summary
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.models.base import EmotionNet, InputSpec, build_model, input_spec
from emotion_lab.training.callbacks import DataPositionCallback
from emotion_lab.training.factory import compile_backbone, make_module
from emotion_lab.training.feature_cache import FeatureCache
from emotion_lab.training.fit import quiet
from emotion_lab.training.optim import build_optimizer, supports_fused


class InterleavedTimer(L.Callback):
    """Times each epoch of our training, and the other pipelines between the epochs.

    The first round is a warm-up and is not counted. ``images`` is the number of images in an epoch;
    the functions of ``others`` train one epoch and return its number of images.
    """

    def __init__(
        self, images: int, others: dict[str, Callable[[], int]], name: str = "ours"
    ) -> None:
        self.images, self.others, self.name = images, others, name
        self.rates: dict[str, list[float]] = {key: [] for key in (name, *others)}
        self._start = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        _synchronize(pl_module.device)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock and time the other pipelines."""
        _synchronize(pl_module.device)
        rates = {self.name: self.images / (time.perf_counter() - self._start)}
        for name, work in self.others.items():
            with torch.enable_grad():
                rates[name] = per_second(work)
        round_ = trainer.current_epoch
        for name, rate in rates.items():
            print(f"  round {round_} {name}: {rate:,.0f} images/s", flush=True)
            if round_:
                self.rates[name].append(rate)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_step_alone(
    cfg: dict[str, Any], net: EmotionNet, spec: InputSpec, device: str, precision: str
) -> Iterator[int]:
    """Train on one batch that is already on the device: no data, metrics or Trainer.

    The number of images is yielded after as many steps as an epoch has.
    """
    batch_size = cfg["data"]["batch_size"]
    shape = (batch_size, spec.channels, spec.image_size, spec.image_size)
    images = torch.rand(shape, device=device) * 255
    if net.backbone.conv:
        images = images.contiguous(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)
    net = net.to(device).train()
    labels = torch.arange(batch_size, device=device) % 2
    groups = [{"params": list(net.parameters()), "weight_decay": cfg["optim"]["weight_decay"]}]
    fused = supports_fused(cfg, images.device, precision, sharded=False)
    optimizer = build_optimizer(cfg["optim"], groups, fused)
    steps = cfg["images"] // batch_size
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    while True:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device, dtype, enabled=dtype is not None):
                output = net(images)
                logits = output[0] if isinstance(output, tuple) else output
                loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
        _synchronize(images.device)
        yield steps * batch_size


def peak_memory(cfg: dict[str, Any], overrides: list[str]) -> float:
    """Return the peak MiB of a process that trains a few steps on the whole training split."""
    groups = ("data", "model", "loss", "optim", "augment")
    allowed = (*groups, "trainer", "seed")
    arguments = [text for text in overrides if text.split("=")[0].split(".")[0] in allowed]
    # bench.yaml and train.yaml have different defaults: choose those of bench explicitly.
    for group in groups:
        if not any(text.startswith(f"{group}=") for text in arguments):
            arguments.insert(0, f"{group}={cfg[group]['name']}")
    with tempfile.TemporaryDirectory() as folder:
        arguments += [
            "trainer.max_epochs=1",
            "trainer.limit_train_batches=8",
            "trainer.limit_val_batches=1",
            "logger=none",
            f"hydra.run.dir={folder}/run",
        ]
        return peak_memory_mib(["-m", "emotion_lab.train", *arguments])


def _check_classes(data: EmotionData, images: int) -> None:
    """Refuse so few images that a class has none: the loss has no weight for it."""
    pairs = zip(data.classes, data.class_counts(), strict=True)
    if missing := [name for name, count in pairs if not count]:
        raise UserError(
            f"images={images}: no image of class {', '.join(missing)} is among the first {images}: "
            f"set more, for instance images={8 * images}."
        )


def _time_all(cfg: dict[str, Any], device: str, precision: str) -> dict[str, dict[str, float]]:
    """Return the images per second of ``ours``, ``baseline`` and ``ceiling``, timed alternately."""
    spec = input_spec(cfg["model"])
    data = build_data(cfg, spec)
    batch_size, classes = cfg["data"]["batch_size"], data.classes
    _check_classes(data, cfg["images"])
    steps = cfg["images"] // batch_size
    net, baseline_net, ceiling_net = (build_model(cfg["model"], len(classes))[0] for _ in range(3))
    module = make_module(cfg, data, net, {"classes": classes})
    if cfg["model"]["compile"]:
        compile_backbone(ceiling_net)
    ceiling = train_step_alone(cfg, ceiling_net, spec, device, precision)
    with tempfile.TemporaryDirectory() as folder:
        baseline.write_folder(data.split("train"), classes, cfg["images"], Path(folder))
        files = baseline.loader(Path(folder), spec, batch_size, cfg["workers"])
        epochs = baseline.train_epochs(files, baseline_net, device)
        others = {"baseline": calls(epochs), "ceiling": calls(ceiling)}
        timer = InterleavedTimer(steps * batch_size, others)
        trainer = _trainer(cfg, device, precision, timer)
        trainer.fit(module, datamodule=data)
    return {name: summary(rates) for name, rates in timer.rates.items()}


def _trainer(
    cfg: dict[str, Any], device: str, precision: str, timer: InterleavedTimer, *more: L.Callback
) -> L.Trainer:
    """Return a Trainer that times ``rounds`` epochs after a first one."""
    return L.Trainer(
        accelerator=device,
        devices=1,
        precision=precision,  # type: ignore[arg-type] # choose_precision returns valid names
        max_epochs=cfg["rounds"] + 1,
        limit_train_batches=cfg["images"] // cfg["data"]["batch_size"],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[DataPositionCallback(), *more, timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=device == "cuda",
    )


def _time_frozen(cfg: dict[str, Any], device: str, precision: str) -> dict[str, dict[str, float]]:
    """Return the images per second of a frozen backbone, on images and on cached features.

    Empty for a network with auxiliary heads, whose features cannot be cached.
    """
    frozen = {"freeze": "backbone", "unfreeze_last": None, "unfreeze_at_epoch": None}
    cfg = {**cfg, "model": {**cfg["model"], **frozen}, "augment": {"name": "none"}}
    cfg["trainer"] = {**cfg["trainer"], "max_epochs": cfg["rounds"] + 1}
    images = cfg["images"] // cfg["data"]["batch_size"] * cfg["data"]["batch_size"]
    rates = {}
    for name, cache in (("frozen backbone", "none"), ("frozen, cached features", "ram")):
        cfg["data"] = {**cfg["data"], "feature_cache": cache, "feature_views": None}
        data = build_data(cfg, input_spec(cfg["model"]))
        net = build_model(cfg["model"], len(data.classes))[0]
        if len(net.backbone.head_names) > 1:
            return {}
        module = make_module(cfg, data, net, {"classes": data.classes})
        timer = InterleavedTimer(images, {}, name)
        more = [FeatureCache()] if cache == "ram" else []
        _trainer(cfg, device, precision, timer, *more).fit(module, datamodule=data)
        rates[name] = summary(timer.rates[name])
    return rates


def bench(cfg: dict[str, Any], device: str, overrides: list[str]) -> dict[str, Any]:
    """Run the benchmark; ``cfg`` is the composed ``bench`` config."""
    quiet()
    precision = choose_precision(cfg["trainer"]["precision"], device)
    rates = _time_all(cfg, device, precision)
    frozen = _time_frozen(cfg, device, precision)
    medians = {name: rate["median"] for name, rate in (rates | frozen).items()}
    result = {
        "plain_images_per_s": medians["baseline"],
        "ours_images_per_s": medians["ours"],
        "ceiling_images_per_s": medians["ceiling"],
        "ratio": round(medians["ours"] / medians["baseline"], 2),
        "of_ceiling": round(medians["ours"] / medians["ceiling"], 3),
        "rounds": {
            **{"ours": rates["ours"], "plain": rates["baseline"], "ceiling": rates["ceiling"]},
            **frozen,
        },
        "precision": precision,
        "peak_memory_mib": peak_memory(cfg, overrides),
    }
    if frozen:
        fast, slow = medians["frozen, cached features"], medians["frozen backbone"]
        result["cached_ratio"] = round(fast / slow, 1)
    if device == "cuda":
        result["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return result
