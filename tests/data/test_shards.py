"""data=stream gives what the data it was made from gives, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.shards.sampler import ShardSampler
from emotion_lab.data.shards.writer import open_all_splits, write_shards
from emotion_lab.data.samplers import ResumableRandomSampler
from emotion_lab.training import callbacks
from emotion_lab.training.fit import fit
from tests.conftest import TINY, composed, make_checkpoint
from tests.data.test_datamodule import BASE, flat, same
from tests.training.test_resume import assert_same_end

Tiny = Callable[..., dict[str, Any]]

STREAM = {
    **BASE,
    "name": "stream",
    "cache": "none",
    "shuffle_buffer_shards": 8,
    "cache_size_mib": 64,
}


def convert(cfg: dict[str, Any], out: Path, shard_bytes: int = 2**25) -> Path:
    """Write the data of ``cfg`` as a stream; small shards make several of a few images."""
    write_shards(open_all_splits(cfg), cfg["name"], out, shard_bytes)
    return out


def module(cfg: dict[str, Any], augment: str = "none", **more: Any) -> EmotionData:
    data = EmotionData({**cfg, **more}, ("train", "val"), 0, augment)
    data.prepare_for(32, 1)
    return data


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the stream of the synthetic faces of ``BASE``, 64 of them in train, 6 shards."""
    return convert(BASE, tmp_path_factory.mktemp("data") / "stream", 32 * 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of grey and colour images of several kinds, sizes and odd names."""
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


# --- the same data ----------------------------------------------------------------------------


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
def test_the_same_batches(stream: Path, augment: str, more: dict[str, Any]) -> None:
    """With every shard in one group, each batch is the one of the data that was converted."""
    ours, theirs = module(STREAM, augment, path=stream, **more), module(BASE, augment, **more)
    assert ours.classes == theirs.classes and ours.fingerprints() == theirs.fingerprints()
    np.testing.assert_array_equal(ours.class_weights(), theirs.class_weights())
    for name in ("train", "val"):
        assert list(ours.split(name).names) == list(theirs.split(name).names)
    a, b = ours.train_dataloader(), theirs.train_dataloader()
    for epoch in (0, 1):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert same(a, b)
    assert same(ours.val_dataloader(), theirs.val_dataloader())


def test_the_same_folder(folder: Path, tmp_path: Path) -> None:
    """The files themselves are kept: kinds, colours, sizes, odd names, content hashes."""
    cfg = {**BASE, "name": "image_folder", "path": str(folder)}
    out = convert(cfg, tmp_path / "out", 40_000)
    ours = load_data({**STREAM, "path": str(out)}, ("train", "val", "test"))
    theirs = load_data(cfg, ("train", "val", "test"))
    assert ours.classes == theirs.classes == ["happy", "sad", "my own"]
    assert ours.class_folders == theirs.class_folders
    for name, part in theirs.splits.items():
        other = ours.splits[name]
        assert list(other.names) == list(part.names) and other.digests() == part.digests()
        np.testing.assert_array_equal(other.labels, part.labels)
        for position in range(len(part)):
            np.testing.assert_array_equal(other.image(position), part.image(position))
    assert len({int(shard) for shard in ours.splits["test"].store.index["shard"]}) > 1


def test_the_library_reads_the_shards(stream: Path) -> None:
    """They are WebDataset's: its own reader finds the same pictures and labels."""
    import webdataset

    split = load_data({**STREAM, "path": str(stream)}, ("train",)).splits["train"]
    shards = sorted(map(str, (stream / "train").glob("*.tar")))
    reader = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
    seen = []
    for sample in reader:
        position = int(sample["__key__"])
        assert sample["cls"] == split.labels[position]
        np.testing.assert_array_equal(
            np.array(sample["png"].convert("L")), split.image(position)[..., 0]
        )
        seen.append(position)
    assert sorted(seen) == list(range(64)) != seen


def test_only_what_is_asked_for_is_opened(stream: Path, tmp_path: Path) -> None:
    """Training sees nothing of the test split: it goes on where that is not even there."""
    copy = tmp_path / "copy"
    shutil.copytree(stream, copy)
    shutil.rmtree(copy / "test")
    assert len(load_data({**STREAM, "path": str(copy)}, ("train", "val")).splits["train"]) == 64
    with pytest.raises(UserError, match="is missing from the stream"):
        load_data({**STREAM, "path": str(copy)}, ("test",))


def test_a_store_travels_to_another_process(stream: Path) -> None:
    split = load_data({**STREAM, "path": str(stream)}, ("train",)).splits["train"]
    image = split.image(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(split.store))[3], image)


# --- order ------------------------------------------------------------------------------------


def sampler(stream: Path, mix: int, rank: int = 0, world: int = 1, seed: int = 0) -> ShardSampler:
    split = load_data({**STREAM, "path": str(stream)}, ("train",)).splits["train"]
    return ShardSampler(split, mix, 10, seed, None, rank, world)


def test_order_goes_through_groups_of_shards(stream: Path) -> None:
    whole = sampler(stream, 2)
    assert whole.shard.max() == 5
    orders = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        order = np.array(flat(whole))
        orders.append(order.tolist())
        assert sorted(orders[-1]) == list(range(64))
        groups = whole.groups(epoch)[whole.shard[order]]
        assert (np.diff(groups) >= 0).all() and set(groups) == {0, 1, 2}
        # Inside a group its shards are mixed: one behind the other would be 5 changes.
        assert (np.diff(whole.shard[order]) != 0).sum() > 12
    assert orders[0] != orders[1] != orders[2]
    whole.set_epoch(2)
    assert flat(whole) == orders[2]
    assert flat(sampler(stream, 2, seed=1)) != orders[0]
    assert flat(sampler(stream, 6)) == flat(ResumableRandomSampler(64, 10, 0))


def test_order_in_mid_epoch_and_over_processes(stream: Path) -> None:
    whole, rest = sampler(stream, 2), sampler(stream, 2)
    rest.start = 3
    assert list(rest) == list(whole)[3:]
    # A step of three processes is the step that one process would make of as many images.
    shares = [list(sampler(stream, 2, rank, 3)) for rank in range(3)]
    order = whole.order(0)
    for step, parts in enumerate(list(zip(*shares, strict=True))[:-1]):
        together = sorted(position for part in parts for _, position in part)
        assert together == sorted(order[step * 30 : (step + 1) * 30])
    seen = {position for share in shares for part in share for _, position in part}
    assert seen == set(range(64))


def test_a_group_is_a_fair_sample(folder: Path, tmp_path: Path) -> None:
    """A folder comes sorted by class; its train shards do not."""
    cfg = {**BASE, "name": "image_folder", "path": str(folder)}
    out = convert(cfg, tmp_path / "out", 20_000)
    part = load_data({**STREAM, "path": str(out)}, ("train",)).splits["train"]
    shard = part.store.index["shard"][part.indices]
    assert shard.max() >= 3
    for number in range(int(shard.max())):
        assert len(set(part.labels[shard == number])) > 1


# --- training ---------------------------------------------------------------------------------


def test_training_is_the_same_and_resumes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from the data itself; stopped in mid-epoch, between shards, it ends the same too."""
    cfg = tiny("augment=light", "trainer.max_epochs=2")
    out = convert(cfg["data"], tmp_path / "data", 64 * 1024)
    given = ["augment=light", "trainer.max_epochs=2", "data=stream", f"data.path={out}"]
    given += ["data.batch_size=16"]
    runs = {}
    for name, mix in (("one group", 8), ("groups", 2)):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        small = [text for text in TINY if not text.startswith("data")]
        streamed = composed(*small, *given, f"data.shuffle_buffer_shards={mix}")
        fit(streamed, runs[name])
    direct = tmp_path / "direct"
    direct.mkdir()
    fit(cfg, direct)
    assert_same_end(direct, runs["one group"])
    histories = [(runs[name] / "history.csv").read_text() for name in runs]
    assert histories[0] != histories[1]

    stopped = tmp_path / "stopped"
    stopped.mkdir()
    original = callbacks.DataPositionCallback.on_train_batch_end

    def press(self: Any, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        original(self, trainer, module, outputs, batch, index)
        if trainer.current_epoch == 1 and index == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.DataPositionCallback, "on_train_batch_end", press)
        with pytest.raises(callbacks.RunInterruptedError):
            fit(streamed, stopped)
    # Another number of workers, and the data moved elsewhere.
    moved = {**streamed["data"], "path": str(out.rename(tmp_path / "moved")), "num_workers": 1}
    fit({**streamed, "data": moved}, stopped, stopped / "checkpoints" / "last.ckpt")
    assert_same_end(runs["groups"], stopped)


def test_a_checkpoint_scores_the_same(stream: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Evaluating on the stream knows it for the split of the run, and gives its scores."""
    from emotion_lab.evaluation.evaluate import evaluate_checkpoint

    cfg = tiny("data.size=24")
    ckpt = make_checkpoint(cfg, tmp_path / "best.ckpt", list(EmotionData(BASE, ("val",)).classes))
    own = evaluate_checkpoint(ckpt, cfg["data"])
    other = evaluate_checkpoint(ckpt, {**STREAM, "path": str(stream)}, foreign=True)
    assert not other.foreign
    np.testing.assert_array_equal(own.probabilities, other.probabilities)
    assert [own.name(i) for i in range(8)] == [other.name(i) for i in range(8)]
    assert own.scores["fingerprint"] == other.scores["fingerprint"]


# --- what is wrong with it --------------------------------------------------------------------


@pytest.fixture
def copy(stream: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stream, tmp_path / "copy"))


def told(path: Path, **more: Any) -> str:
    """Return the one line that reading a stream ends with."""
    with pytest.raises(UserError) as caught:
        split = load_data({**STREAM, "path": str(path), **more}, ("train",)).splits["train"]
        for position in range(len(split)):
            split.image(position)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_shards(copy: Path) -> None:
    shard = copy / "train" / "000002.tar"
    whole = shard.read_bytes()
    split = load_data({**STREAM, "path": str(copy)}, ("train",)).splits["train"]
    row = split.store.index[np.flatnonzero(split.store.index["shard"] == 2)[0]]
    for shift in (60, int(row["size"]) // 2):
        broken = bytearray(whole)
        broken[int(row["offset"]) + shift] ^= 0x55
        shard.write_bytes(broken)
        assert "train/000002.tar is not what was written: the stream is damaged" in told(copy)
    shard.write_bytes(whole[:-100])
    assert f"{shard} has {len(whole) - 100:,} bytes instead of {len(whole):,}" in told(copy)
    shard.unlink()
    assert f"{shard} is missing from the stream" in told(copy)


def test_a_damaged_file_of_a_folder(folder: Path, tmp_path: Path) -> None:
    """A JPEG decodes with a wrong byte in it; its hash tells."""
    cfg = {**BASE, "name": "image_folder", "path": str(folder)}
    out = convert(cfg, tmp_path / "out")
    split = load_data({**STREAM, "path": str(out)}, ("train",)).splits["train"]
    jpeg = next(i for i, name in enumerate(split.names) if name.endswith("JPG"))
    row = split.store.index[jpeg]
    with open(out / "train" / "000000.tar", "r+b") as file:
        file.seek(int(row["offset"]) + int(row["size"]) - 30)
        file.write(b"\x11")
    assert f"image {jpeg} of" in told(out) and "is not what was written" in told(out)


def test_a_damaged_index(copy: Path) -> None:
    index = copy / "train" / "index.npy"
    content = bytearray(index.read_bytes())
    content[-9] ^= 1
    index.write_bytes(content)
    assert f"{index} was changed" in told(copy)
    index.unlink()
    assert f"{index} is missing" in told(copy)


def test_no_stream(copy: Path, tmp_path: Path) -> None:
    meta = json.loads((copy / "stream.json").read_text())
    (copy / "stream.json").write_text(json.dumps({**meta, "format": 99}))
    assert "is a stream of version 99" in told(copy)
    for text in ("{}", "[1]", "no json"):
        (copy / "stream.json").write_text(text)
        assert "stream.json is damaged, or not that of a stream" in told(copy)
    (copy / "stream.json").unlink()
    assert f"{copy} (from data.path) is not a stream: it has no stream.json" in told(copy)
    assert "does not exist. Make one with python -m" in told(tmp_path / "nowhere")
    assert "is not a stream" in told(copy / "train" / "000000.tar")
    with pytest.raises(UserError, match="is not understood: give a folder or s3://"):
        load_data({**STREAM, "path": "gs://bucket/x"}, ("train",))


def test_settings_that_do_not_apply(stream: Path, folder: Path, tmp_path: Path) -> None:
    assert "data.on_decode_error=skip does not apply" in told(stream, on_decode_error="skip")
    out = convert({**BASE, "name": "image_folder", "path": str(folder)}, tmp_path / "out")
    assert "Unknown class 'my own'" in told(out, strict_labels=True)


def test_a_bad_shard_in_a_worker_is_one_line(copy: Path, capsys: Any) -> None:
    """What a loader's process says reaches the user without its traceback."""
    from emotion_lab.cli import app

    data = module(STREAM, path=copy, num_workers=1)
    (copy / "train" / "000001.tar").unlink()
    with pytest.raises(UserError) as caught:
        list(data.train_dataloader())
    with pytest.raises(SystemExit):
        app.fail(caught.value)
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert "000001.tar is missing from the stream" in line
