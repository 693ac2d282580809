"""Batches: what is in them, in which order, and what must not change it."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.class_weights import sample_weights
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.samplers import ResumableRandomSampler, SequentialDistributedSampler
from emotion_lab.data.torch_dataset import Batch, SplitDataset, make_loader
from emotion_lab.data.transforms import PRESETS, Augment, Resize
from emotion_lab.data.types import ArrayStore, Split

#: conf/data/base.yaml with the keys of synthetic, small.
BASE: dict[str, Any] = {
    **{"name": "synthetic", "n": 80, "size": 24, "channels": 1, "seed": 0, "difficulty": 1.0},
    **{"path": None, "batch_size": 16, "num_workers": 0, "limit": None, "exclude": []},
    **{"sampler": "shuffle", "class_weights": "inverse", "effective_beta": 0.9999},
    **{"folds": None, "fold": 0, "val_fraction": 0.1, "split_seed": 0, "cache": "auto"},
    **{
        "cache_limit_mib": 2048,
        "on_decode_error": "raise",
        "strict_labels": False,
        "download": False,
    },
}


def data(
    augment: str = "none", splits: tuple[str, ...] = ("train", "val"), **cfg: Any
) -> EmotionData:
    """Return a small data module, ready for a 32-pixel grey network."""
    module = EmotionData({**BASE, **cfg}, splits, 0, augment)
    module.prepare_for(32, 1)
    return module


def same(ours: Iterable[Batch], theirs: Iterable[Batch]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return bool(pairs) and all(
        torch.equal(a, b) for x, y in pairs for a, b in zip(x[:3], y[:3], strict=True)
    )


def flat(sampler: ResumableRandomSampler) -> list[int]:
    return [position for batch in sampler for _, position in batch]


# --- samplers -------------------------------------------------------------------------------


def test_each_epoch_is_another_permutation_of_all() -> None:
    sampler = ResumableRandomSampler(50, 8, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert {e for batch in batches for e, _ in batch} == {epoch}
        assert [len(batch) for batch in batches] == [8] * 6 + [2]
        orders.append(flat(sampler))
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] != orders[1] != orders[2]
    again, other = ResumableRandomSampler(50, 8, seed=3), ResumableRandomSampler(50, 8, seed=4)
    assert flat(again) == orders[0] != flat(other)
    again.set_epoch(2)
    assert flat(again) == orders[2]


def test_mid_epoch_goes_on_with_exactly_the_rest() -> None:
    whole, rest = ResumableRandomSampler(50, 8, seed=1), ResumableRandomSampler(50, 8, seed=1)
    whole.set_epoch(2)
    rest.epoch, rest.start = 2, 3
    rest.set_epoch(2)  # Lightning announces the epoch that is resumed, too
    assert list(rest) == list(whole)[3:]
    rest.set_epoch(3)
    whole.set_epoch(3)
    assert list(rest) == list(whole)


@pytest.mark.parametrize("size", [40, 41, 7])
def test_two_processes_share_the_images(size: int) -> None:
    parts = [ResumableRandomSampler(size, 4, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(list(parts[0])) == len(list(parts[1]))
    orders = [list(part.order(5)) for part in parts]
    # A last step of one image is dropped, as in one process.
    assert sorted(orders[0] + orders[1]) == sorted(ResumableRandomSampler(size, 8, seed=0).order(5))
    inorder = [SequentialDistributedSampler(size, 4, rank, 2) for rank in (0, 1)]
    seen = sorted(p for part in inorder for batch in part for _, p in batch)
    assert seen == list(range(size))
    assert all(len(part) == len(list(part)) for part in inorder)


def test_weighted_drawing_levels_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    sampler = ResumableRandomSampler(1000, 100, seed=0, weights=sample_weights(labels, 3))
    drawn = np.bincount(labels[flat(sampler)], minlength=3)
    assert drawn.sum() == 1000 and drawn.min() > 280 and drawn.max() < 390
    assert flat(sampler) == flat(sampler)
    module = data(sampler="weighted")
    assert module.train_dataloader().batch_sampler.probability is not None
    assert data().train_dataloader().batch_sampler.probability is None


@pytest.mark.parametrize(
    ("size", "batch", "batches"), [(33, 8, 4), (34, 8, 5), (32, 8, 4), (1, 8, 1), (5, 1, 5)]
)
def test_a_last_batch_of_one_is_dropped(size: int, batch: int, batches: int) -> None:
    sampler = ResumableRandomSampler(size, batch, seed=0)
    assert len(sampler) == len(list(sampler)) == batches


def test_the_place_in_the_data_is_saved_and_restored() -> None:
    module = data()
    loader = module.train_dataloader()
    assert len(loader) == 4
    assert module.state_dict() == {"epoch": 0, "start": 0, "step": 16}
    module.record_position(1, 3, num_batches=4)
    assert module.state_dict() == {"epoch": 1, "start": 3, "step": 16}
    module.record_position(1, 4, num_batches=4)
    assert module.state_dict() == {"epoch": 2, "start": 0, "step": 16}
    fresh = data()
    fresh.load_state_dict({"epoch": 1, "start": 3})
    assert fresh.state_dict() == {"epoch": 1, "start": 3, "step": 16}
    rest, whole = fresh.train_dataloader(), data().train_dataloader()
    fresh.set_epoch(1)
    whole.batch_sampler.set_epoch(1)
    assert same(rest, list(whole)[3:])
    fresh.set_epoch(2)
    whole.batch_sampler.set_epoch(2)
    assert same(rest, list(whole))


# --- batches --------------------------------------------------------------------------------


def test_a_batch() -> None:
    module = data()
    seen = []
    for batch in module.val_dataloader():
        images, labels, positions, _ = batch
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 32, 32)
        assert labels.dtype == positions.dtype == torch.int64
        for image, label, position in zip(images, labels, positions, strict=True):
            expected = module.dataset("val").image(int(position)).transpose(2, 0, 1)
            assert np.array_equal(image.numpy(), expected)
            assert label == module.split("val").labels[position]
        seen += positions.tolist()
    assert seen == list(range(8))


def test_workers_make_no_difference() -> None:
    here, there = data("strong"), data("strong", num_workers=2)
    mine, theirs = here.train_dataloader(), there.train_dataloader()
    for epoch in (0, 1):
        mine.batch_sampler.set_epoch(epoch)
        theirs.batch_sampler.set_epoch(epoch)
        assert same(mine, theirs)


@pytest.mark.parametrize("size", [16, 48])  # kept fitted, or as it was
def test_keeping_images_in_memory_makes_no_difference(size: int) -> None:
    kept, read = data("light", cache="ram", size=size), data("light", cache="none", size=size)
    assert same(kept.train_dataloader(), read.train_dataloader())
    assert same(kept.val_dataloader(), read.val_dataloader())
    assert len(kept.dataset("train")._images) == 64
    assert read.dataset("train")._images is None and read.dataset("val")._images is None


def test_images_that_fit_already_are_not_copied() -> None:
    fitting = data("device", size=32).dataset("train")
    assert np.shares_memory(fitting._images, fitting.split.store.images)
    smaller = data("device", size=48).dataset("train")
    assert not np.shares_memory(smaller._images, smaller.split.store.images)
    # Some of the images, or in another order: they must be those of the split.
    for choice in ({"limit": 20}, {"folds": 2, "fold": 1}):
        some = data("device", size=32, **choice).dataset("train")
        wanted = np.stack([some.split.image(i) for i in range(len(some))])
        np.testing.assert_array_equal(some._images, wanted)


def test_auto_keeps_what_fits() -> None:
    assert data(cache="auto").dataset("train")._images is not None
    assert data(cache="auto", cache_limit_mib=0).dataset("train")._images is None


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_a_function_of_seed_epoch_and_index(name: str, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)
    before = image.copy()
    augment = Augment(name, 32, seed=1)
    results = {key: augment(image, *key) for key in [(0, 0), (0, 1), (1, 0), (7, 9)]}
    assert np.array_equal(image, before)
    for result in results.values():
        assert result.shape == image.shape and result.dtype == np.uint8
    np.random.seed(5)
    again = Augment(name, 32, seed=1)
    for key in reversed(results):
        assert np.array_equal(again(image, *key), results[key])
    if name == "none":
        assert all(np.array_equal(result, image) for result in results.values())
    else:
        distinct = {result.tobytes() for result in results.values()}
        other = [Augment(name, 32, seed=2)(image, *key).tobytes() for key in results]
        assert len(distinct) == 4 and distinct.isdisjoint(other)


def test_only_training_is_augmented() -> None:
    module, bare = data("strong"), data("none")
    assert module.dataset("val").augment is None
    assert same(module.val_dataloader(), bare.val_dataloader())
    assert same(module.eval_dataloader("train"), bare.eval_dataloader("train"))
    assert not same(module.train_dataloader(), bare.train_dataloader())


@pytest.mark.parametrize("shape", [(48, 48), (20, 60), (60, 20), (32, 32), (7, 5)])
@pytest.mark.parametrize("colour", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_fit(shape: tuple[int, int], colour: int, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, colour), dtype=np.uint8)
    before, fit = image.copy(), Resize(32, channels)
    result = fit(image)
    assert result.shape == (32, 32, channels) and result.dtype == np.uint8
    assert result.flags.c_contiguous and np.array_equal(image, before)
    assert np.array_equal(fit(image), result) and np.array_equal(fit(result), result)
    if colour == 1 and channels == 3:
        assert np.array_equal(result, Resize(32, 1)(image).repeat(3, axis=2))
    if shape == (32, 32) and colour == channels:
        assert np.array_equal(result, image)


def test_fit_weighs_colours_and_averages_areas() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert Resize(32, 1)(red).max() == Resize(32, 1)(red).min() == 76  # 0.299 of 255: RGB, not BGR
    board = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)[..., None]
    assert np.unique(Resize(32, 1)(board)).tolist() == [100]


# --- what a data module may open ------------------------------------------------------------


def test_the_test_split_is_sealed() -> None:
    module = data()
    for call in (module.split, module.class_counts, module.dataset, module.eval_dataloader):
        with pytest.raises(UserError, match="the test split is sealed here"):
            call("test")
    assert set(module.fingerprints()) == {"train", "val"}


def test_training_on_fer2013_does_not_open_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = " ".join("7" for _ in range(48 * 48))
    rows = [
        f"{label},{pixels[:-1]}{label},{usage}"
        for usage in ("Training", "PublicTest", "PrivateTest")
        for label in range(7)
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    cfg = {"name": "fer2013", "path": str(tmp_path)}
    data(**cfg)  # builds the cache
    opened: list[str] = []
    real = builtins.open

    def watch(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watch)
    monkeypatch.setattr("io.open", watch)
    module = data(**cfg)
    list(module.train_dataloader())
    assert any("train_images.npy" in name for name in opened), "the watch does not watch"
    assert not any("test_images" in name or name.endswith(".csv") for name in opened)
    data(splits=("test",), **cfg)
    assert any("test_images.npy" in name for name in opened)


def test_exclude_limit_and_folds_reach_the_loader() -> None:
    module = data(exclude=["disgust", "fear"], limit=30)
    assert module.classes == [e for e in EMOTIONS if e not in ("disgust", "fear")]
    assert len(module.split("train")) == 30 and len(module.class_counts()) == 5
    labels = torch.cat([batch.labels for batch in module.train_dataloader()])
    assert len(labels) == 30 and set(labels.tolist()) == set(range(5))
    whole = data(exclude=["disgust"])
    both = len(whole.split("train")) + len(whole.split("val"))
    held: list[str] = []
    for fold in range(3):
        module = data(folds=3, fold=fold, exclude=["disgust"])
        val = list(module.split("val").names)
        assert not set(val) & set(module.split("train").names)
        assert len(val) + len(module.split("train")) == both
        held += val
    assert len(set(held)) == len(held) == both


def test_the_fingerprint_is_about_the_images_alone() -> None:
    first = data().fingerprints()
    assert first == data("strong", batch_size=3, num_workers=1, cache="none").fingerprints()
    assert first["train"]["n"] == 64 and sum(first["train"]["counts"].values()) == 64
    assert first["train"]["hash"] != data(seed=1).fingerprints()["train"]["hash"]
    assert first["train"]["hash"] != data(limit=63).fingerprints()["train"]["hash"]


# --- unreadable files -----------------------------------------------------------------------


class Broken(ArrayStore):
    """A store one of whose images was damaged after the data set was looked through."""

    def __getitem__(self, index: int) -> np.ndarray:
        if index in (2, 5):
            raise UserError(f"image {index} cannot be read")
        return super().__getitem__(index)


def test_an_image_that_cannot_be_read() -> None:
    images = np.zeros((8, 32, 32, 1), np.uint8)
    split = Split(Broken(images), np.arange(8), np.arange(8) % 7, [str(i) for i in range(8)])
    fit, sampler = Resize(32, 1), SequentialDistributedSampler(8, 4)
    loader = make_loader(SplitDataset(split, fit, skip_errors=True), sampler, 0)
    assert [batch.positions.tolist() for batch in loader] == [[0, 1, 3], [4, 6, 7]]
    assert [len(batch.images) for batch in loader] == [3, 3]
    with pytest.raises(UserError, match="image 2"):
        list(make_loader(SplitDataset(split, fit), sampler, 0))
    with pytest.raises(UserError, match="no image of a whole batch"):
        SplitDataset(split, fit, skip_errors=True).__getitems__([(0, 2), (0, 5)])


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("late", [False, True])
def test_a_folder_with_a_broken_file(tmp_path: Path, cache: str, late: bool) -> None:
    """The file is broken from the start, or breaks after the folder was looked through."""
    for split in ("train", "val", "test"):
        for name in ("happy", "sad"):
            for i in range(4):
                pixels = np.random.default_rng(i).integers(0, 256, (40, 40), dtype=np.uint8)
                path = tmp_path / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    victim = tmp_path / "train" / "happy" / "2.png"
    if not late:
        victim.write_bytes(victim.read_bytes()[:100])
    cfg = {"name": "image_folder", "path": str(tmp_path), "cache": cache}

    def batches(on_error: str) -> list[Batch]:
        module = data(on_decode_error=on_error, **cfg)
        if late:
            victim.write_bytes(victim.read_bytes()[:100])
        return list(module.train_dataloader())

    if late:
        whole = victim.read_bytes()
    (batch,) = batches("skip")
    assert len(batch.labels) == 7 and sorted(batch.labels.tolist()) == [0] * 3 + [1] * 4
    if late:
        victim.write_bytes(whole)
    with pytest.raises(UserError, match=r"2\.png"):
        batches("raise")
