"""The benchmark: it measures what it says, in turn, and leaves the keys that scripts read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emotion_lab.benchmarks import baseline
from emotion_lab.core import timing
from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.models.base import InputSpec
from tests.conftest import command, composed

SMALL = (
    "data.n=80",
    "data.batch_size=16",
    "images=64",
    "rounds=2",
    "workers=0",
    "model=senet",
    "model.widths=[8,8,8,8]",
    "model.stem=8",
    "trainer=cpu",
    "trainer.num_threads=1",
)


def test_what_is_done_at_once_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 0.2, 0.3])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.per_second(lambda: 30) == pytest.approx(90 / 0.3)


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    seen: list[str] = []

    def way(name: str) -> int:
        seen.append(name)
        return 10

    ways = {"a": lambda: way("a"), "b": lambda: way("b")}
    rates = timing.in_turn(ways, 3, progress=False, at_least=0)
    assert seen == ["a", "b"] * 4
    assert [len(rates["a"]), len(rates["b"])] == [3, 3]
    assert timing.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_peak_memory_is_that_of_the_process() -> None:
    small = timing.peak_of(["-c", "pass"])
    large = timing.peak_of(["-c", "x = b'a' * (200 * 2**20)"])
    assert 190 < large - small < 230
    with pytest.raises(UserError, match="no such luck"):
        timing.peak_of(["-c", "raise SystemExit('no such luck')"])


def test_the_plain_way_reads_the_images_that_were_written(tmp_path: Path) -> None:
    source = load_data(composed("data=synthetic", "data.n=80")["data"], ("train",))
    part = source.splits["train"]
    baseline.write_folder(part, source.classes, 40, tmp_path)
    batches = baseline.loader(tmp_path, InputSpec(48, 1, (0.5,), (0.25,)), 8, 0)
    assert batches.dataset.classes == [f"{i:02d}_{n}" for i, n in enumerate(source.classes)]
    images, _ = next(iter(batches))
    assert images.shape == (8, 1, 48, 48) and images.dtype == torch.float32
    labels = [label for _, label in batches.dataset.samples]
    assert sorted(labels) == sorted(part.labels[:40].tolist())


def test_bench_data(tmp_path: Path) -> None:
    more = ("benchmark=data", "sizes=[32,64]", "folder=100", f"hydra.run.dir={tmp_path / 'run'}")
    done = command(*SMALL, *more, module="emotion_lab.bench", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "bench.json").read_text())
    found = result["data"]
    assert found["ratio"] == pytest.approx(
        found["ours_images_per_s"] / found["plain_images_per_s"], rel=0.01
    )
    assert [row["n"] for row in found["epoch"]] == [32, 64]
    assert [row["images"] for row in found["folder"]] == [100, 1000]
    # 10 times the images are 45 MB more, decoded: none of that may stay.
    assert found["folder"][1]["peak_memory_mib"] - found["folder"][0]["peak_memory_mib"] < 20
    assert "times the plain way" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "run")


def test_bench_train(tmp_path: Path) -> None:
    more = ("benchmark=train", f"hydra.run.dir={tmp_path / 'run'}")
    done = command(*SMALL, *more, module="emotion_lab.bench", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "bench.json").read_text())["train"]
    assert set(found["rounds"]) == {"ours", "plain", "ceiling"}
    assert found["of_ceiling"] == pytest.approx(
        found["ours_images_per_s"] / found["ceiling_images_per_s"], rel=0.01
    )
    assert 200 < found["peak_memory_mib"] < 3000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("images=10",), "less than two batches"),
        (("benchmark=dta",), "expected one of data, train"),
        (("data.path=nowhere",), "does not exist"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = command(*arguments, module="emotion_lab.bench", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
