"""Compare: alignment of runs, scores and verdict, report, and error messages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation import test_ledger
from emotion_lab.evaluation.predictions_file import write_predictions
from emotion_lab.evaluation.statistics import intervals, paired, paired_seeds
from emotion_lab.experiments.compare import report
from emotion_lab.experiments.compare.load import (
    parse_runs,
    read_pairs,
    short_names,
    trained_on_lines,
)
from emotion_lab.experiments.compare.result import compare
from emotion_lab.reports.style import LIGHT, render

CLASSES = ["happy", "sad", "neutral"]
LABELS = np.repeat([0, 1, 2], [60, 25, 35])
NAMES = [f"faces/{i:03}.png" for i in range(len(LABELS))]
HASH = "0123456789abcdef0123456789abcdef"


def guesses(right: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(LABELS)) < right, LABELS, generator.integers(0, 3, 120))


def write_run(
    folder: Path,
    predicted: np.ndarray,
    split: str = "val",
    seed: int | None = 0,
    file: str | None = None,
    labels: np.ndarray = LABELS,
    names: list[str] = NAMES,
    classes: list[str] = CLASSES,
    order: np.ndarray | None = None,
    fingerprint: str | None = HASH,
) -> Path:
    """Write predictions and ``metrics.json`` of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    if order is None:
        order = np.arange(len(names))
    probabilities = np.full((len(predicted), len(classes)), 0.4 / (len(classes) - 1))
    probabilities[np.arange(len(predicted)), predicted] = 0.6
    path = folder / (file or f"predictions_{split}.csv")
    ordered = [names[i] for i in order]
    arrays = (labels[order], predicted[order], probabilities[order])
    write_predictions(path, ordered, *arrays, classes)
    accuracy = float((predicted == labels)[: len(names)].mean())
    part: dict[str, Any] = {"n": len(names), "accuracy": accuracy}
    if fingerprint is not None:
        part["fingerprint"] = {"n": len(names), "hash": fingerprint, "known_as": None}
    metrics = {split: part, "commit": "abc"} | ({} if seed is None else {"seed": seed})
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Return two runs; b is better."""
    a = write_run(tmp_path / "a run=1", guesses(0.3, 0))
    return a, write_run(tmp_path / "b", guesses(0.8, 1))


def test_order_of_rows_and_classes_does_not_matter(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    permutation = np.array([2, 0, 1])  # from our class indices to theirs
    classes = [CLASSES[i] for i in np.argsort(permutation)]
    other = write_run(
        tmp_path / "other",
        permutation[guesses(0.8, 1)],
        labels=permutation[LABELS],
        classes=classes,
        order=np.random.default_rng(0).permutation(120),
    )
    ledger = tmp_path / "none"
    original, permuted = (compare([a], [x], "val", ledger)["difference"] for x in (b, other))
    assert {**original, "b": 0} == {**permuted, "b": 0}


def _pair(tmp_path: Path, **changes: Any) -> tuple[list[Path], list[Path]]:
    a = write_run(tmp_path / "a", guesses(0.5, 0))
    return [a], [write_run(tmp_path / "b", **{"predicted": guesses(0.5, 1), **changes})]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "f" * 32}, "not scored on the same val split: .*01234567.*ffffffff"),
        ({"classes": ["happy", "sad", "calm"]}, "same classes: only one of them has calm, neutral"),
        ({"names": [*NAMES[:-1], "x.png"]}, "same rows: 'faces/119.png' is in .*a and not in .*b"),
        ({"names": NAMES[:-1]}, "a \\(120 rows\\).*b \\(119 rows\\).*'faces/119.png'"),
        ({"names": [*NAMES, "x.png"], "labels": np.append(LABELS, 0),
          "predicted": np.zeros(121, int)}, "'x.png' is in .*b and not in .*a"),
        ({"labels": np.where(np.arange(120) == 5, 1, LABELS)},
         "1 labels differ .*'faces/005.png' \\(happy, sad\\)"),
    ],
)  # fmt: skip
def test_incompatible_runs_are_rejected(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_pairs(*_pair(tmp_path, **changes), "val")
    assert "\n" not in str(raised.value)


def test_missing_fingerprint_is_noted(tmp_path: Path) -> None:
    _, _, notes = read_pairs(*_pair(tmp_path, fingerprint=None), "val")
    assert any("fingerprint" in note for note in notes)


def test_run_compared_with_itself_is_rejected(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(two[0])
    with pytest.raises(UserError, match="given twice"):
        read_pairs([two[0]], [tmp_path / "link"], "val")


def test_parse_runs(tmp_path: Path) -> None:
    assert parse_runs("a", "one") == [Path("one")]
    assert parse_runs("a", "[one, two x,'three']") == [Path("one"), Path("two x"), Path("three")]
    assert parse_runs("a", ["one", "two"]) == [Path("one"), Path("two")]
    bracketed = tmp_path / "[x,y]"
    bracketed.mkdir()
    assert parse_runs("a", str(bracketed)) == [bracketed], "an existing folder"
    for empty in (None, "", "[]", []):
        with pytest.raises(UserError, match="run_b is missing"):
            parse_runs("run_b", empty)


def test_short_names() -> None:
    assert short_names([Path("x/senet"), Path("y/cnn")]) == ["senet", "cnn"]
    assert short_names([Path("x/1/run"), Path("x/2/run")]) == ["1/run", "2/run"]


def test_one_run_per_side(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    result = compare([a], [b], "val", tmp_path / "none")
    expected = paired(LABELS, guesses(0.3, 0), guesses(0.8, 1), 3)
    for key in ("accuracy", "accuracy_ci95", "macro_f1_ci95", "mcnemar_p", "only_a_right"):
        assert result["difference"][key] == expected[key]
    assert result["difference"]["per_class"]["sad"]["f1_ci95"] == expected["f1_ci95"][1]
    single = intervals(LABELS, guesses(0.8, 1), 3)
    assert result["b"]["runs"][0]["accuracy_ci95"] == single["accuracy_ci95"]
    assert result["b"]["accuracy"]["mean"] == single["accuracy"]
    assert result["b"]["accuracy"]["std"] is None
    assert result["verdict"] == "better" and result["n"] == 120
    assert result["line"].startswith("b (b) is better than a (a run=1): accuracy +")
    assert result["line"].endswith("n = 120")
    back = compare([b], [a], "val", tmp_path / "none")
    assert back["verdict"] == "worse" and " is worse than " in back["line"]
    json.dumps(result, allow_nan=False)
    assert "test" not in result


def test_listed_images_are_left_out(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    listed = [0, 3, 61, 119]
    rows = [f"/elsewhere/{NAMES[i]}" for i in listed] + [NAMES[0], "faces/of_train.png"]
    list_csv = tmp_path / "duplicates.csv"
    list_csv.write_text("kind,path,split\n" + "".join(f"identical,{row},train\n" for row in rows))
    result = compare([a], [b], "val", tmp_path / "none", drop_csv=str(list_csv))
    kept = np.setdiff1d(np.arange(120), listed)
    expected = paired(LABELS[kept], guesses(0.3, 0)[kept], guesses(0.8, 1)[kept], 3)
    for key in ("accuracy", "accuracy_ci95", "macro_f1", "mcnemar_p"):
        assert result["difference"][key] == expected[key]
    assert result["n"] == 116 and result["support"] == {"happy": 58, "sad": 24, "neutral": 34}
    assert f"4 images of {list_csv} are left out." in result["notes"]
    assert any(note.startswith("before drop_csv: it is unknown") for note in result["notes"])
    assert not result["warnings"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["faces/other.png"], "none of its rows names an image of the predictions"),
        (NAMES, "names all 120 images"),
    ],
)
def test_list_of_no_or_all_images(
    rows: list[str], message: str, two: tuple[Path, Path], tmp_path: Path
) -> None:
    list_csv = tmp_path / "drop.csv"
    list_csv.write_text("path\n" + "\n".join(rows))
    with pytest.raises(UserError, match=message):
        compare([two[0]], [two[1]], "val", tmp_path / "none", drop_csv=str(list_csv))


def test_not_distinguishable(tmp_path: Path) -> None:
    result = compare(*_pair(tmp_path), "val", tmp_path / "none")
    assert "are not distinguishable at n = 120: accuracy" in result["line"]
    assert "McNemar p = " in result["line"]


def test_several_seeds(tmp_path: Path) -> None:
    rights = [0.4, 0.45, 0.5]
    a = [write_run(tmp_path / f"a{i}", guesses(r, i), seed=i) for i, r in enumerate(rights)]
    b = [write_run(tmp_path / f"b{i}", guesses(0.9, 9 + i), seed=i) for i in range(3)]
    result = compare(a, [b[2], b[0], b[1]], "val", tmp_path / "none")
    sides = [[guesses(r, i) for i, r in enumerate(rights)], [guesses(0.9, 9 + i) for i in range(3)]]
    expected = paired_seeds(LABELS, np.stack(sides[0]), np.stack(sides[1]), 3)
    assert result["difference"]["accuracy_ci95"] == expected["accuracy_ci95"]
    assert [pair["seeds"] for pair in result["pairs"]] == [[0, 0], [1, 1], [2, 2]]
    assert [pair["b"] for pair in result["pairs"]] == ["b0", "b1", "b2"]
    scores = [(side == LABELS).mean() for side in sides[0]]
    over = result["a"]["accuracy"]
    assert over["mean"] == pytest.approx(np.mean(scores))
    assert over["std"] == pytest.approx(np.std(scores, ddof=1))
    assert (over["min"], over["max"]) == (min(scores), max(scores))
    assert result["verdict"] == "better" and "over 3 seeds" in result["line"]
    text = "\n".join(map(str, report.lines(result)))
    assert f"{over['mean']:.4f} ± {over['std']:.4f}" in text
    assert text.count("McNemar") == 3


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0, 1], [0], "a has 2 runs and b has 1"),
        ([0, 1], [0, 2], "seeds of a are 0, 1 and those of b 0, 2"),
        ([0, 0], [0, 1], "a has seed 0 twice"),
    ],
)
def test_unequal_seeds_are_rejected(a: Any, b: Any, message: str, tmp_path: Path) -> None:
    sides = [
        [write_run(tmp_path / f"{key}{i}", guesses(0.5, i), seed=s) for i, s in enumerate(seeds)]
        for key, seeds in (("a", a), ("b", b))
    ]
    with pytest.raises(UserError, match=message):
        read_pairs(*sides, "val")


def test_runs_without_seed_are_paired_in_order(tmp_path: Path) -> None:
    sides = [
        [write_run(tmp_path / f"{key}{i}", guesses(0.5, i), seed=None) for i in range(2)]
        for key in "ab"
    ]
    _, second, notes = read_pairs(*sides, "val")
    assert [saved.run.name for saved in second] == ["b0", "b1"]
    assert any("in the given order" in note for note in notes)


def printed(result: dict[str, Any]) -> list[str]:
    return "\n".join(map(str, report.lines(result))).splitlines()


def test_class_without_samples(tmp_path: Path) -> None:
    labels = np.where(LABELS == 1, 0, LABELS)
    runs = [
        write_run(tmp_path / f"{i}", np.where(guesses(0.5, i) == 1, 0, guesses(0.5, i)),
                  labels=labels) for i in range(2)
    ]  # fmt: skip
    result = compare([runs[0]], [runs[1]], "val", tmp_path / "none")
    assert result["difference"]["per_class"]["sad"] == {"f1": None, "f1_ci95": None}
    (line,) = (row for row in printed(result) if row.startswith("F1 sad"))
    assert line.split()[2:] == ["no", "samples"] * 3
    report.write_page(tmp_path, result, {"light": b"", "dark": b""})
    assert "no samples" in (tmp_path / "compare.html").read_text()
    assert "No samples: sad." in result["notes"]


@pytest.mark.usefixtures("rendered_figures")
def test_class_that_is_never_correct(tmp_path: Path) -> None:
    """Its F1 is 0 in every bootstrap sample, so it has no interval."""
    never = np.where(guesses(0.8, 0) == 1, 0, guesses(0.8, 0))
    runs = [write_run(tmp_path / "a", guesses(0.8, 1)), write_run(tmp_path / "b", never)]
    result = compare([runs[0]], [runs[1]], "val", tmp_path / "none")
    assert result["b"]["runs"][0]["per_class"]["sad"] == {"f1": 0.0, "f1_ci95": None}
    (line,) = (row for row in printed(result) if row.startswith("F1 sad"))
    assert "0.0000 [no spread]" in line
    assert render(lambda style: report.figure(result, style), LIGHT)[:4] == b"\x89PNG"
    report.write_page(tmp_path, result, {"light": b"", "dark": b""})


def test_openings_of_the_test_split(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{i}", guesses(0.5, i), split="test") for i in range(2)]
    ledger = tmp_path / "ledger.jsonl"
    fingerprint = {"hash": HASH, "known_as": None, "n": 120}

    def result() -> dict[str, Any]:
        return compare([runs[0]], [runs[1]], "test", ledger)

    assert result()["test"] == {"openings": 0, "configurations": 0}
    assert "has no opening" in result()["warnings"][0]
    for config in ("one", "one"):
        test_ledger.record(ledger, runs[0], "c0ffee", {"config": config}, fingerprint, 0.5)
    assert result()["test"] == {"openings": 2, "configurations": 1} and not result()["warnings"]
    assert report.ledger_line(result()) == "test split opened 2 times, for 1 configuration"
    test_ledger.record(ledger, runs[0], "facade", {"config": "two"}, fingerprint, 0.5)
    other = {**fingerprint, "hash": "other"}
    test_ledger.record(ledger, runs[0], "c0ffee", {"config": "three"}, other, 0.5)
    assert result()["test"] == {"openings": 3, "configurations": 2}
    text = "\n".join(map(str, report.lines(result())))
    assert "test split opened 3 times, for 2 configurations" in text
    assert "warning: this test set was opened for 2 configurations" in text
    assert len(ledger.read_text().splitlines()) == 4, "comparing opens nothing"


#: The last line on stderr lists the heavy modules that were imported.
SCRIPT = """
import sys
from emotion_lab.compare import main
sys.argv = ["compare", *sys.argv[1:]]
main()
print("heavy:", *({"torch", "lightning", "cv2"} & set(sys.modules)), file=sys.stderr)
"""


def test_command_end_to_end(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", guesses(0.3, 0))
    b = write_run(tmp_path / "b", guesses(0.8, 1))
    arguments = [sys.executable, "-c", SCRIPT, f"run_a={a}", f"run_b={b}"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "heavy:\n"
    lines = done.stdout.splitlines()
    folder = Path(lines[-1])
    assert folder.parents[1] == tmp_path / "outputs" / "compare"
    assert lines[-3].startswith("b (b) is better than a (a): accuracy +")
    assert lines[-2].startswith("macro F1: better, +")
    (row,) = (line for line in lines if line.startswith("accuracy"))
    assert len(re.findall(r"\[[+-]?\d\.\d{4}, [+-]?\d\.\d{4}\]", row)) == 3
    content = json.loads((folder / "compare.json").read_text())
    assert content["verdict"] == "better" and content["line"] == lines[-3]
    assert (folder / "compare.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "compare.html").read_text()
    assert "prefers-color-scheme: dark" in page and page.count("data:image/png;base64,iVBOR") == 2
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "width=device-width" in page


def test_names_are_escaped_on_the_page(tmp_path: Path) -> None:
    classes = ["<b>x</b>", "$y$", "_z"]
    runs = [write_run(tmp_path / f"<i>{i}", guesses(0.5, i), classes=classes) for i in range(2)]
    result = compare([runs[0]], [runs[1]], "val", tmp_path / "none")
    report.write_page(tmp_path, result, {"light": b"", "dark": b""})
    page = (tmp_path / "compare.html").read_text()
    assert "<b>x" not in page and "<i>0" not in page and "&lt;b&gt;x" in page


def test_runs_that_learnt_from_the_images() -> None:
    def scores(count: int | None, near: int | None = 0) -> dict[str, Any]:
        return {"n": 50, "trained_on": {"n": count, "near": near, "unknown": []}}

    assert trained_on_lines(["a", "b"], [scores(0), scores(0)]) == ([], [])
    assert trained_on_lines(["a", "b"], [scores(4), scores(4)]) == (
        [],
        ["4 of the images are in the training data of every run"],
    )
    warnings, notes = trained_on_lines(["a", "b", "c"], [scores(4), scores(40), scores(None)])
    assert warnings == [
        "b learnt from 40 of the 50 images, other runs from 4: its score is too high"
    ]
    assert notes[1:] == ["it is unknown whether these runs learnt from the images: c"]
    # Near copies count if every run knows them.
    assert trained_on_lines(["a", "b"], [scores(4, 2), scores(4, 3)])[0] == [
        "b learnt from 7 of the 50 images, other runs from 6: its score is too high"
    ]
    assert trained_on_lines(["a", "b"], [scores(0, 2), scores(0, None)]) == (
        [],
        ["it is unknown whether these runs learnt from near copies of the images: b"],
    )
    # Runs of earlier versions did not count them.
    assert trained_on_lines(["a"], [{"n": 50}])[1] == [
        "it is unknown whether these runs learnt from the images: a"
    ]
