"""The LightningDataModule: any dataset, the splits it was allowed to open, and their loaders."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.class_weights import class_counts, class_weights, sample_weights
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.shards.sampler import stream_sampler
from emotion_lab.data.torch_dataset import (
    ResumableRandomSampler,
    SequentialDistributedSampler,
    SplitDataset,
    make_loader,
)
from emotion_lab.data.transforms import Augment, Resize
from emotion_lab.data.types import LoadedDataset, Split


class EmotionData(L.LightningDataModule):
    """FER2013, a folder of images or synthetic faces, as training and evaluation need them.

    Args:
        cfg: The ``data`` group as a plain dict.
        splits: The splits this process may open. Training gets ``("train", "val")``: the test
            split is not loaded, so nothing that trains can look at it.
        seed: The run's seed (order and augmentation).
        augment: Name of the augmentation preset, for ``train`` only. With ``device`` the training
            loader hands out plain images, which the training step augments.
        carve: See :func:`load_data`.
    """

    def __init__(
        self,
        cfg: dict[str, Any],
        splits: tuple[str, ...] = ("train", "val"),
        seed: int = 0,
        augment: str = "none",
        carve: bool = True,
    ) -> None:
        super().__init__()
        self.cfg, self.seed, self.augment_name = cfg, seed, augment
        self.source: LoadedDataset = load_data(cfg, splits, carve)
        self.fit_transform: Resize | None = None
        self._sets: dict[str, SplitDataset] = {}
        self._sampler: ResumableRandomSampler | None = None
        # Epoch and batches of it that were trained on: where a resumed run begins.
        self._at = (0, 0)
        # Images of a step of the run that is resumed, however many processes it had.
        self._step: int | None = None

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.source.classes

    def split(self, name: str) -> Split:
        """Return an opened split.

        Raises:
            UserError: If this data module was not allowed to open it.
        """
        if name not in self.source.splits:
            raise UserError(
                f"the {name} split is sealed here: only {list(self.source.splits)} opened"
            )
        return self.source.splits[name]

    def counts(self, name: str = "train") -> np.ndarray:
        """Return images per class of a split, int64 (K,)."""
        return class_counts(self.split(name), len(self.classes))

    def weights(self) -> np.ndarray:
        """Return the training split's class weights, float32 (K,)."""
        method, beta = self.cfg["class_weights"], self.cfg["effective_beta"]
        return class_weights(self.counts("train"), method, beta)

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Return the fingerprint of every opened split (builtins only)."""
        return {name: fingerprint(part, self.classes) for name, part in self.source.splits.items()}

    def prepare_for(self, image_size: int, channels: int) -> None:
        """Fix the input size once the network is known, and decode what is kept in memory."""
        self.fit_transform = Resize(image_size, channels)
        self._sets = {}

    def _keep(self, part: Split) -> bool:
        """Decide whether a split is held decoded in memory."""
        if self.cfg["cache"] != "auto":
            return self.cfg["cache"] == "ram"
        assert self.fit_transform is not None
        fitted = self.fit_transform.image_size**2 * self.fit_transform.channels * len(part)
        expected = min(part.store.size_hint(), fitted)
        return expected <= self.cfg["cache_limit_mib"] * 2**20

    def dataset(self, name: str) -> SplitDataset:
        """Return the dataset of a split, fitted to the network's input."""
        if self.fit_transform is None:
            raise RuntimeError("call prepare_for(image_size, channels) first")
        if name not in self._sets:
            part = self.split(name)
            augment = None
            on_device = self.augment_name == "device"
            if name == "train" and self.augment_name != "none" and not on_device:
                augment = Augment(self.augment_name, self.fit_transform.image_size, self.seed)
            self._sets[name] = SplitDataset(
                part,
                self.fit_transform,
                augment,
                keep=self._keep(part),
                skip_errors=self.cfg["on_decode_error"] == "skip",
                raw=name == "train" and on_device,
            )
        return self._sets[name]

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    @property
    def step(self) -> int:
        """Images of a step over all processes; a resumed run keeps it on other devices."""
        return self._step or self.cfg["batch_size"] * self._place()[1]

    def _share(self) -> int:
        """Return the images of a step that are this process's.

        Raises:
            UserError: If the step of a resumed run cannot be shared out evenly.
        """
        _, world = self._place()
        if self.step % world:
            raise UserError(
                f"this run learns {self.step} images a step, which {world} processes cannot share "
                f"evenly: set trainer.devices to a divisor of {self.step}."
            )
        return self.step // world

    def _pin(self) -> bool:
        """Tell whether batches go to a GPU, which copies from pinned memory while it works."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> DataLoader:
        """Return the shuffled (or weighted) training loader."""
        data = self.dataset("train")
        weights = None
        if self.cfg["sampler"] == "weighted":
            weights = sample_weights(data.split.labels, len(self.classes))
        rank, world = self._place()
        how = (self._share(), self.seed, weights, rank, world)
        sampler = stream_sampler(data.split, self.cfg, *how) or ResumableRandomSampler(
            len(data), *how
        )
        sampler.epoch, sampler.start = self._at
        self._sampler = sampler
        return make_loader(data, sampler, self.cfg["num_workers"], self._pin())

    def val_dataloader(self) -> DataLoader:
        """Return the validation loader, in order."""
        return self.plain_loader("val")

    def plain_loader(self, name: str) -> DataLoader:
        """Return a loader of an opened split: in order, without augmentation."""
        data = self.dataset(name)
        if data.augment is not None or data.raw:
            data = SplitDataset(data.split, data.fit, None, skip_errors=data.skip_errors)
        rank, world = self._place()
        sampler = SequentialDistributedSampler(len(data), self.cfg["batch_size"], rank, world)
        return make_loader(data, sampler, self.cfg["num_workers"], self._pin())

    def begin_epoch(self, epoch: int) -> None:
        """Give the next epoch its own order and augmentation.

        Lightning tells only ``loader.sampler`` of a new epoch, not a batch sampler.
        """
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def mark(self, epoch: int, done: int, of: int) -> None:
        """Remember that ``done`` batches ``of`` so many of ``epoch`` were trained on."""
        self._at = (epoch, done) if done < of else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data, for the checkpoint."""
        return {"epoch": self._at[0], "start": self._at[1], "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved place."""
        self._at = int(state_dict["epoch"]), int(state_dict["start"])
        self._step = state_dict.get("step")
