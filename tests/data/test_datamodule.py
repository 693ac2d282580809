"""Data module: batches, their order, caching, augmentation and splits that are not loaded."""

from __future__ import annotations

import builtins
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.class_weights import sample_weights
from emotion_lab.data.samplers import ResumableRandomSampler, SequentialDistributedSampler
from emotion_lab.data.transforms import PRESETS, Augment, Resize
from tests.conftest import error_message
from tests.data.helpers import all_positions, batches_equal, make_data, write_fer2013, write_images


def test_each_epoch_is_a_different_permutation() -> None:
    sampler = ResumableRandomSampler(50, 8, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert {e for batch in batches for e, _ in batch} == {epoch}
        assert [len(batch) for batch in batches] == [8] * 6 + [2]
        orders.append(all_positions(sampler))
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] != orders[1] != orders[2]
    repeated, other = ResumableRandomSampler(50, 8, seed=3), ResumableRandomSampler(50, 8, seed=4)
    assert all_positions(repeated) == orders[0] != all_positions(other)
    repeated.set_epoch(2)
    assert all_positions(repeated) == orders[2]


def test_sampler_resumes_in_mid_epoch() -> None:
    full, resumed = ResumableRandomSampler(50, 8, seed=1), ResumableRandomSampler(50, 8, seed=1)
    full.set_epoch(2)
    resumed.epoch, resumed.start = 2, 3
    resumed.set_epoch(2)  # Lightning also calls it for the resumed epoch
    assert list(resumed) == list(full)[3:]
    resumed.set_epoch(3)
    full.set_epoch(3)
    assert list(resumed) == list(full)


@pytest.mark.parametrize("size", [40, 41, 7])
def test_two_processes_cover_all_images(size: int) -> None:
    parts = [ResumableRandomSampler(size, 4, seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(list(parts[0])) == len(list(parts[1]))
    orders = [list(part.order(5)) for part in parts]
    # A last step of one image is dropped, as in a single process.
    assert sorted(orders[0] + orders[1]) == sorted(ResumableRandomSampler(size, 8, seed=0).order(5))
    sequential = [SequentialDistributedSampler(size, 4, rank, 2) for rank in (0, 1)]
    seen = sorted(p for part in sequential for batch in part for _, p in batch)
    assert seen == list(range(size))
    assert all(len(part) == len(list(part)) for part in sequential)


def test_weighted_sampling_balances_classes() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    sampler = ResumableRandomSampler(1000, 100, seed=0, weights=sample_weights(labels, 3))
    counts = np.bincount(labels[all_positions(sampler)], minlength=3)
    assert counts.sum() == 1000 and counts.min() > 280 and counts.max() < 390
    assert all_positions(sampler) == all_positions(sampler)
    module = make_data(sampler="weighted")
    assert module.train_dataloader().batch_sampler.probability is not None
    assert make_data().train_dataloader().batch_sampler.probability is None


@pytest.mark.parametrize(
    ("size", "batch", "batches"), [(33, 8, 4), (34, 8, 5), (32, 8, 4), (1, 8, 1), (5, 1, 5)]
)
def test_a_last_batch_of_one_is_dropped(size: int, batch: int, batches: int) -> None:
    sampler = ResumableRandomSampler(size, batch, seed=0)
    assert len(sampler) == len(list(sampler)) == batches


def test_position_is_saved_and_restored() -> None:
    module = make_data()
    loader = module.train_dataloader()
    assert len(loader) == 4
    assert module.state_dict() == {"epoch": 0, "start": 0, "step": 16}
    for batches_done, epoch, start in ((3, 1, 3), (4, 2, 0)):
        module.record_position(1, batches_done, num_batches=4)
        assert module.state_dict() == {"epoch": epoch, "start": start, "step": 16}
    fresh = make_data()
    fresh.load_state_dict({"epoch": 1, "start": 3})
    assert fresh.state_dict() == {"epoch": 1, "start": 3, "step": 16}
    resumed, full = fresh.train_dataloader(), make_data().train_dataloader()
    for epoch, start in ((1, 3), (2, 0)):
        fresh.set_epoch(epoch)
        full.batch_sampler.set_epoch(epoch)
        assert batches_equal(resumed, list(full)[start:])


def test_batch_contents() -> None:
    module = make_data()
    seen = []
    for batch in module.val_dataloader():
        images, labels, positions = batch[:3]
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 32, 32)
        assert labels.dtype == positions.dtype == torch.int64
        for image, label, position in zip(images, labels, positions, strict=True):
            expected = module.dataset("val").image(int(position)).transpose(2, 0, 1)
            assert np.array_equal(image.numpy(), expected)
            assert label == module.split("val").labels[position]
        seen += positions.tolist()
    assert seen == list(range(8))


def test_batches_do_not_depend_on_workers() -> None:
    loaders = [make_data("strong", num_workers=n).train_dataloader() for n in (0, 2)]
    for epoch in (0, 1):
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
        assert batches_equal(*loaders)


@pytest.mark.parametrize("size", [16, 48])  # cached after or before resizing
def test_batches_do_not_depend_on_cache(size: int) -> None:
    cached, uncached = (make_data("light", cache=cache, size=size) for cache in ("ram", "none"))
    assert batches_equal(cached.train_dataloader(), uncached.train_dataloader())
    assert batches_equal(cached.val_dataloader(), uncached.val_dataloader())
    assert len(cached.dataset("train")._images) == 64
    assert uncached.dataset("train")._images is None and uncached.dataset("val")._images is None


def test_images_of_the_input_size_are_not_copied() -> None:
    same_size = make_data("device", size=32).dataset("train")
    assert np.shares_memory(same_size._images, same_size.split.store.images)
    smaller = make_data("device", size=48).dataset("train")
    assert not np.shares_memory(smaller._images, smaller.split.store.images)
    # A subset or another order: the cached images must be those of the split.
    for choice in ({"limit": 20}, {"folds": 2, "fold": 1}):
        subset = make_data("device", size=32, **choice).dataset("train")
        expected = np.stack([subset.split.image(i) for i in range(len(subset))])
        np.testing.assert_array_equal(subset._images, expected)


def test_cache_auto_respects_the_limit() -> None:
    assert make_data(cache="auto").dataset("train")._images is not None
    assert make_data(cache="auto", cache_limit_mib=0).dataset("train")._images is None


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_depends_on_seed_epoch_and_index(name: str, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), dtype=np.uint8)
    original = image.copy()
    augment = Augment(name, 32, seed=1)
    results = {key: augment(image, *key) for key in [(0, 0), (0, 1), (1, 0), (7, 9)]}
    assert np.array_equal(image, original)
    for result in results.values():
        assert result.shape == image.shape and result.dtype == np.uint8
    np.random.seed(5)
    repeated = Augment(name, 32, seed=1)
    for key in reversed(results):
        assert np.array_equal(repeated(image, *key), results[key])
    if name == "none":
        assert all(np.array_equal(result, image) for result in results.values())
    else:
        distinct = {result.tobytes() for result in results.values()}
        other = [Augment(name, 32, seed=2)(image, *key).tobytes() for key in results]
        assert len(distinct) == 4 and distinct.isdisjoint(other)


def test_only_the_training_loader_augments() -> None:
    module, plain = make_data("strong"), make_data("none")
    assert module.dataset("val").augment is None
    assert batches_equal(module.val_dataloader(), plain.val_dataloader())
    assert batches_equal(module.eval_dataloader("train"), plain.eval_dataloader("train"))
    assert not batches_equal(module.train_dataloader(), plain.train_dataloader())


@pytest.mark.parametrize("shape", [(48, 48), (20, 60), (60, 20), (32, 32), (7, 5)])
@pytest.mark.parametrize("colour", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize(shape: tuple[int, int], colour: int, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, colour), dtype=np.uint8)
    original, resize = image.copy(), Resize(32, channels)
    result = resize(image)
    assert result.shape == (32, 32, channels) and result.dtype == np.uint8
    assert result.flags.c_contiguous and np.array_equal(image, original)
    assert np.array_equal(resize(image), result) and np.array_equal(resize(result), result)
    if colour == 1 and channels == 3:
        assert np.array_equal(result, Resize(32, 1)(image).repeat(3, axis=2))
    if shape == (32, 32) and colour == channels:
        assert np.array_equal(result, image)


def test_resize_grey_weights_and_area_averaging() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert Resize(32, 1)(red).max() == Resize(32, 1)(red).min() == 76  # 0.299 of 255: RGB, not BGR
    board = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)[..., None]
    assert np.unique(Resize(32, 1)(board)).tolist() == [100]


def test_the_test_split_is_not_loaded() -> None:
    module = make_data()
    for call in (module.split, module.class_counts, module.dataset, module.eval_dataloader):
        with pytest.raises(UserError, match="the test split is not loaded"):
            call("test")
    assert set(module.fingerprints()) == {"train", "val"}


def test_training_on_fer2013_does_not_open_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fer2013(tmp_path / "fer2013.csv")
    cfg = {"name": "fer2013", "path": str(tmp_path)}
    make_data(**cfg)  # builds the cache
    opened: list[str] = []
    original = builtins.open

    def spy(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return original(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spy)
    monkeypatch.setattr("io.open", spy)
    module = make_data(**cfg)
    list(module.train_dataloader())
    assert any("train_images.npy" in name for name in opened), "open is not intercepted"
    assert not any("test_images" in name or name.endswith(".csv") for name in opened)
    make_data(splits=("test",), **cfg)
    assert any("test_images.npy" in name for name in opened)


def test_exclude_limit_and_folds_are_applied() -> None:
    module = make_data(exclude=["disgust", "fear"], limit=30)
    assert module.classes == [e for e in EMOTIONS if e not in ("disgust", "fear")]
    assert len(module.split("train")) == 30 and len(module.class_counts()) == 5
    labels = torch.cat([batch.labels for batch in module.train_dataloader()])
    assert len(labels) == 30 and set(labels.tolist()) == set(range(5))
    complete = make_data(exclude=["disgust"])
    total = len(complete.split("train")) + len(complete.split("val"))
    seen: list[str] = []
    for fold in range(3):
        module = make_data(folds=3, fold=fold, exclude=["disgust"])
        val = list(module.split("val").names)
        assert not set(val) & set(module.split("train").names)
        assert len(val) + len(module.split("train")) == total
        seen += val
    assert len(set(seen)) == len(seen) == total


def test_fingerprint_depends_on_images_only() -> None:
    first = make_data().fingerprints()
    assert first == make_data("strong", batch_size=3, num_workers=1, cache="none").fingerprints()
    assert first["train"]["n"] == 64 and sum(first["train"]["counts"].values()) == 64
    assert first["train"]["hash"] != make_data(seed=1).fingerprints()["train"]["hash"]
    assert first["train"]["hash"] != make_data(limit=63).fingerprints()["train"]["hash"]


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_damaged_files_are_named_and_left_out_of_every_batch(tmp_path: Path, cache: str) -> None:
    """Files that are cut or damaged in the middle; a whole batch of them; a batch of two."""
    write_images(tmp_path, ("train", "val"), ("happy", "sad"), 10, 40)
    happy, sad = tmp_path / "train" / "happy", tmp_path / "train" / "sad"
    for file in (happy / "2.png", sad / "3.png", sad / "4.png", sad / "5.png"):
        content = bytearray(file.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 200] = bytes(200)
        file.write_bytes(content)
    (happy / "7.png").write_bytes((happy / "7.png").read_bytes()[:100])
    cfg = {"name": "image_folder", "path": str(tmp_path), "cache": cache, "batch_size": 3}
    module = make_data(on_decode_error="skip", **cfg)
    (note,) = [note for note in module.source.notes if "cannot be read" in note]
    assert note.startswith("skipped 5 of 40 images (12.5%) that cannot be read: ")
    assert all(str(file) in note for file in (happy / "2.png", happy / "7.png", sad / "4.png"))
    assert module.class_counts().tolist() == [8, 7]
    sizes = [len(batch.labels) for batch in module.train_dataloader()]
    assert sizes == [3] * 5
    with pytest.raises(UserError, match=r"Bad image .*7\.png: truncated"):
        make_data(on_decode_error="raise", **cfg)
    (happy / "7.png").unlink()
    with pytest.raises(UserError, match=r"Bad image .*2\.png: .*data.on_decode_error=skip"):
        make_data(on_decode_error="raise", **cfg)


def test_skipping_stops_where_a_class_or_most_images_are_lost(tmp_path: Path) -> None:
    write_images(tmp_path, ("train", "val"), ("happy", "sad"), 4, 40)
    cfg = {"name": "image_folder", "path": str(tmp_path), "on_decode_error": "skip"}
    for file in (tmp_path / "val" / "sad").iterdir():
        file.write_bytes(b"no image")
    text = error_message(make_data, **cfg)
    assert "leaves no image of sad in val" in text and "4 of 16 images (25.0%)" in text
    write_images(tmp_path, ("train", "val"), ("happy", "sad"), 4, 40)
    for split, name, i in itertools.product(("train", "val"), ("happy", "sad"), range(3)):
        (tmp_path / split / name / f"{i}.png").write_bytes(b"no image")
    text = error_message(make_data, **cfg)
    assert "More than half" in text and "12 of 16 images (75.0%)" in text


@pytest.mark.parametrize(("limit", "n"), [(None, 64), (1, 16), (0.5, 32), (0.01, 7), (99, 64)])
def test_limited_validation_is_stratified(limit: float | None, n: int) -> None:
    """The first batches of sorted folders would hold one or two classes only."""
    data = make_data(n=640, val_fraction=0.1)
    split = data.split("val")
    order = np.argsort(split.labels, kind="stable")
    data.source.splits["val"] = split.subset(order)
    data.limit_val_batches = limit
    first, second = (list(data.val_dataloader()) for _ in range(2))
    assert batches_equal(first, second)
    labels = torch.cat([batch.labels for batch in first])
    assert len(labels) == n
    present = np.unique(split.labels, return_counts=True)
    seen = np.unique(labels.numpy(), return_counts=True)
    np.testing.assert_array_equal(seen[0], present[0])
    assert np.abs(seen[1] / n - present[1] / len(split)).max() < 1 / n + 0.13
