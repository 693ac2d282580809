"""Leaderboard: configurations, ranking, test ledger, and rejected runs."""

from __future__ import annotations

import csv
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.tables import write_csv
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.statistics import count
from emotion_lab.experiments.compare.result import compare
from emotion_lab.experiments.leaderboard import grouping, report
from emotion_lab.experiments.leaderboard.table import build_leaderboard

CLASSES = ["happy", "sad", "neutral"]
LABELS = np.repeat([0, 1, 2], [120, 50, 70])
HASH = "0123456789abcdef0123456789abcdef"
CONFIG: dict[str, Any] = {
    "seed": 0,
    "monitor": "val/macro_f1",
    "test_ledger": "outputs/test_ledger.jsonl",
    "resume": None,
    "test": False,
    "data": {"name": "fer2013", "path": "a.csv", "folds": None, "fold": 0, "num_workers": 0},
    "model": {"name": "senet", "widths": [8, 8], "dropout": 0.2},
    "loss": {"name": "ce"},
    "optim": {"name": "adamw", "lr": 0.001},
    "trainer": {"monitor_mode": "auto", "max_epochs": 3, "enable_progress_bar": "auto"},
    "logger": {"csv": {"name": "csv"}},
}


def guesses(right: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    correct = generator.random(len(LABELS)) < right
    return np.where(correct, LABELS, generator.integers(0, 3, len(LABELS)))


def config_with(values: dict[str, Any]) -> dict[str, Any]:
    config = json.loads(json.dumps(CONFIG))
    for key, value in values.items():
        node = config
        *parents, last = key.split(".")
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return config


def write_run(
    folder: Path,
    right: float,
    seed: int = 0,
    *,
    predicted: np.ndarray | None = None,
    val_hash: str | None = HASH,
    train_hash: str = "train",
    parameters: int = 1000,
    classes: list[str] = CLASSES,
    typed: list[str] | None = None,
    **values: Any,
) -> Path:
    """Write a run directory of ``train``; ``values`` are config keys with ``__`` for the dot."""
    predicted = guesses(right, seed + int(right * 1000)) if predicted is None else predicted
    folder.mkdir(parents=True)
    values = {key.replace("__", "."): value for key, value in values.items()}
    config = config_with({**values, "seed": seed})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if typed is None:
        typed = [f"{key.removesuffix('.name')}={value}" for key, value in values.items()]
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*typed, f"seed={seed}"]))
    probabilities = np.full((len(LABELS), 3), 0.2)
    probabilities[np.arange(len(LABELS)), predicted] = 0.6
    names = [f"{i}.png" for i in range(len(LABELS))]
    path = folder / "predictions_val.csv"
    write_predictions(path, names, LABELS, predicted, probabilities, classes)
    counts = count(LABELS, predicted, 3)
    val: dict[str, Any] = {"n": len(LABELS), "classes": classes}
    val |= {key: float(getattr(counts, key)) for key in ("accuracy", "macro_f1")}
    prints = {"train": {"n": 9, "hash": train_hash, "known_as": None}}
    if val_hash is not None:
        val["fingerprint"] = {"n": len(LABELS), "hash": val_hash, "known_as": None}
        prints["val"] = val["fingerprint"]
    metrics = {"val": val, "seed": seed, "commit": "abc", "best_epoch": 1, "seconds": 1.5}
    metrics |= {"parameters": {"trainable": parameters, "total": parameters}}
    metrics |= {"monitor": {"name": "val/macro_f1", "best": val["macro_f1"]}}
    metrics["fingerprints"] = prints
    (folder / "metrics.json").write_text(json.dumps(metrics))
    history = [
        {"epoch": epoch, "val/loss": 2 - share, "val/criterion": 1 - share, "best": share == 1}
        | {f"val/{key}": val[key] * share for key in ("accuracy", "macro_f1")}
        for epoch, share in enumerate((0.6, 1, 0.9))
    ]
    write_csv(folder / "history.csv", list(history[0]), history)
    return folder


def ranked(folder: Path, by: str | None = None, ledger: str = "none") -> dict[str, Any]:
    result = build_leaderboard(grouping.read([folder], by), folder / ledger)
    json.dumps(result, allow_nan=False)
    return result


def three(tmp_path: Path) -> Path:
    """Three configurations of three seeds; the learning rate makes the difference."""
    folder = tmp_path / "sweep"
    for i, (rate, right) in enumerate(((0.01, 0.3), (0.001, 0.85), (0.0001, 0.8))):
        for seed in (1, 2, 3):
            write_run(folder / f"{3 * i + seed}", right, seed, optim__lr=rate)
    return folder


def test_runs_that_differ_in_the_seed_only_are_one_configuration(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    assert result["keys"] == ["optim.lr"] and result["main"] == 1
    assert [row["rank"] for row in result["groups"]] == [1, 2, 3]
    rates = [row["values"]["optim.lr"] for row in result["groups"]]
    assert rates == [0.001, 0.0001, 0.01]
    assert [row["name"] for row in result["groups"]] == [f"optim.lr={rate}" for rate in rates]
    for row in result["groups"]:
        assert row["seeds"] == [1, 2, 3] and row["parameters"] == 1000
        scores = [(guesses_of(run) == LABELS).mean() for run in row["runs"]]
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(scores))
        assert row["accuracy"]["std"] == pytest.approx(np.std(scores, ddof=1))
        assert np.sum(row["confusion"]) == 3 * len(LABELS)
        assert np.trace(row["confusion"]) == round(sum(scores) * len(LABELS))
    assert result["n"] == 240 and result["total_runs"] == 9 and result["comparisons"] == 2


def test_a_change_on_resume_is_another_configuration(tmp_path: Path) -> None:
    """Stop conditions do not count: a run of 1 + 5 epochs equals one of 6."""
    changes = {"trainer.max_epochs": (1, 6), "trainer.gradient_clip_val": (None, 1.0)}
    for name, keys in {"plain": [], "longer": ["trainer.max_epochs"], "clipped": changes}.items():
        run = write_run(tmp_path / name, 0.5, seed=len(keys), trainer__gradient_clip_val=1.0)
        changed = {key: dict(zip(("old", "new"), changes[key], strict=True)) for key in keys}
        entry = {"epoch": 1, "step": 4, "changed": changed}
        (run / "resumes.json").write_text(json.dumps({"resumes": [entry]}))
    groups = grouping.read([tmp_path], None).groups
    assert [[run.folder.name for run in group.runs] for group in groups] == [
        ["clipped"],
        ["plain", "longer"],
    ]
    assert groups[0].values == {"resumed": "trainer.gradient_clip_val=null until step 4"}


def guesses_of(run: dict[str, Any]) -> np.ndarray:
    with (Path(run["folder"]) / "predictions_val.csv").open(newline="") as file:
        return np.array([CLASSES.index(row["predicted"]) for row in csv.DictReader(file)])


def test_paths_and_display_options_make_no_configuration(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, 1)
    write_run(tmp_path / "b", 0.5, 2, data__path="b.csv", test=True, logger={}, data__num_workers=4,
              trainer__enable_progress_bar=False, test_ledger="x", resume="y")  # fmt: skip
    result = ranked(tmp_path)
    assert [row["seeds"] for row in result["groups"]] == [[1, 2]] and result["keys"] == []
    assert result["groups"][0]["name"] == "one configuration"
    assert result["groups"][0]["against_best"] is None and result["comparisons"] == 0
    assert not any("optimistic" in line for line in result["warnings"])
    assert "no other configuration" in report.sentence(result)


def test_typed_keys_name_a_configuration_and_differing_keys_are_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, model__name="cnn", model__widths=None, model__stride=2,
              typed=["model=cnn"])  # fmt: skip
    write_run(tmp_path / "b", 0.6, typed=["model=senet", "data.path=x"])
    result = ranked(tmp_path)
    assert result["keys"] == ["model.name", "model.widths", "model.stride"]
    assert result["main"] == 1
    assert [row["name"] for row in result["groups"]] == ["model=senet", "model=cnn"]
    assert "model.stride" not in result["groups"][0]["values"]
    # If the typed keys do not identify the configurations, all differing keys are used.
    write_run(tmp_path / "c", 0.7, model__dropout=0.5, typed=["model=senet"])
    result = ranked(tmp_path)
    assert result["main"] == len(result["keys"]) == 4
    assert len({row["name"] for row in result["groups"]}) == 3


def test_values_of_different_type_differ(tmp_path: Path) -> None:
    for i, value in enumerate((1, "1", True, None)):
        write_run(tmp_path / str(i), 0.4 + i / 10, loss__gamma=value)
    assert len(ranked(tmp_path)["groups"]) == 4


def test_different_training_images_are_a_column_and_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, 1)
    write_run(tmp_path / "b", 0.5, 2, train_hash="other123456")
    result = ranked(tmp_path)
    assert result["keys"] == ["train split"] and len(result["groups"]) == 2
    assert any("not all trained on the same images" in note for note in result["notes"])


def test_repeated_seed_counts_once_and_is_noted(tmp_path: Path) -> None:
    for i, (seed, right) in enumerate(((1, 0.4), (2, 0.5), (1, 0.6))):
        write_run(tmp_path / str(i), right, seed)
    result = ranked(tmp_path)
    (row,) = result["groups"]
    assert [Path(run["folder"]).name for run in row["runs"]] == ["2", "1"]
    assert any("2 repeats" in note and "same seed 1" in note for note in result["notes"])


def test_single_seeds_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9, 1)
    write_run(tmp_path / "b", 0.5, 1, loss__name="focal")
    result = ranked(tmp_path)
    assert result["groups"][0]["macro_f1"]["std"] is None
    assert any("Every configuration has one seed only" in note for note in result["notes"])
    write_run(tmp_path / "c", 0.5, 2, loss__name="focal")
    notes = ranked(tmp_path)["notes"]
    assert any("1 configuration has one seed only" in note for note in notes)
    assert any("do not all have the same seeds" in note for note in notes)
    assert "one seed" in report.sentence(result)


def test_sort_by(tmp_path: Path) -> None:
    """Accuracy and macro F1 rank a constant and a balanced prediction differently."""
    constant = np.zeros_like(LABELS)
    mixed = np.where(np.arange(240) % 20 < 9, LABELS, (LABELS + 1) % 3)
    write_run(tmp_path / "a", 0, predicted=constant, loss__name="plain")
    write_run(tmp_path / "b", 0, predicted=mixed, loss__name="mixed")
    names = {by: ranked(tmp_path, by)["groups"][0]["name"] for by in ("accuracy", "macro_f1")}
    assert names == {"accuracy": "loss=plain", "macro_f1": "loss=mixed"}
    assert ranked(tmp_path)["by"] == "macro_f1", "the monitor of the runs"


@pytest.mark.parametrize("by", [None, "accuracy", "macro_f1"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_compare_of_two_sides_gives_the_same_verdict(
    seeds: tuple[int, ...], by: str | None, tmp_path: Path
) -> None:
    """Accuracy is better and macro F1 is not: both commands follow monitor or sort_by."""
    sides: dict[str, list[Path]] = {"ce": [], "weighted_ce": []}
    for seed in seeds:
        # 20 more of the largest class are right, and all of the smallest are wrong.
        shift = np.arange(240) + seed
        base = np.where(shift % 3 > 0, LABELS, (LABELS + 1) % 3)
        other = np.where(LABELS == 0, LABELS, np.where(LABELS == 2, 0, base))
        for loss, predicted in (("ce", base), ("weighted_ce", other)):
            folder = tmp_path / f"{loss}{seed}"
            sides[loss].append(write_run(folder, 0, seed, predicted=predicted, loss__name=loss))
    result = ranked(tmp_path, by)
    a, b = (sides[row["values"]["loss.name"]] for row in result["groups"])
    compared = compare(a, b, "val", tmp_path / "none", by)
    assert compared["by"] == result["by"] == (by or "macro_f1")
    assert compared["verdict"] == report.verdict(result["groups"][1])
    assert compared["difference"][compared["by"]] == pytest.approx(
        result["groups"][1]["against_best"]["difference"]
    )
    names = [compared[side]["name"] for side in "ab"]
    assert names == [row["name"] for row in result["groups"]] and "loss=ce" in names


def test_monitor_that_is_no_score_is_rejected(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, monitor="val/loss")
    write_run(tmp_path / "b", 0.6, loss__name="focal", monitor="val/loss")
    hint = "sort_by=accuracy or sort_by=macro_f1"
    with pytest.raises(UserError, match=f"selected by val/loss.*{hint}"):
        ranked(tmp_path)
    assert ranked(tmp_path, "accuracy")["groups"][0]["name"] == "loss=focal"
    write_run(tmp_path / "c", 0.7, monitor="val/accuracy")
    with pytest.raises(UserError, match="val/accuracy and val/loss"):
        ranked(tmp_path)


def test_missing_keys_of_older_runs_have_current_defaults(tmp_path: Path) -> None:
    """A newer key with its default value does not make another configuration."""
    write_run(tmp_path / "old", 0.5, 1, typed=[])
    write_run(tmp_path / "new", 0.5, 2, typed=[], model__reduction=16, mix__mixup=0.0)
    result = ranked(tmp_path)
    assert [row["seeds"] for row in result["groups"]] == [[1, 2]]
    assert any("Older runs lack model.reduction, mix.mixup" in note for note in result["notes"])
    write_run(tmp_path / "other", 0.5, 3, typed=[], model__reduction=8, mix__mixup=0.0)
    result = ranked(tmp_path)
    assert result["keys"] == ["model.reduction"] and len(result["groups"]) == 2


def test_values_that_json_cannot_represent(tmp_path: Path) -> None:
    for i, value in enumerate((float("nan"), float("inf"), datetime.date(2026, 1, 31))):
        write_run(tmp_path / str(i), 0.5 + i / 10, loss__gamma=value, typed=[])
    result = ranked(tmp_path)
    values = {row["values"]["loss.gamma"] for row in result["groups"]}
    assert values == {"nan", "inf", "2026-01-31"}


def test_runs_on_different_images_are_rejected(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, optim__lr=1.0)
    write_run(tmp_path / "c", 0.6, optim__lr=2.0, val_hash="f" * 32)
    message = r"a and .*c were not scored on the same val.*fff"
    with pytest.raises(UserError, match=message) as raised:
        ranked(tmp_path)
    assert "\n" not in str(raised.value)


def test_different_folds_are_rejected(tmp_path: Path) -> None:
    for i in range(2):
        write_run(tmp_path / str(i), 0.5, data__folds=5, data__fold=i, val_hash=str(i) * 32)
    message = r"different folds .0 and 1 of 5.*emotion_lab.crossval runs="
    with pytest.raises(UserError, match=message):
        ranked(tmp_path)


def test_missing_fingerprint_is_noted_and_rows_are_matched(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, optim__lr=1.0, val_hash=None)
    assert any("fingerprint" in note for note in ranked(tmp_path)["notes"])
    path = tmp_path / "b" / "predictions_val.csv"
    path.write_text(path.read_text().replace("\n7.png,", "\nx.png,"))
    with pytest.raises(UserError, match=r"do not have the same rows: '7.png'"):
        ranked(tmp_path)


def test_invalid_runs_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        grouping.read([tmp_path / "none"], None)
    run = write_run(tmp_path / "a", 0.5)
    with pytest.raises(UserError, match=r"one finished run, .*a: a leaderboard needs two"):
        grouping.read([run, tmp_path], None)
    other = write_run(tmp_path / "b", 0.6, loss__name="focal")
    with pytest.raises(UserError, match="ranks on val, not on test: select there"):
        grouping.read([run, other], None, "test")
    (other / "predictions_val.csv").rename(other / "kept.csv")
    with pytest.raises(UserError, match=r"no predictions of val in .*b"):
        grouping.read([run, other], None)
    (other / "kept.csv").rename(other / "predictions_val.csv")
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["val"]["accuracy"] = 0.99
    (other / "metrics.json").write_text(json.dumps(metrics))
    message = "b is inconsistent: .*accuracy 0.9900, its predictions give"
    with pytest.raises(UserError, match=message):
        ranked(tmp_path)


def test_unfinished_runs_are_left_out_and_noted(tmp_path: Path) -> None:
    folder = three(tmp_path)
    (folder / "5" / "metrics.json").unlink()
    result = ranked(folder)
    assert result["total_runs"] == 8
    assert any("1 unfinished run (no metrics.json) left out" in note for note in result["notes"])


def test_openings_of_the_test_split(tmp_path: Path) -> None:
    folder = three(tmp_path)
    for name in ("1", "4"):
        (folder / name / "checkpoints").mkdir()
        (folder / name / "checkpoints" / "best.ckpt").write_bytes(name.encode())
    fingerprint = {"hash": "test", "known_as": None, "n": 9}
    ledger = folder / "ledger.jsonl"
    four = file_hash(folder / "4" / "checkpoints" / "best.ckpt")
    for run, checkpoint in (("elsewhere", four), ("again", four), (folder / "5", "0"), ("x", "1")):
        test_ledger.record(ledger, Path(run), checkpoint, {"config": "c"}, fingerprint, 0.5)
    test_ledger.record(ledger, Path("\0"), "3", {"config": "c"}, fingerprint, None)
    ledger.write_text(ledger.read_text() + '{"torn')
    before = ledger.read_bytes()
    result = ranked(folder, ledger="ledger.jsonl")
    assert [row["openings"] for row in result["groups"]] == [3, 0, 0]
    assert not any("test split was opened for" in line for line in result["warnings"])
    test_ledger.record(ledger, folder / "1", "2", {"config": "d"}, fingerprint, 0.5)
    result = ranked(folder, ledger="ledger.jsonl")
    assert [row["openings"] for row in result["groups"]] == [3, 0, 1]
    assert any("opened for 2 of these configurations" in line for line in result["warnings"])
    assert ledger.read_bytes()[: len(before)] == before, "ranking does not write to the ledger"


def test_test_scores_missing_in_the_ledger_are_a_warning(tmp_path: Path) -> None:
    folder = three(tmp_path)
    metrics = json.loads((folder / "1" / "metrics.json").read_text())
    (folder / "1" / "metrics.json").write_text(json.dumps({**metrics, "test": {"n": 1}}))
    warnings = ranked(folder)["warnings"]
    assert any("1 has test scores that are not in the ledger" in line for line in warnings)
