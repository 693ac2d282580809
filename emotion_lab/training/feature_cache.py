"""Features of a frozen backbone, computed once and used for training instead of the images."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor

from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.feature_dataset import CachedFeatures
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.finetune import trained_stages
from emotion_lab.training import feature_file
from emotion_lab.training.mixup import check_unmixed
from emotion_lab.training.module import EmotionModule
from emotion_lab.training.precompute import precompute


def check(cfg: dict[str, Any]) -> None:
    """Refuse options that do not fit ``data.feature_cache`` (whole config ``cfg``)."""
    cache, views = cfg["data"]["feature_cache"], cfg["data"]["feature_views"]
    if cache == "none":
        if views is not None:
            raise UserError(
                f"data.feature_views={views} needs data.feature_cache=ram or disk: otherwise every "
                "epoch augments the images anew."
            )
        return
    _check_views(cache, views, cfg["augment"]["name"])
    freeze, last = cfg["model"]["freeze"], cfg["model"]["unfreeze_last"]
    if last or (last is None and freeze == "none"):
        raise UserError(
            f"data.feature_cache={cache} needs a frozen backbone in the first epoch: set "
            "model.freeze=backbone and model.unfreeze_last=null, or data.feature_cache=none."
        )
    check_unmixed(cfg, "data.feature_cache")
    if cfg["distill"]["teacher"] is not None and not cfg["distill"]["precompute"]:
        raise UserError(
            "data.feature_cache with distill.teacher needs distill.precompute=true: the epochs "
            "that train on features have no images for the teacher."
        )


def _check_views(cache: str, views: int | None, augment: str) -> None:
    if augment != "none" and views is None:
        raise UserError(
            f"data.feature_cache={cache} computes the features of an image once, but "
            f"augment={augment} changes the images in every epoch. Set data.feature_views=<n> for "
            "n augmented views of each image, data.feature_views=0 to augment only after the "
            "backbone is unfrozen, or augment=none."
        )
    if augment == "none" and views:
        raise UserError(
            f"data.feature_views={views} needs an augmentation: with augment=none all views of an "
            "image are equal. Remove data.feature_views=, or set augment=device."
        )


def frozen_epochs(net: EmotionNet, cfg: dict[str, Any]) -> int:
    """Return the number of first epochs that train the classifier only."""
    epochs = range(cfg["trainer"]["max_epochs"])
    return next((e for e in epochs if trained_stages(net, cfg["model"], e)), len(epochs))


class FeatureCache(L.Callback):
    """Computes the features that the data module serves in the first epochs.

    The network must have one classifier, as its last layer.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Announce the features before the data loaders are built."""
        assert isinstance(pl_module, EmotionModule)
        heads = pl_module.model.backbone.head_names
        if len(heads) > 1:
            raise UserError(
                "data.feature_cache needs a network with one classifier, this one has "
                f"{len(heads)}: set data.feature_cache=none."
            )
        self.cfg, self.module = pl_module.cfg, pl_module
        self.data: EmotionData = trainer.datamodule  # type: ignore[attr-defined] # set at run time
        self.num_views = self.cfg["data"]["feature_views"] or 0
        self.data.features = CachedFeatures(frozen_epochs(pl_module.model, self.cfg))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read or compute the features, unless the run continues after the frozen epochs."""
        assert self.data.features is not None
        if self.data.epoch >= self.data.features.num_epochs:
            return
        pl_module.eval()
        with trainer.precision_plugin.forward_context():
            if self.cfg["data"]["feature_cache"] == "disk":
                values = self._from_file(str(trainer.precision))
            else:
                values = self._compute()
        self.data.features.values.update(values)

    def _from_file(self, precision: str) -> dict[str, Tensor]:
        model, location = self.cfg["model"], self.data.source.location
        file = feature_file.path(location, model["name"], str(model.get("backbone")))
        key = self._key(precision)
        values = feature_file.read(file, key)
        if values is not None:
            print(f"features: read from {file}", flush=True)
            return values
        values = self._compute()
        feature_file.write(file, key, values)
        return values

    def _key(self, precision: str) -> dict[str, str]:
        """Return what the features depend on; see :func:`.feature_file.read`."""
        names = self.data.source.splits
        splits = {name: self.data.fit_dataset(name).split for name in names}
        augmentation = [self.num_views]
        if self.num_views:
            epochs = self.cfg["trainer"]["max_epochs"]
            augmentation += [self.cfg["seed"], self.cfg["augment"], epochs]
        return {
            "images": feature_file.image_digest(splits),
            "weights": feature_file.weight_digest(self.module.model.backbone),
            "input": json.dumps(asdict(self.module.model.spec)),
            "views": json.dumps(augmentation),
            "precision": precision,
        }

    def _features(self, images: Tensor, view: int | None = None) -> Tensor:
        """Return the features of images; ``augment=device`` augments them as in epoch ``view``."""
        module = self.module
        if view is not None and module.augment is not None:
            images = module.augment(images, view / self.cfg["trainer"]["max_epochs"])
        return module.model.forward_features(images.contiguous(memory_format=module.memory_format))

    def _compute(self) -> dict[str, Tensor]:
        """Return the features of train and val, float32 (V, N, ...) each."""
        names = list(self.data.source.splits)
        self._check_head(next(iter(self.data.fit_batches(names[0]))).images.to(self.module.device))
        values = {}
        for name in names:
            views: list[int | None] = [None]
            if name == "train" and self.num_views:
                views = [*range(self.num_views)]
            outputs = []
            for view in views:
                # For the draws of augment=device; each training step sets its own seed.
                torch.manual_seed(self.cfg["seed"] * 1_000_003 + (view or 0))
                function = functools.partial(self._features, view=view)
                batches = self.data.fit_batches(name, view)
                outputs.append(precompute(function, batches, self.module.device, "features"))
            values[name] = torch.stack(outputs)
        size = sum(part.nbytes for part in values.values()) / 2**20
        counts = " and ".join(f"{part.shape[1]:,} {name}" for name, part in values.items())
        words = f", {self.num_views} augmented views of train" if self.num_views else ""
        print(f"features: computed for {counts} images{words}, {size:,.0f} MiB", flush=True)
        return values

    @torch.no_grad()
    def _check_head(self, images: Tensor) -> None:
        """Refuse a network whose output is not that of its classifier."""
        net = self.module.model
        logits, expected = net.backbone.head(self._features(images)), net(images)
        if logits.shape != expected.shape or not torch.allclose(logits, expected, 1e-3, 1e-3):
            raise UserError(
                "data.feature_cache needs a network that ends in its classifier "
                f"({net.backbone.head_names[0]}): set data.feature_cache=none."
            )
