"""LightningDataModule of any registered dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.class_weights import class_weights, sample_weights
from emotion_lab.data.feature_dataset import CachedFeatures, FeatureDataset
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.samplers import ResumableRandomSampler, SequentialDistributedSampler
from emotion_lab.data.shards.sampler import ShardSampler, shard_stores
from emotion_lab.data.splits import subsample
from emotion_lab.data.torch_dataset import SplitDataset, make_loader
from emotion_lab.data.transforms import Augment, Resize
from emotion_lab.data.types import LoadedDataset, Split
from emotion_lab.data.window_dataset import FrameNetwork, WindowDataset


class EmotionData(L.LightningDataModule):
    """Splits of a dataset and their loaders, for training and evaluation.

    Args:
        cfg: The ``data`` group as a plain dict.
        splits: The splits to open. Training opens ``("train", "val")``: the test split is not
            loaded, so training code cannot access it.
        seed: Seed of the run (order and augmentation).
        augment: Name of the augmentation preset, used for ``train`` only. With ``device`` the
            training loader returns images without augmentation; the training step augments them.
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
        self.resize: Resize | None = None
        # Of a temporal model: builds the dataset of windows of a split.
        self._windows: Callable[[Split, Resize], SplitDataset] | None = None
        self._datasets: dict[str, SplitDataset] = {}
        #: Features that replace images in the first epochs of train and val, or None.
        self.features: CachedFeatures | None = None
        self._sampler: ResumableRandomSampler | None = None
        self._val_sampler: SequentialDistributedSampler | None = None
        # Epoch and number of its batches already trained on; a resumed run starts here.
        self._position = (0, 0)
        # Of the resumed run, which may have had another number of processes.
        self._resumed_batch_size: int | None = None
        #: Size of the validation of an epoch: batches, or a fraction of val; None for all of val.
        self.limit_val_batches: int | float | None = None

    @property
    def classes(self) -> list[str]:
        """Class names in label order."""
        return self.source.classes

    def split(self, name: str) -> Split:
        """Return an opened split; a split that was not requested is an error."""
        if name not in self.source.splits:
            raise UserError(
                f"the {name} split is not loaded: only {list(self.source.splits)} opened"
            )
        return self.source.splits[name]

    def class_counts(self, name: str = "train") -> np.ndarray:
        """Return the images of each class in a split, int64 (K,)."""
        return np.bincount(self.split(name).labels, minlength=len(self.classes))

    def class_weights(self) -> np.ndarray:
        """Return the class weights of the training split, float32 (K,).

        A class of the frame network that the clips of a temporal model lack has weight 1.
        """
        method, beta = self.cfg["class_weights"], self.cfg["effective_beta"]
        counts = self.class_counts("train")
        known = counts > 0 if self._windows is not None else np.ones(len(counts), bool)
        weights = np.ones(len(counts), np.float32)
        weights[known] = class_weights(counts[known], method, beta)
        return weights

    def set_split_size(self, name: str, n: int) -> None:
        """Repeat or cut a split to ``n`` images, for benchmarks."""
        part = self.split(name)
        self.source.splits[name] = part.subset(np.resize(np.arange(len(part)), n))

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Return the fingerprint of every opened split (builtins only)."""
        return {
            name: fingerprint(split, self.classes, self.cfg.get("digest_of", "pixels"))
            for name, split in self.source.splits.items()
        }

    def prepare_for(self, image_size: int, channels: int) -> None:
        """Set the input size of the network; datasets are rebuilt for it."""
        self.resize = Resize(image_size, channels)
        self._datasets = {}

    def use_windows(self, frame: FrameNetwork, model: dict[str, Any]) -> None:
        """Give batches of windows over the outputs of a frame network, for a temporal model.

        Args:
            frame: The frame network.
            model: The ``model`` group; ``step_s`` and ``steps`` are used.
        """
        self._windows = functools.partial(
            WindowDataset, frame=frame, step_s=model["step_s"], steps=model["steps"]
        )
        self._datasets = {}

    def _cache_in_memory(self, split: Split, resize: Resize) -> bool:
        """Return whether ``data.cache`` keeps the decoded images of a split in memory."""
        if self.cfg["cache"] != "auto":
            return self.cfg["cache"] == "ram"
        resized = resize.image_size**2 * resize.channels * len(split)
        expected = min(split.store.size_hint(), resized)
        return expected <= self.cfg["cache_limit_mib"] * 2**20

    @property
    def _draws_labels(self) -> bool:
        return self.cfg.get("label_source") == "sampled"

    def dataset(self, name: str) -> SplitDataset:
        """Return the dataset of an opened split at the input size of the network."""
        if self.resize is None:
            raise RuntimeError("call prepare_for(image_size, channels) first")
        if name not in self._datasets:
            split = self.split(name)
            if self._windows is not None:
                return self._datasets.setdefault(name, self._windows(split, self.resize))
            augment = None
            on_device = self.augment_name == "device"
            if name == "train" and self.augment_name != "none" and not on_device:
                augment = Augment(self.augment_name, self.resize.image_size, self.seed)
            self._datasets[name] = SplitDataset(
                split,
                self.resize,
                augment,
                in_memory=self._cache_in_memory(split, self.resize),
                keep_grey=name == "train" and on_device,
                label_seed=self.seed if name == "train" and self._draws_labels else None,
            )
        return self._datasets[name]

    def _rank_and_world_size(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    @property
    def global_batch_size(self) -> int:
        """Images of a step over all processes; a resumed run keeps it on other devices."""
        return self._resumed_batch_size or self.cfg["batch_size"] * self._rank_and_world_size()[1]

    def _local_batch_size(self, world_size: int) -> int:
        """Return the images of a step for this process."""
        if self.global_batch_size % world_size:
            raise UserError(
                f"this run trains on {self.global_batch_size} images per step, which {world_size} "
                "processes cannot share evenly: set trainer.devices to a divisor of "
                f"{self.global_batch_size}."
            )
        return self.global_batch_size // world_size

    def _pin_memory(self) -> bool:
        """Return whether batches go to a GPU, which copies asynchronously from pinned memory."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def train_dataloader(self) -> DataLoader:
        """Return the training loader: shuffled, or weighted for ``data.sampler=weighted``."""
        data = self.dataset("train")
        weights = None
        if self.cfg["sampler"] == "weighted":
            weights = sample_weights(data.split.labels, len(self.classes))
        rank, world_size = self._rank_and_world_size()
        arguments = (self._local_batch_size(world_size), self.seed, weights, rank, world_size)
        sampler: ResumableRandomSampler
        if shard_stores(data.split.store):
            buffer_shards = self.cfg["shuffle_buffer_shards"]
            sampler = ShardSampler(data.split, buffer_shards, *arguments)
        else:
            sampler = ResumableRandomSampler(len(data), *arguments)
        sampler.epoch, sampler.start = self._position
        self._sampler = sampler
        return self._loader(self._cached("train", data), sampler)

    def val_dataloader(self) -> DataLoader:
        """Return the validation loader, in order; with a limit, of a stratified part of val."""
        data = self._cached("val", self._val_dataset())
        self._val_sampler = self._in_order(data, *self._rank_and_world_size())
        self._val_sampler.epoch = self.epoch
        return self._loader(data, self._val_sampler)

    def eval_dataloader(self, name: str) -> DataLoader:
        """Return a loader of an opened split: in order, without augmentation."""
        data = self._plain_dataset(name)
        return self._loader(data, self._in_order(data, *self._rank_and_world_size()))

    def fit_dataset(self, name: str) -> SplitDataset:
        """Return train, or val as it is validated on, without augmentation."""
        return self._val_dataset() if name == "val" else self._plain_dataset(name)

    def fit_batches(self, name: str, augmented_as: int | None = None) -> DataLoader:
        """Return a loader of :meth:`fit_dataset`, in order; every process gets all images.

        Args:
            name: ``train`` or ``val``.
            augmented_as: Augment train as in this epoch; None: not.
        """
        data = self.fit_dataset(name) if augmented_as is None else self.dataset(name)
        sampler = self._in_order(data)
        sampler.epoch = augmented_as or 0
        return self._loader(data, sampler)

    def _val_dataset(self) -> SplitDataset:
        """Return val, or the stratified part of it that ``limit_val_batches`` selects.

        The first batches would hold the first classes only, since folders are sorted.
        """
        split, limit = self.split("val"), self.limit_val_batches
        if limit is None or not len(split):
            return self._plain_dataset("val")
        step = self.cfg["batch_size"] * self._rank_and_world_size()[1]
        n = limit * step if isinstance(limit, int) else round(limit * len(split))
        n = max(n, len(np.unique(split.labels)))
        if n >= len(split):
            return self._plain_dataset("val")
        assert self.resize is not None
        part = subsample(split, n, int(self.cfg.get("split_seed") or 0))
        if self._windows is not None:
            return self._windows(part, self.resize)
        return SplitDataset(part, self.resize, None, self._cache_in_memory(part, self.resize))

    def _plain_dataset(self, name: str) -> SplitDataset:
        """Return the dataset of an opened split without augmentation."""
        data = self.dataset(name)
        if data.augment is not None or data.keep_grey or data.label_seed is not None:
            data = SplitDataset(data.split, data.resize)
        return data

    def _cached(self, name: str, data: SplitDataset) -> SplitDataset | FeatureDataset:
        return data if self.features is None else FeatureDataset(data, self.features, name)

    def _in_order(
        self, data: SplitDataset | FeatureDataset, rank: int = 0, world_size: int = 1
    ) -> SequentialDistributedSampler:
        return SequentialDistributedSampler(len(data), self.cfg["batch_size"], rank, world_size)

    def _loader(
        self,
        data: SplitDataset | FeatureDataset,
        sampler: ResumableRandomSampler | SequentialDistributedSampler,
    ) -> DataLoader:
        return make_loader(data, sampler, self.cfg["num_workers"], self._pin_memory())

    def set_epoch(self, epoch: int) -> None:
        """Select the order and augmentation of ``epoch``.

        Lightning calls ``set_epoch`` of ``loader.sampler`` only, not of a batch sampler.
        """
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        if self._val_sampler is not None:
            self._val_sampler.epoch = epoch

    @property
    def epoch(self) -> int:
        """The epoch that is trained next, or continued, counted from 0."""
        return self._position[0]

    def record_position(self, epoch: int, batches_done: int, num_batches: int) -> None:
        """Record how many batches of ``epoch`` were trained on."""
        self._position = (epoch, batches_done) if batches_done < num_batches else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data and the global batch size, for the checkpoint."""
        epoch, start = self._position
        return {"epoch": epoch, "start": start, "step": self.global_batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved position."""
        self._position = int(state_dict["epoch"]), int(state_dict["start"])
        self._resumed_batch_size = state_dict.get("step")
