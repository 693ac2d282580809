"""Benchmarks of data loading and training: timing, baseline and the keys of bench.json."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from emotion_lab.benchmarks import baseline, train
from emotion_lab.benchmarks.data import build_data
from emotion_lab.core import timing
from emotion_lab.core.errors import UserError
from emotion_lab.data.build import load_data
from emotion_lab.models.base import InputSpec
from tests.conftest import TINY, command, composed

#: TINY without the keys of training.
SMALL = (*TINY[1:7], "trainer.num_threads=1", "images=64", "rounds=1", "workers=0")


def test_fast_work_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 0.2, 0.3])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.per_second(lambda: 30) == pytest.approx(90 / 0.3)


def test_pipelines_alternate_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []

    def work(name: str) -> int:
        calls.append(name)
        return 10

    pipelines = {name: partial(work, name) for name in "ab"}
    rates = timing.time_interleaved(pipelines, 3, progress=False, at_least=0)
    assert calls == ["a", "b"] * 4
    assert [len(rates["a"]), len(rates["b"])] == [3, 3]
    assert timing.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_peak_memory_is_that_of_the_process() -> None:
    small = timing.peak_memory_mib(["-c", "pass"])
    large = timing.peak_memory_mib(["-c", "x = b'a' * (200 * 2**20)"])
    assert 190 < large - small < 230
    with pytest.raises(UserError, match="out of luck"):
        timing.peak_memory_mib(["-c", "raise SystemExit('out of luck')"])


def test_baseline_loader_reads_the_written_images(tmp_path: Path) -> None:
    source = load_data(composed("data=synthetic", "data.n=80")["data"], ("train",))
    split = source.splits["train"]
    baseline.write_folder(split, source.classes, 40, tmp_path)
    batches = baseline.loader(tmp_path, InputSpec(48, 1, (0.5,), (0.25,)), 8, 0)
    assert batches.dataset.classes == [f"{i:02d}_{n}" for i, n in enumerate(source.classes)]
    images, _ = next(iter(batches))
    assert images.shape == (8, 1, 48, 48) and images.dtype == torch.float32
    labels = [label for _, label in batches.dataset.samples]
    assert sorted(labels) == sorted(split.labels[:40].tolist())


def test_too_few_images_name_the_class_that_has_none() -> None:
    cfg = composed("data=synthetic", "data.n=80", "augment=none", entry="bench")
    data = build_data({**cfg, "images": 2}, InputSpec(48, 1, (0.5,), (0.25,)))
    names = [name for name, count in zip(data.classes, data.class_counts(), strict=True) if count]
    with pytest.raises(UserError, match=r"images=2: no image of class .*, .* set more") as error:
        train._check_classes(data, 2)
    assert not any(f" {name}," in str(error.value) for name in names)


def run_bench(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """Return ``bench.json`` and the printed output of the command."""
    run = tmp_path / "run"
    done = command(
        *SMALL, *overrides, f"hydra.run.dir={run}", module="emotion_lab.bench", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == str(run)
    return json.loads((run / "bench.json").read_text()), done.stdout


def test_bench_data(tmp_path: Path) -> None:
    content, printed = run_bench(tmp_path, "benchmark=data", "sizes=[32,64]", "folder=100")
    result = content["data"]
    assert result["ratio"] == pytest.approx(
        result["ours_images_per_s"] / result["plain_images_per_s"], rel=0.01
    )
    assert [row["n"] for row in result["epoch"]] == [32, 64]
    assert [row["images"] for row in result["folder"]] == [100, 1000]
    # The 900 additional images are 45 MB when decoded; none of them may stay in memory.
    assert result["folder"][1]["peak_memory_mib"] - result["folder"][0]["peak_memory_mib"] < 20
    assert "times as fast as the baseline" in printed


def test_bench_train(tmp_path: Path) -> None:
    content, printed = run_bench(tmp_path, "benchmark=train")
    result = content["train"]
    assert result["cached_ratio"] > 1
    assert "an epoch of a frozen backbone is" in printed
    frozen = {"frozen backbone", "frozen, cached features"}
    assert set(result["rounds"]) == {"ours", "plain", "ceiling"} | frozen
    assert result["of_ceiling"] == pytest.approx(
        result["ours_images_per_s"] / result["ceiling_images_per_s"], rel=0.01
    )
    assert 200 < result["peak_memory_mib"] < 3000
    assert f"{result['of_ceiling']:.0%} of the ceiling" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images=10",), "less than two batches"),
        (("benchmark=dta",), "expected one of data, train"),
        (("data.path=nowhere",), "does not exist"),
    ],
)
def test_invalid_arguments(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = command(*arguments, module="emotion_lab.bench", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
