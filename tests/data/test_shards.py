"""data=stream: same batches as the original data, resuming, and errors for corrupt files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import recfunctions
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.samplers import ResumableRandomSampler
from emotion_lab.data.shards.sampler import ShardSampler
from emotion_lab.data.shards.writer import open_all_splits, write_shards
from emotion_lab.data.types import Split
from emotion_lab.training import callbacks
from emotion_lab.training.fit import fit
from tests.conftest import TINY, composed, error_message, make_checkpoint
from tests.data.helpers import BASE, all_positions, batches_equal, make_data
from tests.training.conftest import press_ctrl_c
from tests.training.test_resume import assert_same_end

Tiny = Callable[..., dict[str, Any]]

STREAM = {**BASE, "name": "stream", "cache": "none"}
STREAM |= {"shuffle_buffer_shards": 8, "cache_size_mib": 64}


def write_stream(cfg: dict[str, Any], out: Path, shard_bytes: int = 2**25) -> Path:
    """Write the data of ``cfg`` as a stream."""
    write_shards(open_all_splits(cfg), cfg["name"], out, shard_bytes)
    return out


def write_folder_stream(folder: Path, out: Path, shard_bytes: int = 2**25) -> Path:
    """Write an image folder as a stream."""
    return write_stream({**BASE, "name": "image_folder", "path": str(folder)}, out, shard_bytes)


def open_train(path: Path | str, **cfg: Any) -> Split:
    """Open the train split of a stream."""
    return load_data({**STREAM, "path": str(path), **cfg}, ("train",)).splits["train"]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a stream of the synthetic faces of ``BASE``: 64 train images in 6 shards."""
    return write_stream(BASE, tmp_path_factory.mktemp("data") / "stream", 32 * 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder of grey and RGB images in several formats and sizes."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data") / "faces"
    for split in ("train", "test"):
        for name in ("happy", "my own", "sad"):
            (root / split / name).mkdir(parents=True)
            for i in range(14):
                shape = [(20, 24), (31, 30, 3), (40, 40, 3)][i % 3]
                image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
                kind = ["png", "JPG", "bmp", "webp"][i % 4]
                image.save(root / split / name / f"a {i}.b ü.{kind}")
    return root


@pytest.mark.parametrize(
    ("augment", "more"),
    [
        ("none", {}),
        ("strong", {"num_workers": 2}),
        ("light", {"sampler": "weighted", "limit": 30}),
        ("device", {"cache": "auto", "exclude": ["sad"]}),
        ("none", {"folds": 2, "fold": 1}),
    ],
)
def test_batches_match_the_original_data(stream: Path, augment: str, more: dict[str, Any]) -> None:
    """With all shards in one shuffle buffer, batches equal those of the original data."""
    ours = make_data(augment, **{**STREAM, "path": stream, **more})
    theirs = make_data(augment, **more)
    assert ours.classes == theirs.classes and ours.fingerprints() == theirs.fingerprints()
    np.testing.assert_array_equal(ours.class_weights(), theirs.class_weights())
    for name in ("train", "val"):
        assert list(ours.split(name).names) == list(theirs.split(name).names)
    a, b = ours.train_dataloader(), theirs.train_dataloader()
    for epoch in (0, 1):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert batches_equal(a, b)
    assert batches_equal(ours.val_dataloader(), theirs.val_dataloader())


def test_image_folder_matches_the_original_data(folder: Path, tmp_path: Path) -> None:
    """Image files are copied unchanged: formats, channels, sizes, names, content hashes."""
    cfg = {**BASE, "name": "image_folder", "path": str(folder)}
    out = write_stream(cfg, tmp_path / "out", 40_000)
    ours = load_data({**STREAM, "path": str(out)}, ("train", "val", "test"))
    theirs = load_data(cfg, ("train", "val", "test"))
    assert ours.classes == theirs.classes == ["happy", "sad", "my own"]
    assert ours.class_folders == theirs.class_folders
    for name, expected in theirs.splits.items():
        split = ours.splits[name]
        assert list(split.names) == list(expected.names) and split.digests() == expected.digests()
        np.testing.assert_array_equal(split.labels, expected.labels)
        for position in range(len(expected)):
            np.testing.assert_array_equal(split.image(position), expected.image(position))
    assert len({int(shard) for shard in ours.splits["test"].store.index["shard"]}) > 1


def test_webdataset_reads_the_shards(stream: Path) -> None:
    """The reader of webdataset returns the same images and labels."""
    import webdataset

    split = open_train(stream)
    shards = sorted(map(str, (stream / "train").glob("*.tar")))
    seen = []
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil"):
        position = int(sample["__key__"])
        assert sample["cls"] == split.labels[position]
        np.testing.assert_array_equal(
            np.array(sample["png"].convert("L")), split.image(position)[..., 0]
        )
        seen.append(position)
    assert sorted(seen) == list(range(64)) != seen


def test_only_requested_splits_are_opened(stream: Path, tmp_path: Path) -> None:
    """Training works without the files of the test split."""
    copy = tmp_path / "copy"
    shutil.copytree(stream, copy)
    shutil.rmtree(copy / "test")
    assert len(load_data({**STREAM, "path": str(copy)}, ("train", "val")).splits["train"]) == 64
    with pytest.raises(UserError, match="is missing from the stream"):
        load_data({**STREAM, "path": str(copy)}, ("test",))


def test_store_is_picklable(stream: Path) -> None:
    split = open_train(stream)
    image = split.image(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(split.store))[3], image)


def sampler(stream: Path, mix: int, rank: int = 0, world: int = 1, seed: int = 0) -> ShardSampler:
    return ShardSampler(open_train(stream), mix, 10, seed, None, rank, world)


def test_order_visits_groups_of_shards(stream: Path) -> None:
    full = sampler(stream, 2)
    assert full.shard.max() == 5
    orders = []
    for epoch in range(3):
        full.set_epoch(epoch)
        order = np.array(all_positions(full))
        orders.append(order.tolist())
        assert sorted(orders[-1]) == list(range(64))
        groups = full.groups(epoch)[full.shard[order]]
        assert (np.diff(groups) >= 0).all() and set(groups) == {0, 1, 2}
        # Images are shuffled across the shards of a group; in sequence there would be 5 changes.
        assert (np.diff(full.shard[order]) != 0).sum() > 12
    assert orders[0] != orders[1] != orders[2]
    full.set_epoch(2)
    assert all_positions(full) == orders[2]
    assert all_positions(sampler(stream, 2, seed=1)) != orders[0]
    assert all_positions(sampler(stream, 6)) == all_positions(ResumableRandomSampler(64, 10, 0))


def test_order_resumes_and_is_shared_by_processes(stream: Path) -> None:
    full, resumed = sampler(stream, 2), sampler(stream, 2)
    resumed.start = 3
    assert list(resumed) == list(full)[3:]
    # A step of three processes has the images of one process with three times the batch size.
    local = [list(sampler(stream, 2, rank, 3)) for rank in range(3)]
    order = full.order(0)
    for step, parts in enumerate(list(zip(*local, strict=True))[:-1]):
        step_positions = sorted(position for part in parts for _, position in part)
        assert step_positions == sorted(order[step * 30 : (step + 1) * 30])
    seen = {position for batches in local for part in batches for _, position in part}
    assert seen == set(range(64))


def test_shards_are_a_random_sample(folder: Path, tmp_path: Path) -> None:
    """An image folder is sorted by class, its train shards are shuffled."""
    part = open_train(write_folder_stream(folder, tmp_path / "out", 20_000))
    shard = part.store.index["shard"][part.indices]
    assert shard.max() >= 3
    for number in range(int(shard.max())):
        assert len(set(part.labels[shard == number])) > 1


def test_training_matches_the_original_data_and_resumes(tiny: Tiny, tmp_path: Path) -> None:
    """Results equal those of the original data, also after an interruption in mid-epoch."""
    cfg = tiny("augment=light", "trainer.max_epochs=2")
    out = write_stream(cfg["data"], tmp_path / "data", 64 * 1024)
    overrides = ["augment=light", "trainer.max_epochs=2", "data=stream", f"data.path={out}"]
    overrides += ["data.batch_size=16"]
    overrides += [text for text in TINY if not text.startswith("data") and "epochs" not in text]
    one_group, groups, direct, stopped = (tmp_path / name for name in "abcd")
    for run_dir in (one_group, groups, direct, stopped):
        run_dir.mkdir()
    fit(composed(*overrides, "data.shuffle_buffer_shards=8"), one_group)
    streamed = composed(*overrides, "data.shuffle_buffer_shards=2")
    fit(streamed, groups)
    fit(cfg, direct)
    assert_same_end(direct, one_group)
    assert (one_group / "history.csv").read_text() != (groups / "history.csv").read_text()
    with press_ctrl_c(1, 1), pytest.raises(callbacks.RunInterruptedError):
        fit(streamed, stopped)
    # Resume with another number of workers and a moved data folder.
    moved = {**streamed["data"], "path": str(out.rename(tmp_path / "moved")), "num_workers": 1}
    fit({**streamed, "data": moved}, stopped, stopped / "checkpoints" / "last.ckpt")
    assert_same_end(groups, stopped)


def test_evaluation_matches_the_original_data(stream: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Evaluation recognises the split of the training run and gives the same scores."""
    from emotion_lab.evaluation.evaluate import evaluate_checkpoint

    cfg = tiny("data.size=24")
    ckpt = make_checkpoint(cfg, tmp_path / "best.ckpt", list(EmotionData(BASE, ("val",)).classes))
    expected = evaluate_checkpoint(ckpt, cfg["data"])
    result = evaluate_checkpoint(ckpt, {**STREAM, "path": str(stream)}, foreign=True)
    assert not result.foreign
    np.testing.assert_array_equal(expected.probabilities, result.probabilities)
    assert [expected.name(i) for i in range(8)] == [result.name(i) for i in range(8)]
    assert expected.scores["fingerprint"] == result.scores["fingerprint"]


@pytest.fixture
def copy(stream: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stream, tmp_path / "copy"))


def read_all(path: Path | str, **cfg: Any) -> None:
    """Read every train image of a stream."""
    split = open_train(path, **cfg)
    for position in range(len(split)):
        split.image(position)


def read_error(path: Path | str, **cfg: Any) -> str:
    return error_message(read_all, path, **cfg)


def test_damaged_shards(copy: Path) -> None:
    shard = copy / "train" / "000002.tar"
    content = shard.read_bytes()
    split = open_train(copy)
    row = split.store.index[np.flatnonzero(split.store.index["shard"] == 2)[0]]
    for shift in (60, int(row["size"]) // 2):
        corrupt = bytearray(content)
        corrupt[int(row["offset"]) + shift] ^= 0x55
        shard.write_bytes(corrupt)
        message = "train/000002.tar has changed since it was written: the stream is damaged"
        assert message in read_error(copy)
    shard.write_bytes(content[:-100])
    error = read_error(copy)
    assert f"{shard} has {len(content) - 100:,} bytes instead of {len(content):,}" in error
    shard.unlink()
    assert f"{shard} is missing from the stream" in read_error(copy)


def test_damaged_jpeg(folder: Path, tmp_path: Path) -> None:
    """A JPEG with a changed byte can be decoded; the hash detects it."""
    out = write_folder_stream(folder, tmp_path / "out")
    split = open_train(out)
    jpeg = next(i for i, name in enumerate(split.names) if name.endswith("JPG"))
    row = split.store.index[jpeg]
    with (out / "train" / "000000.tar").open("r+b") as file:
        file.seek(int(row["offset"]) + int(row["size"]) - 30)
        file.write(b"\x11")
    error = read_error(out)
    assert f"image {jpeg} of" in error and "has changed since it was written" in error


def test_damaged_index(copy: Path) -> None:
    index = copy / "train" / "index.npy"
    content = bytearray(index.read_bytes())
    content[-9] ^= 1
    index.write_bytes(content)
    assert f"{index} was changed" in read_error(copy)
    index.unlink()
    assert f"{index} is missing" in read_error(copy)


def test_not_a_stream(copy: Path, tmp_path: Path) -> None:
    meta = json.loads((copy / "stream.json").read_text())
    (copy / "stream.json").write_text(json.dumps({**meta, "format": 99}))
    assert "is a stream of version 99" in read_error(copy)
    for text in ("{}", "[1]", "no json"):
        (copy / "stream.json").write_text(text)
        assert "stream.json is damaged, or not that of a stream" in read_error(copy)
    meta["splits"]["train"]["shards"][0]["bytes"] = -1
    (copy / "stream.json").write_text(json.dumps(meta))
    assert "train/000000.tar has the size -1" in read_error(copy)
    (copy / "stream.json").unlink()
    assert f"{copy} (from data.path) is not a stream: it has no stream.json" in read_error(copy)
    assert "does not exist. Make one with python -m" in read_error(tmp_path / "nowhere")
    assert "is not a stream" in read_error(copy / "train" / "000000.tar")
    with pytest.raises(UserError, match="is not valid: expected a folder or s3://"):
        load_data({**STREAM, "path": "gs://bucket/x"}, ("train",))


def test_unsupported_settings(stream: Path, folder: Path, tmp_path: Path) -> None:
    assert "data.on_decode_error=skip does not apply" in read_error(stream, on_decode_error="skip")
    out = write_folder_stream(folder, tmp_path / "out")
    assert "Unknown class 'my own'" in read_error(out, strict_labels=True)


def test_missing_shard_in_a_worker_is_one_line(copy: Path, capsys: Any) -> None:
    """What a loader's process says reaches the user without its traceback."""
    from emotion_lab.cli import app

    data = make_data(**{**STREAM, "path": copy, "num_workers": 1})
    (copy / "train" / "000001.tar").unlink()
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    with pytest.raises(SystemExit):
        app.fail(caught.value)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert "000001.tar is missing from the stream" in line


def test_streams_of_version_1_are_read(folder: Path, tmp_path: Path) -> None:
    """Their index has no hash of the pixels: the images are decoded."""
    cfg = {**BASE, "name": "image_folder", "path": str(folder)}
    out = write_stream(cfg, tmp_path / "out", 40_000)
    expected = open_train(out).digests()
    meta = json.loads((out / "stream.json").read_text())
    for split, entry in meta["splits"].items():
        path = out / split / "index.npy"
        index = np.load(path)
        np.save(path, recfunctions.drop_fields(index, "pixels", usemask=False))
        entry["index"] |= {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    (out / "stream.json").write_text(json.dumps({**meta, "format": 1}))
    source = load_data({**STREAM, "path": str(out)}, ("train",))
    part = source.splits["train"]
    assert part.digests() == expected != part.digests("file")
    assert "decoded at the start" in source.notes[1]
