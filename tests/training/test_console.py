"""What a training prints: the lines after each epoch and the progress bar."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer
from rich.console import Console
from rich.progress import Progress

from emotion_lab.core import runs
from emotion_lab.training import fit
from emotion_lab.training.callbacks import MetricsHistory
from emotion_lab.training.progress_bar import ProgressBar

ROW: dict[str, Any] = {
    "epoch": 3,
    "train/loss": 1.23456,
    "train/accuracy": 0.5,
    "val/loss": 12.5,
    "val/accuracy": 0.25,
    "val/macro_f1": 0.125,
    "val/weighted_precision": 0.75,
    "best": True,
}


@pytest.mark.parametrize(
    ("monitor", "title", "value"),
    [
        ("val/macro_f1", "macro F1", "0.1250"),
        ("val/accuracy", "macro F1", "0.1250"),
        ("val/weighted_precision", "weighted prec.", "0.7500"),
    ],
)
@pytest.mark.parametrize("epochs", [5, 30, 90])
def test_line_of_an_epoch(
    epochs: int, monitor: str, title: str, value: str, tmp_path: Path
) -> None:
    history = MetricsHistory(tmp_path, monitor, "max")
    history.seconds.append(1234.5)
    header, line = history.header(epochs), history.line(ROW, epochs)
    assert len(line) <= 80 and header.split()[-1] == "time" and title in header
    assert line.split() == [f"3/{epochs}", "1.2346", "0.5000", "12.5000", "0.2500", value,
                            "1234.5", "s", "best"]  # fmt: skip
    # The numbers stand below their titles.
    assert header.index(title) + len(title) == line.index(value) + len(value)


@pytest.mark.parametrize(
    ("max_time", "expected"),
    [({"minutes": 3}, "after about 3 of 5 epochs"), ({"minutes": 5}, None), (None, None)],
)
def test_time_limit_that_is_too_short_is_announced(
    max_time: dict[str, int] | None,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two epochs of one minute are done: the other three need three minutes."""
    history = MetricsHistory(tmp_path, "val/macro_f1", "max")
    history.rows, history.seconds = [ROW, ROW], [70.0, 60.0]
    timer = Timer(max_time)
    monkeypatch.setattr(timer, "time_elapsed", lambda stage: 120.0)
    history._check_time_limit(SimpleNamespace(callbacks=[timer], max_epochs=5))  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert (expected in printed) if expected else not printed
    history._check_time_limit(SimpleNamespace(callbacks=[], max_epochs=5))  # type: ignore[arg-type]
    assert not capsys.readouterr().out


def test_histories_of_earlier_versions_count_from_one(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    for first in (0, 1):
        file.write_text(f"epoch,best\n{first},True\n{first + 1},False\n")
        assert runs.read_history(file) == [{"epoch": 1, "best": 1}, {"epoch": 2, "best": 0}]


def test_progress_bar_fits_and_shows_the_time_of_the_whole_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bar = ProgressBar()
    trainer: Any = SimpleNamespace(num_training_batches=225, max_epochs=30, current_epoch=10)
    bar._trainer = trainer
    monkeypatch.setattr(bar, "_update", lambda *_: None)
    monkeypatch.setattr(bar, "_update_metrics", lambda *_: None)
    bar._enabled = False
    clock = iter([0.0, 0.0, 2.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(bar, "_init_progress", lambda _: None)
    bar.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
    bar._run_start = 0.0
    next(clock)
    bar.on_train_batch_end(trainer, None, None, SimpleNamespace(labels=[0] * 128), 0)  # type: ignore[arg-type]
    assert bar.seconds_left == 2.0 * (20 * 225 - 1)
    monkeypatch.undo()
    assert bar._get_train_description(10) == "epoch 11/30"
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, color_system=None)
    progress = Progress(*bar.configure_columns(trainer), console=console)
    progress.add_task(bar._get_train_description(10), total=225)
    console.print(progress.get_renderable())
    (line,) = output.getvalue().splitlines()
    # The metrics that Lightning appends.
    metrics = "loss: 1.234 acc: 0.456 img/s: 12345"
    assert "2:29:58 left" in line and len(f"{line.rstrip()} {metrics}") <= 80


def test_printed_config_fits_80_columns(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit._print_config(tiny("trainer.max_epochs=3", "seed=7"), Path("outputs/train/a/b"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run: outputs/train/a/b" and all(len(line) <= 80 for line in lines)
    text = " ".join(line.strip() for line in lines)
    for part in ("data=synthetic", "3 epochs", "random seed 7", "best epoch by val/macro_f1 (max)"):
        assert part in text
