"""Option names of other tools and what to type here, for suggestions in error messages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

#: Word -> config keys; the first that the command has is suggested.
KEYS: dict[str, tuple[str, ...]] = {
    "accelerator": ("trainer.accelerator", "backend.device"),
    "amp": ("trainer.precision", "backend.precision"),
    "arch": ("model",),
    "augmentation": ("augment",),
    "backbone": ("model.backbone",),
    "batch": ("data.batch_size", "batch"),
    "batch_size": ("data.batch_size", "batch"),
    "camera": ("source",),
    "checkpoint": ("ckpt", "resume"),
    "checkpoint_path": ("ckpt", "resume"),
    "ckpt": ("resume",),
    "ckpt_path": ("ckpt", "resume"),
    "class_weights": ("data.class_weights",),
    "clip_grad": ("trainer.gradient_clip_val",),
    "conf": ("detector.score_threshold",),
    "confidence": ("detector.score_threshold",),
    "criterion": ("loss",),
    "cutmix": ("mix.cutmix",),
    "data_dir": ("data.path",),
    "data_path": ("data.path",),
    "dataset": ("data",),
    "device": ("trainer.accelerator", "backend.device"),
    "devices": ("trainer.devices",),
    "drop": ("model.dropout",),
    "dropout": ("model.dropout",),
    "early_stopping": ("trainer.patience",),
    "ema": ("trainer.ema_decay",),
    "epochs": ("trainer.max_epochs",),
    "folds": ("data.folds",),
    "freeze": ("model.freeze",),
    "gpu": ("trainer.devices", "backend.device"),
    "gpus": ("trainer.devices", "backend.device"),
    "grad_clip": ("trainer.gradient_clip_val",),
    "image": ("source",),
    "image_size": ("model.image_size",),
    "img_size": ("model.image_size",),
    "imgsz": ("model.image_size", "detector.size"),
    "input": ("source",),
    "input_size": ("model.image_size",),
    "iou": ("detector.nms_threshold",),
    "kfold": ("data.folds",),
    "label_smoothing": ("loss.label_smoothing",),
    "learning_rate": ("optim.lr",),
    "lr": ("optim.lr",),
    "lr0": ("optim.lr",),
    "lr_scheduler": ("schedule",),
    "max_epochs": ("trainer.max_epochs",),
    "mixup": ("mix.mixup",),
    "momentum": ("optim.momentum",),
    "n_epochs": ("trainer.max_epochs",),
    "name": ("hydra.run.dir",),
    "num_epochs": ("trainer.max_epochs",),
    "num_workers": ("data.num_workers",),
    "opt": ("optim",),
    "optimizer": ("optim",),
    "output": ("out", "save", "hydra.run.dir"),
    "output_dir": ("out", "hydra.run.dir"),
    "path": ("source", "data.path"),
    "patience": ("trainer.patience",),
    "precision": ("trainer.precision", "backend.precision"),
    "pretrained": ("model.pretrained",),
    "project": ("hydra.run.dir",),
    "sampler": ("data.sampler",),
    "save_dir": ("out", "hydra.run.dir"),
    "sched": ("schedule",),
    "scheduler": ("schedule",),
    "show": ("display",),
    "size": ("model.image_size", "detector.size"),
    "teacher": ("distill.teacher",),
    "threads": ("trainer.num_threads", "backend.threads"),
    "video": ("source",),
    "wandb": ("logger",),
    "warmup": ("schedule.warmup_epochs",),
    "warmup_epochs": ("schedule.warmup_epochs",),
    "wd": ("optim.weight_decay",),
    "weight_decay": ("optim.weight_decay",),
    "weights": ("ckpt", "model.weights"),
    "workers": ("data.num_workers",),
}

#: Config group -> {usual name: name here}.
CHOICES: dict[str, dict[str, str]] = {
    "data": {
        **dict.fromkeys(("fer", "fer_2013", "fer2013.csv"), "fer2013"),
        **dict.fromkeys(("folder", "imagefolder", "images", "custom"), "image_folder"),
        **dict.fromkeys(("webdataset", "wds", "shards"), "stream"),
    },
    "detector": {
        **dict.fromkeys(("opencv", "haarcascade", "viola_jones"), "haar"),
        **dict.fromkeys(("retina", "retina_face"), "retinaface"),
        **dict.fromkeys(("yolov5", "yolov8", "yolov11", "ultralytics"), "yolo"),
        **dict.fromkeys(("none", "skip"), "full_frame"),
    },
    "logger": {"tb": "tensorboard", "wb": "wandb", "weights_and_biases": "wandb"},
    "loss": {
        **dict.fromkeys(("cross_entropy", "crossentropy", "crossentropyloss", "nll"), "ce"),
        **dict.fromkeys(("focal_loss", "focalloss"), "focal"),
        **dict.fromkeys(("smooth", "smoothing", "ls"), "label_smoothing"),
        **dict.fromkeys(("weighted", "weighted_cross_entropy"), "weighted_ce"),
    },
    "schedule": {
        **dict.fromkeys(("constant", "constantlr"), "none"),
        **dict.fromkeys(("cosineannealinglr", "cosine_annealing"), "cosine"),
        **dict.fromkeys(("reducelronplateau", "reduce_on_plateau"), "plateau"),
        **dict.fromkeys(("onecyclelr", "one_cycle"), "onecycle"),
        **dict.fromkeys(("steplr", "multistep"), "step"),
    },
    "trainer": {**dict.fromkeys(("cuda", "single_gpu"), "gpu"), "fast_dev_run": "debug"},
}


def key(name: str, known: list[str]) -> list[str]:
    """Return the keys among ``known`` that a usual word stands for, the best first."""
    keys = KEYS.get(name.lower().replace("-", "_"), ())
    return [key for key in keys if key in known or key.startswith("hydra.")]


def choice(group: str, name: str, options: list[str]) -> str | None:
    """Return the option of a config group that a usual name stands for."""
    plain = name.lower().replace("-", "_")
    meant = CHOICES.get(group, {}).get(plain, plain)
    return meant if meant in options else None


def _library_names(package: str) -> set[str]:
    """Return the classifiers of a library, read from its source: importing it takes seconds."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return set()
    sources = (Path(spec.origin).parent / "models").glob("*.py")
    registered = r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)\("
    return {
        name
        for source in sources
        for name in re.findall(registered, source.read_text(encoding="utf-8"), re.M)
    }


def library_model(name: str) -> str | None:
    """Return what to type for the name of a network of torchvision or timm, else None."""
    plain = name.lower().replace("-", "_")
    words = [
        f"model={package} model.backbone={plain}"
        for package in ("torchvision", "timm")
        if plain.partition(".")[0] in _library_names(package)
    ]
    return " or ".join(words) or None
