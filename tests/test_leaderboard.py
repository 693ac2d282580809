"""Leaderboard: runs grouped by configuration, ranked, judged against the best; what is refused."""

from __future__ import annotations

import csv
import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from emotion_lab import runs as run_folders
from emotion_lab.comparison.compare import compare
from emotion_lab.errors import UserError
from emotion_lab.evaluation import ledger as seal
from emotion_lab.evaluation.statistics import count, interval, paired, paired_seeds, resample
from emotion_lab.files import file_hash
from emotion_lab.leaderboard import groups, show, versus
from emotion_lab.leaderboard.board import board

CLASSES = ["happy", "sad", "neutral"]
LABELS = np.repeat([0, 1, 2], [120, 50, 70])
HASH = "0123456789abcdef0123456789abcdef"
CONFIG: dict[str, Any] = {
    "seed": 0,
    "monitor": "val/macro_f1",
    "ledger": "outputs/test_ledger.jsonl",
    "resume": None,
    "test": False,
    "data": {"name": "fer2013", "path": "a.csv", "folds": None, "fold": 0, "num_workers": 0},
    "model": {"name": "senet", "widths": [8, 8], "dropout": 0.2},
    "loss": {"name": "ce"},
    "optim": {"name": "adamw", "lr": 0.001},
    "trainer": {"mode": "auto", "max_epochs": 3, "progress": "auto"},
    "logger": {"csv": {"name": "csv"}},
}


def guesses(right: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    lucky = generator.random(len(LABELS)) < right
    return np.where(lucky, LABELS, generator.integers(0, 3, len(LABELS)))


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
    """Write what ``train`` leaves; ``values`` are config keys with ``__`` for the dot."""
    predicted = guesses(right, seed + int(right * 1000)) if predicted is None else predicted
    folder.mkdir(parents=True)
    values = {key.replace("__", "."): value for key, value in values.items()}
    config = config_with({**values, "seed": seed})
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if typed is None:
        typed = [f"{key.removesuffix('.name')}={value}" for key, value in values.items()]
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*typed, f"seed={seed}"]))
    rows = []
    for label, guess in zip(LABELS, predicted, strict=True):
        shares = np.full(3, 0.2)
        shares[guess] = 0.6
        rows.append([f"{len(rows)}.png", classes[label], classes[guess], *shares])
    with open(folder / "predictions_val.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "true", "predicted", *(f"p_{name}" for name in classes)])
        writer.writerows(rows)
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
    lines = ["epoch,val/loss,val/accuracy,val/macro_f1,best"]
    for epoch, share in enumerate((0.6, 1, 0.9)):
        scores = ",".join(str(val[key] * share) for key in ("accuracy", "macro_f1"))
        lines.append(f"{epoch},{2 - share},{scores},{share == 1}")
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


def ranked(place: Path, by: str | None = None, ledger: str = "none") -> dict[str, Any]:
    result = board(groups.read([place], by), place / ledger)
    json.dumps(result, allow_nan=False)
    return result


def three(tmp_path: Path) -> Path:
    """Three configurations of three seeds; the learning rate makes the difference."""
    place = tmp_path / "sweep"
    for i, (rate, right) in enumerate(((0.01, 0.3), (0.001, 0.85), (0.0001, 0.8))):
        for seed in (1, 2, 3):
            write_run(place / f"{3 * i + seed}", right, seed, optim__lr=rate)
    return place


# --- configurations -------------------------------------------------------------------------


def test_runs_that_differ_only_in_the_seed_are_one_configuration(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    assert result["keys"] == ["optim.lr"] and result["main"] == 1
    assert [row["rank"] for row in result["groups"]] == [1, 2, 3]
    assert [row["values"]["optim.lr"] for row in result["groups"]] == [0.001, 0.0001, 0.01]
    assert [row["name"] for row in result["groups"]] == [
        "optim.lr=0.001",
        "optim.lr=0.0001",
        "optim.lr=0.01",
    ]
    for row in result["groups"]:
        assert row["seeds"] == [1, 2, 3] and row["parameters"] == 1000
        scores = [(guesses_of(run) == LABELS).mean() for run in row["runs"]]
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(scores))
        assert row["accuracy"]["std"] == pytest.approx(np.std(scores, ddof=1))
        assert np.sum(row["confusion"]) == 3 * len(LABELS)
        assert np.trace(row["confusion"]) == round(sum(scores) * len(LABELS))
    assert result["n"] == 240 and result["total_runs"] == 9 and result["comparisons"] == 2


def guesses_of(run: dict[str, Any]) -> np.ndarray:
    with open(Path(run["folder"]) / "predictions_val.csv", newline="") as file:
        return np.array([CLASSES.index(row["predicted"]) for row in csv.DictReader(file)])


def test_where_things_lie_makes_no_configuration(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, 1)
    write_run(tmp_path / "b", 0.5, 2, data__path="b.csv", test=True, logger={}, data__num_workers=4,
              trainer__progress=False, ledger="x", resume="y")  # fmt: skip
    result = ranked(tmp_path)
    assert [row["seeds"] for row in result["groups"]] == [[1, 2]] and result["keys"] == []
    assert result["groups"][0]["name"] == "one configuration"
    assert result["groups"][0]["against_best"] is None and result["comparisons"] == 0
    assert not any("optimistic" in line for line in result["warnings"])
    assert "nothing to compare" in show.sentence(result)


def test_typed_keys_name_a_configuration_and_all_that_differ_are_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, model__name="cnn", model__widths=None, model__stride=2,
              typed=["model=cnn"])  # fmt: skip
    write_run(tmp_path / "b", 0.6, typed=["model=senet", "data.path=x"])
    result = ranked(tmp_path)
    assert result["keys"] == ["model.name", "model.widths", "model.stride"]
    assert result["main"] == 1
    assert [row["name"] for row in result["groups"]] == ["model=senet", "model=cnn"]
    assert "model.stride" not in result["groups"][0]["values"]
    # Where what was typed does not tell them apart, every differing key does.
    write_run(tmp_path / "c", 0.7, model__dropout=0.5, typed=["model=senet"])
    result = ranked(tmp_path)
    assert result["main"] == len(result["keys"]) == 4
    assert len({row["name"] for row in result["groups"]}) == 3


def test_a_type_is_a_difference_too(tmp_path: Path) -> None:
    for i, value in enumerate((1, "1", True, None)):
        write_run(tmp_path / str(i), 0.4 + i / 10, loss__gamma=value)
    assert len(ranked(tmp_path)["groups"]) == 4


def test_other_training_images_are_a_column_and_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, 1)
    write_run(tmp_path / "b", 0.5, 2, train_hash="other123456")
    result = ranked(tmp_path)
    assert result["keys"] == ["train split"] and len(result["groups"]) == 2
    assert any("not all trained on the same images" in note for note in result["notes"])


def test_a_seed_trained_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    for i, (seed, right) in enumerate(((1, 0.4), (2, 0.5), (1, 0.6))):
        write_run(tmp_path / str(i), right, seed)
    result = ranked(tmp_path)
    (row,) = result["groups"]
    assert [Path(run["folder"]).name for run in row["runs"]] == ["2", "1"]
    assert any("2 repeats" in note and "same seed 1" in note for note in result["notes"])


def test_single_seeds_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.9, 1)
    write_run(tmp_path / "b", 0.5, 1, loss__name="focal")
    result = ranked(tmp_path)
    assert result["groups"][0]["macro_f1"]["std"] is None
    assert any("Every configuration has one seed only" in note for note in result["notes"])
    write_run(tmp_path / "c", 0.5, 2, loss__name="focal")
    notes = ranked(tmp_path)["notes"]
    assert any("1 configuration has one seed only" in note for note in notes)
    assert any("do not all have the same seeds" in note for note in notes)
    assert "one seed" in show.sentence(result)


def test_what_it_is_ranked_by(tmp_path: Path) -> None:
    """Accuracy and macro F1 disagree here: one class for all, against a bit of each."""
    plain = np.zeros_like(LABELS)
    mixed = np.where(np.arange(240) % 20 < 9, LABELS, (LABELS + 1) % 3)
    write_run(tmp_path / "a", 0, predicted=plain, loss__name="plain")
    write_run(tmp_path / "b", 0, predicted=mixed, loss__name="mixed")
    names = {by: ranked(tmp_path, by)["groups"][0]["name"] for by in ("accuracy", "macro_f1")}
    assert names == {"accuracy": "loss=plain", "macro_f1": "loss=mixed"}
    assert ranked(tmp_path)["by"] == "macro_f1", "what the runs were chosen by"


def test_monitors_that_give_no_order(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, monitor="val/loss")
    write_run(tmp_path / "b", 0.6, loss__name="focal", monitor="val/loss")
    with pytest.raises(UserError, match="chosen by val/loss.*by=accuracy or by=macro_f1"):
        ranked(tmp_path)
    assert ranked(tmp_path, "accuracy")["groups"][0]["name"] == "loss=focal"
    write_run(tmp_path / "c", 0.7, monitor="val/accuracy")
    with pytest.raises(UserError, match="val/accuracy and val/loss: say by="):
        ranked(tmp_path)


def test_older_runs_have_todays_defaults(tmp_path: Path) -> None:
    """A key that came later makes no configuration of its own where it has its default."""
    write_run(tmp_path / "old", 0.5, 1, typed=[])
    write_run(tmp_path / "new", 0.5, 2, typed=[], model__reduction=16, mix__mixup=0.0)
    result = ranked(tmp_path)
    assert [row["seeds"] for row in result["groups"]] == [[1, 2]]
    assert any("Older runs lack model.reduction, mix.mixup" in note for note in result["notes"])
    write_run(tmp_path / "other", 0.5, 3, typed=[], model__reduction=8, mix__mixup=0.0)
    result = ranked(tmp_path)
    assert result["keys"] == ["model.reduction"] and len(result["groups"]) == 2


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    for i, value in enumerate((float("nan"), float("inf"), datetime.date(2026, 1, 31))):
        write_run(tmp_path / str(i), 0.5 + i / 10, loss__gamma=value, typed=[])
    result = ranked(tmp_path)
    values = {row["values"]["loss.gamma"] for row in result["groups"]}
    assert values == {"nan", "inf", "2026-01-31"}


# --- against the best -----------------------------------------------------------------------


def test_against_the_best_is_what_compare_says(tmp_path: Path) -> None:
    place = three(tmp_path)
    for by in ("accuracy", "macro_f1"):
        result = ranked(place, by)
        best = [Path(run["folder"]) for run in result["groups"][0]["runs"]]
        for row in result["groups"][1:]:
            runs = [Path(run["folder"]) for run in row["runs"]]
            expected = compare(best, runs, "val", place / "none")["difference"]
            found = row["against_best"]
            assert found["difference"] == expected[by] and found["ci95"] == expected[f"{by}_ci95"]
            word = expected["verdict" if by == "accuracy" else "macro_f1_verdict"]
            assert found["alone"] == word and found["seeds"] == [[1, 1], [2, 2], [3, 3]]
        assert [show.word(row) for row in result["groups"]] == [
            "best",
            "not distinguishable",
            "worse",
        ]


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ([1], [1], [[1, 1]]),
        ([1, 2], [2, 3], [[2, 2]]),
        ([1, 2], [3, 4], [[1, 3]]),
        ([1, 2, 3], [2, 3, 4, 5], [[2, 2], [3, 3]]),
    ],
)
def test_seeds_are_paired_where_both_have_them(
    first: list[int], second: list[int], pairs: list[list[int]]
) -> None:
    best = {seed: guesses(0.9, seed) for seed in first}
    other = {seed: guesses(0.5, 50 + seed) for seed in second}
    found = versus.against(LABELS, best, other, 3, "accuracy")
    assert found["seeds"] == pairs
    if len(pairs) > 1:
        sides = [np.stack([best[a] for a, _ in pairs]), np.stack([other[b] for _, b in pairs])]
        expected = paired_seeds(LABELS, *sides, 3)
    else:
        expected = paired(LABELS, best[pairs[0][0]], other[pairs[0][1]], 3)
        assert found["p"] == expected["mcnemar_p"]
    assert found["ci95"] == expected["accuracy_ci95"] and found["alone"] == expected["verdict"]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_p_and_the_interval_agree(seeds: int) -> None:
    """p is below 0.05 exactly where the 95 % interval excludes 0."""
    told = []
    for trial in range(25):
        best = [guesses(0.8, 1000 + 10 * trial + i) for i in range(seeds)]
        other = [guesses(0.55 + trial / 100, 5000 + 10 * trial + i) for i in range(seeds)]
        if seeds == 1:
            found = paired(LABELS, best[0], other[0], 3)
        else:
            found = paired_seeds(LABELS, np.stack(best), np.stack(other), 3)
        scores = [[count(LABELS, row, 3).macro_f1 for row in side] for side in (best, other)]
        low, high = found["macro_f1_ci95"]
        p = versus.p_value(found["macro_f1"], (low, high), np.subtract(scores[1], scores[0]))
        assert 0 < p <= 1
        assert (p < 0.05) == (low > 0 or high < 0)
        told.append(p < 0.05)
    assert seeds == 2 or len(set(told)) == 2, "the trials are on one side only"


def test_p_of_one_pair_is_that_of_a_normal() -> None:
    """Against the bootstrap itself: where a normal of the same spread puts the difference."""
    a, b = guesses(0.8, 1), guesses(0.7, 2)
    found = paired(LABELS, a, b, 3)
    drawn = resample(LABELS, np.stack([a, b]), 3)
    draws = drawn.macro_f1[1] - drawn.macro_f1[0]
    assert interval(draws) == found["macro_f1_ci95"]
    p = versus.p_value(found["macro_f1"], found["macro_f1_ci95"], np.zeros(1))
    z = found["macro_f1"] / draws.std()
    assert p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.25)


def test_p_of_many_images_is_that_of_students_t() -> None:
    over = np.array([0.02, 0.05, 0.03, 0.04])
    mean = over.mean()
    half = stats.t.ppf(0.975, 3) * over.std(ddof=1) / 2
    p = versus.p_value(mean, (mean - half, mean + half), over)
    assert p == pytest.approx(stats.ttest_1samp(over, 0).pvalue, rel=1e-6)


def test_p_at_its_ends() -> None:
    assert versus.p_value(0.0, (0.0, 0.0), np.zeros(1)) == 1
    assert versus.p_value(0.5, (0.5, 0.5), np.zeros(1)) == versus.SMALLEST
    assert versus.p_value(-0.5, (-0.5001, -0.4999), np.full(3, -0.5)) == versus.SMALLEST


def test_holm() -> None:
    """The example of R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert versus.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert versus.holm([0.6, 0.7]) == [1.0, 1.0] and versus.holm([]) == []


def test_many_comparisons_are_corrected_for(tmp_path: Path) -> None:
    """A difference that is one alone is none among thirty."""
    for i in range(30):
        write_run(tmp_path / str(i), 0.8, seed=7, predicted=guesses(0.8, i), optim__lr=0.1 + i)
    result = ranked(tmp_path, "accuracy")
    rows = [row["against_best"] for row in result["groups"][1:]]
    assert any(row["alone"] == "worse" and row["verdict"] != "worse" for row in rows)
    for row in rows:
        assert row["p_holm"] >= row["p"]
        assert (row["verdict"] == "worse") == (row["alone"] == "worse" and row["p_holm"] < 0.05)
    assert "best of 30 configurations (30 runs) by val is optimistic" in result["warnings"][0]


def test_a_few_images_are_no_difference_in_macro_f1(tmp_path: Path) -> None:
    """On fewer than six differing rows no exact test reaches 5 %."""
    other = LABELS.copy()
    other[:4] = 1
    write_run(tmp_path / "a", 0, predicted=LABELS)
    write_run(tmp_path / "b", 0, predicted=other, loss__name="focal")
    found = ranked(tmp_path)["groups"][1]["against_best"]
    assert found["ci95"][1] < 0 and found["p"] == 1 and found["verdict"] == "not distinguishable"


# --- what is refused ------------------------------------------------------------------------


def test_other_images_have_no_common_order(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, optim__lr=1.0)
    write_run(tmp_path / "c", 0.6, optim__lr=2.0, val_hash="f" * 32)
    with pytest.raises(UserError, match="a and .*c were not scored on the same val.*fff") as raised:
        ranked(tmp_path)
    assert "\n" not in str(raised.value)


def test_folds_are_pooled_elsewhere(tmp_path: Path) -> None:
    for i in range(2):
        write_run(tmp_path / str(i), 0.5, data__folds=5, data__fold=i, val_hash=str(i) * 32)
    with pytest.raises(UserError, match="different folds .0 and 1 of 5.*emotion_lab.folds runs="):
        ranked(tmp_path)


def test_without_a_fingerprint_rows_are_matched_and_it_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.6, optim__lr=1.0, val_hash=None)
    assert any("fingerprint" in note for note in ranked(tmp_path)["notes"])
    (tmp_path / "b" / "predictions_val.csv").write_text(
        (tmp_path / "b" / "predictions_val.csv").read_text().replace("\n7.png,", "\nx.png,")
    )
    with pytest.raises(UserError, match="do not have the same rows: '7.png'"):
        ranked(tmp_path)


def test_runs_that_cannot_be_ranked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        groups.read([tmp_path / "none"], None)
    run = write_run(tmp_path / "a", 0.5)
    with pytest.raises(UserError, match="one finished run, .*a: a leaderboard needs two"):
        groups.read([run, tmp_path], None)
    other = write_run(tmp_path / "b", 0.6, loss__name="focal")
    with pytest.raises(UserError, match="ranks on val, not on test: choose there"):
        groups.read([run, other], None, "test")
    (other / "predictions_val.csv").rename(other / "kept.csv")
    with pytest.raises(UserError, match="no predictions of val in .*b"):
        groups.read([run, other], None)
    (other / "kept.csv").rename(other / "predictions_val.csv")
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["val"]["accuracy"] = 0.99
    (other / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="b is not whole: .*accuracy 0.9900, its predictions give"):
        ranked(tmp_path)


def test_unfinished_runs_are_left_out_and_said(tmp_path: Path) -> None:
    place = three(tmp_path)
    (place / "5" / "metrics.json").unlink()
    result = ranked(place)
    assert result["total_runs"] == 8
    assert any("1 unfinished run (no metrics.json) left out" in note for note in result["notes"])


# --- the seal -------------------------------------------------------------------------------


def test_openings_of_the_test_split(tmp_path: Path) -> None:
    place = three(tmp_path)
    for name in ("1", "4"):
        (place / name / "checkpoints").mkdir()
        (place / name / "checkpoints" / "best.ckpt").write_bytes(name.encode())
    found = {"hash": "test", "known_as": None, "n": 9}
    ledger = place / "ledger.jsonl"
    four = file_hash(place / "4" / "checkpoints" / "best.ckpt")
    for run, checkpoint in (("elsewhere", four), ("again", four), (place / "5", "0"), ("x", "1")):
        seal.record(ledger, Path(run), checkpoint, {"config": "c"}, found, 0.5)
    seal.record(ledger, Path("\0"), "3", {"config": "c"}, found, None)
    ledger.write_text(ledger.read_text() + '{"torn')
    before = ledger.read_bytes()
    result = ranked(place, ledger="ledger.jsonl")
    assert [row["openings"] for row in result["groups"]] == [3, 0, 0]
    assert not any("test split was opened for" in line for line in result["warnings"])
    seal.record(ledger, place / "1", "2", {"config": "d"}, found, 0.5)
    result = ranked(place, ledger="ledger.jsonl")
    assert [row["openings"] for row in result["groups"]] == [3, 0, 1]
    assert any("opened for 2 of these configurations" in line for line in result["warnings"])
    assert ledger.read_bytes()[: len(before)] == before, "ranking opens nothing"


def test_a_test_score_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    place = three(tmp_path)
    metrics = json.loads((place / "1" / "metrics.json").read_text())
    (place / "1" / "metrics.json").write_text(json.dumps({**metrics, "test": {"n": 1}}))
    warnings = ranked(place)["warnings"]
    assert any("1 scored its test split, and the ledger" in line for line in warnings)


# --- as text --------------------------------------------------------------------------------


def test_the_terminal(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    text = "\n".join(show.lines(result))
    best = result["groups"][0]["macro_f1"]
    assert f"{best['mean']:.4f} ± {best['std']:.4f}" in text
    last = show.lines(result)[-1]
    assert last == show.sentence(result)
    assert "best by val macro F1: optim.lr=0.001" in last and "n = 240" in last
    assert last.endswith("not distinguishable from it: 1 of the other 2")
    assert "warning: The best of 3 configurations (9 runs) by val is optimistic" in text
    assert "p (Holm)" in text and "worse" in text


def test_the_csv_has_every_number(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    rows = list(csv.DictReader(io.StringIO(show.table(result))))
    assert [row["optim.lr"] for row in rows] == ["0.001", "0.0001", "0.01"]
    for row, found in zip(rows, result["groups"], strict=True):
        for score in ("accuracy", "macro_f1"):
            assert float(row[f"{score}_mean"]) == found[score]["mean"]
            assert float(row[f"{score}_std"]) == found[score]["std"]
        assert row["seeds"] == "1 2 3" and row["n_seeds"] == "3"
        assert row["verdict"] == show.word(found) and int(row["test_openings"]) == 0
    assert float(rows[2]["p_holm"]) == result["groups"][2]["against_best"]["p_holm"]
    assert rows[0]["p"] == "" and rows[0]["latency_ms"] == ""


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    """A spreadsheet runs no formula, a terminal no escape sequence."""
    write_run(tmp_path / "a", 0.5, loss__name="=1+1", optim__lr=-0.5, model__name="\x1b[31m\u202e")
    write_run(tmp_path / "b", 0.6, loss__name="@x", optim__lr=-1.5, model__name="b")
    result = ranked(tmp_path)
    (row,) = (
        r for r in csv.DictReader(io.StringIO(show.table(result))) if "=1+1" in r["loss.name"]
    )
    assert row["loss.name"] == "'=1+1" and row["optim.lr"] == "-0.5"
    text = "\n".join(show.lines(result)) + show.table(result)
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\u202e" in text


def test_histories_are_read_or_missed_aloud(tmp_path: Path) -> None:
    place = three(tmp_path)
    found = groups.read([place], None)
    (place / "2" / "history.csv").unlink()
    (place / "3" / "history.csv").write_text("epoch,val/loss\n0,x\n")
    kept, notes = show.histories(found, board(found, place / "none"))
    assert [len(each) for each in kept] == [3, 3, 1]
    assert len(notes) == 1 and "sweep/2" in notes[0] and "sweep/3" in notes[0]
    assert run_folders.read(place / "1").history()[1]["best"] == 1
