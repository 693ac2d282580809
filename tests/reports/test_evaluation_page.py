"""The HTML report: all numbers, no external resources, escaped names."""

from __future__ import annotations

import copy
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import emotion_lab
from emotion_lab.core.errors import UserError
from emotion_lab.reports import evaluation_page
from emotion_lab.reports.examples import ClassExamples, ConfusedPair, Example
from emotion_lab.reports.html import png
from emotion_lab.reports.style import DARK, LIGHT

NAMES = ["angry", "happy", "sad"]
PIXEL = "data:image/png;base64,iVBORw0KGgo="
#: Elements without an end tag.
VOID = {"meta", "img", "source", "br", "link", "hr", "input"}


def example(true: str = "angry", predicted: str = "happy", name: str = "a.png") -> Example:
    top = [(predicted, 0.9123), (true, 0.0654), ("sad", 0.0111)]
    return Example(0, name, true, predicted, 0.9123, 0.0654, top, PIXEL, PIXEL)


def row(base: float, support: int) -> dict[str, Any]:
    values = {"precision": base, "recall": base + 0.01, "f1": base + 0.02}
    return {**values, "support": support, "f1_ci95": [base - 0.05, base + 0.07],
            "auc": base + 0.1, "average_precision": base + 0.05}  # fmt: skip


#: Names of the figures, in page order.
FIGURES = (
    *("per_class", "confusion_counts", "confusion_normalized", "curves", "roc"),
    *("precision_recall", "reliability", "confidence", "coverage", "robustness"),
)
FULL: dict[str, Any] = {
    "split": "val",
    "n": 3456,
    "accuracy": 0.65432,
    "accuracy_ci95": [0.63871, 0.66992],
    "macro_f1": 0.61234,
    "macro_f1_ci95": [0.59011, 0.63477],
    "classes": NAMES,
    "per_class": {"angry": row(0.521, 1201), "happy": row(0.832, 1502), "sad": row(0.443, 753)},
    "confusion": [[1001, 150, 50], [102, 1303, 97], [203, 211, 339]],
    "roc_auc_macro": 0.91357,
    "nll": 0.98765,
    "ece": 0.04321,
    "brier": 0.45678,
    "temperature": 1.23456,
    "temperature_fitted_on": "val",
    "nll_calibrated": 0.95551,
    "ece_calibrated": 0.01357,
    "brier_calibrated": 0.44448,
    "coverage": [{"coverage": 0.5, "accuracy": 0.8123, "threshold": 0.60606}],
    "fingerprint": {"hash": "abcdef0123456789", "n": 3456, "known_as": "FER2013 PublicTest"},
    "tta": "flip",
    "protocol": {
        "chosen_on": "val",
        "shown": "val",
        "known_as": "FER2013 PublicTest",
        "foreign": False,
        "openings": 4,
        "configurations": 2,
        "lines": ["a line of protocol"],
        "warnings": ["opened before"],
    },
    "without_duplicates": {
        "n": 3333,
        "accuracy": 0.6411,
        "accuracy_ci95": [0.62, 0.66],
        "removed": 123,
    },
    "robustness": {"n": 1024, "clean": 0.6501, "blur": [0.611, 0.522, 0.433, 0.344, 0.255]},
    "mapping": [
        {"from": "anger", "to": "angry", "n": 17},
        {"from": "contempt", "to": None, "n": 9},
    ],
    "pose": {
        "detector": "yunet",
        "without": 12,
        "bins": [
            {"from": 0, "to": 15, "n": 90, "accuracy": 0.75, "accuracy_ci95": [0.65, 0.83]},
            {"from": 15, "to": 180, "n": 0, "accuracy": None, "accuracy_ci95": None},
        ],
    },
    "episodes": {
        "n": 246,
        "groups": 82,
        "accuracy_majority": 0.7717,
        "accuracy_majority_ci95": [0.7011, 0.8022],
        "accuracy_mean": 0.7828,
        "accuracy_mean_ci95": [0.7133, 0.8144],
    },
    "intensity": {
        "n": 1024,
        "spearman": 0.8,
        "spearman_ci95": [0.7, 0.9],
        "spearman_probability": 0.6,
        "mae": 0.15,
        "bins": [
            {"from": 0.0, "n": 1024, "intensity": 0.4, "share": 0.45},
            {"from": 0.8, "n": 0, "intensity": None, "share": None},
        ],
        "cross_fitted": True,
        "in_checkpoint": False,
    },
    "quantities": [
        {
            "quantity": "valence",
            "source": "learned",
            "n": 40,
            "ccc": 0.91,
            "rmse": 0.1,
            "ccc_ci95": [0.87, 0.94],
        },
        {
            "quantity": "valence",
            "source": "derived",
            "n": 40,
            "ccc": None,
            "ccc_ci95": None,
            "rmse": 0.3,
        },
    ],
    "votes": {
        "n": 900,
        "bins": [
            {"from": 1.0, "n": 812, "accuracy": 0.9311, "accuracy_majority": 0.9422},
            {"from": 0.9, "n": 0, "accuracy": None, "accuracy_majority": None},
        ],
        "model": 0.6133,
        "ceiling": 0.8766,
        "person": None,
    },
    "by_labels": {"majority": {"n": 3210, "accuracy": 0.7017, "macro_f1": 0.6543}},
    "checkpoint": "runs/best.ckpt",
    "checkpoint_sha256": "0f" * 32,
    "commit": "1234abcd",
    "hardware": {"cpu": "Some Processor", "cores": 2},
    "versions": {"torch": "2.9.1"},
    "model": "senet",
    "parameters": {"trainable": 1780075, "total": 1780075},
    "seed": 11,
    "command": "python -m emotion_lab.evaluate ckpt=runs split=val",
    "figures": {
        name: {"light": b"light " + name.encode(), "dark": b"dark " + name.encode()}
        for name in FIGURES
    },
    "mistakes": [example(name=f"faces/{i}.png") for i in range(30)],
    "mistakes_total": 1194,
    "pairs": [ConfusedPair("sad", "angry", 203, 0.26958, [example("sad", "angry")])],
    "explained": [ClassExamples("angry", 1201, [example("angry", "angry")], [example()])],
    "explained_by": "Grad-CAM",
    "files": {"predictions.csv": "every prediction"},
}
MINIMAL = {key: FULL[key] for key in evaluation_page.REQUIRED}


class Reader(HTMLParser):
    """Collects text, attributes and tags, and checks that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.pieces).replace("\u202f", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(FULL), **values}


def test_all_numbers_are_shown() -> None:
    text = Reader(evaluation_page.render(FULL)).text
    for wanted in (
        *("65.43 %", "63.87 – 66.99 %", "0.6123", "0.5901 – 0.6348", "3,456", "1,780,075", "flip"),
        *("0.9136", "0.9877", "0.0432", "0.4568", "1.2346", "0.9555", "0.0136", "0.4445"),
        *("50.0 %", "81.2 %", "0.6061", "abcdef0123456789", "FER2013 PublicTest"),
        *("4, 2 configurations", "a line of protocol", "opened before"),
        *("64.11 %", "62.00 – 66.00 %", "3,333", "123 copies removed"),
        *("1,024", "65.0 %", "61.1 %", "52.2 %", "43.3 %", "34.4 %", "25.5 %"),
        *("246 episodes", "over 82 clips or persons", "77.2 %", "70.1 – 80.2 %", "78.3 %"),
        *("valence", "learned", "0.910", "0.870", "0.100", "derived"),
        *("anger", "17", "contempt left out 9", "87.7", "all agree", "812", "93.1", "94.2", "61.3"),
        *("majority 3,210 70.17 % 0.6543", "runs/best.ckpt", "0f" * 32, "1234abcd", "11"),
        *("Some Processor", "2.9.1", "senet", "python -m emotion_lab.evaluate ckpt=runs split=val"),
        *("30 of 1,194", "203 images 27.0 % of sad", "Grad-CAM", "91.2 %", "6.5 %", "1.1 %"),
    ):
        assert wanted in text, wanted
    for name, line in FULL["per_class"].items():
        numbers = [line[key] for key in ("precision", "recall", "f1")]
        cells = [name, f"{line['support']:,}", *(f"{value:.3f}" for value in numbers)]
        low, high = line["f1_ci95"]
        cells += [f"{low:.3f} – {high:.3f}", f"{line['auc']:.3f}"]
        assert " ".join([*cells, f"{line['average_precision']:.3f}"]) in text
    for name, counts in zip(NAMES, FULL["confusion"], strict=True):
        assert " ".join([name, *(f"{value:,}" for value in counts)]) in text


def test_no_external_resources() -> None:
    html = evaluation_page.render(FULL)
    reader = Reader(html)
    for tag, attrs in reader.tags:
        for key in ("src", "srcset", "href", "action", "data", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith(("data:image/", "#", "predictions.csv")), value
        assert not any(key.startswith("on") for key in attrs), tag
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert not re.search(r"url\(", html)
    policies = [m for m in reader.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policies[0]["content"])


def test_figures_follow_the_color_scheme() -> None:
    reader = Reader(evaluation_page.render(FULL))
    shown = [attrs for attrs in reader.all("img") if attrs.get("class") != "face"]
    for name, light, dark in zip(FIGURES, shown, reader.all("source"), strict=True):
        assert light["src"] == png(b"light " + name.encode())
        assert dark["srcset"] == png(b"dark " + name.encode())
        assert "prefers-color-scheme: dark" in str(dark["media"])
    assert all(attrs.get("alt") for attrs in reader.all("img"))
    style = Path(evaluation_page.__file__).with_name("templates") / "report.css"
    css = style.read_text(encoding="utf-8")
    for look in (LIGHT, DARK):
        assert f"--card: {look.paper}" in css and f"--accent: {look.accent}" in css


def test_sections_and_contents() -> None:
    reader = Reader(evaluation_page.render(FULL))
    assert [attrs["id"] for attrs in reader.all("section")] == list(evaluation_page.SECTIONS)
    assert [attrs["href"] for attrs in reader.all("a") if str(attrs["href"])[0] == "#"] == [
        f"#{name}" for name in evaluation_page.SECTIONS
    ]
    levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_missing_sections_are_left_out() -> None:
    for content in (MINIMAL, {**dict.fromkeys(FULL), **MINIMAL}):
        reader = Reader(evaluation_page.render(content))
        wanted = ["classes", "confusion", "reproduction"]
        assert [attrs["id"] for attrs in reader.all("section")] == wanted
        assert reader.all("img") == [] and "None" not in reader.text
        assert "65.43 %" in reader.text and "1,303" in reader.text
        assert "bootstrap" not in reader.text


@pytest.mark.parametrize("key", sorted(set(FULL) - set(evaluation_page.REQUIRED)))
def test_optional_keys(key: str) -> None:
    without = {name: value for name, value in FULL.items() if name != key}
    for content in (without, {**FULL, key: None}):
        text = Reader(evaluation_page.render(content)).text
        assert "None" not in text and "nan" not in text.split()


@pytest.mark.parametrize("key", evaluation_page.REQUIRED)
def test_required_keys(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        evaluation_page.render({name: value for name, value in FULL.items() if name != key})


def test_class_without_samples() -> None:
    content = changed(votes=None)
    nothing = dict.fromkeys(("precision", "recall", "f1", "f1_ci95", "auc", "average_precision"))
    content["per_class"]["sad"] = {**nothing, "support": 0}
    content["confusion"][2] = [0, 0, 0]
    content["explained"] = [ClassExamples("sad", 0, [], [])]
    text = Reader(evaluation_page.render(content)).text
    assert "sad 0 no samples" in text, "the table of classes"
    assert "sad no samples" in text, "the confusion counts"
    assert text.count("no samples") == 5
    assert "None" not in text and "nan" not in text.split()


def test_nan_and_none_are_dashes() -> None:
    content = changed(nll=float("nan"), macro_f1=None, brier=float("inf"))
    text = Reader(evaluation_page.render(content)).text
    assert "nan" not in text.split() and "inf" not in text.split()
    assert "NLL – 0.9555" in text and "Brier score – 0.4445" in text


BAD = "<script>alert('x')</script>&amp;\"'><img src=https://evil.example/x onerror=y>{{ 7*7 }}"


def test_names_are_escaped() -> None:
    other = "心 \u202eabc"
    bad = example(BAD, other, name=BAD)
    content = changed(
        split=BAD,
        model=BAD,
        classes=[BAD, other, "sad"],
        per_class=dict(zip([BAD, other, "sad"], FULL["per_class"].values(), strict=True)),
        mistakes=[bad],
        pairs=[ConfusedPair(BAD, other, 3, 0.1, [bad])],
        explained=[ClassExamples(BAD, 9, [bad], [bad])],
        mapping=[{"from": BAD, "to": BAD, "n": 1}],
        by_labels={BAD: {"n": 1, "accuracy": 1.0, "macro_f1": 1.0}},
        robustness={"n": 1, "clean": 1.0, BAD: [1.0] * 5},
        hardware={BAD: BAD},
        versions={BAD: BAD},
        command=BAD,
        checkpoint=BAD,
        commit=BAD,
        files={BAD: BAD},
    )
    content["protocol"].update(chosen_on=BAD, shown=BAD, known_as=BAD, lines=[BAD], warnings=[BAD])
    html = evaluation_page.render(content)
    reader = Reader(html)
    tags = {tag for tag, _ in reader.tags}
    assert "script" not in tags and "49" not in reader.text.split()
    sources = [attrs["src"] for attrs in reader.all("img")]
    assert all(str(source).startswith("data:image/") for source in sources)
    assert not any("onerror" in attrs for _, attrs in reader.tags)
    assert reader.text.count(" ".join(BAD.split())) > 20
    assert other in html
    assert all("evil" not in str(a["href"]) or "%3A" in str(a["href"]) for a in reader.all("a"))


def test_write_page(tmp_path: Path) -> None:
    path = evaluation_page.write_page(tmp_path, FULL)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    assert text == evaluation_page.render(FULL) and text.startswith("<!DOCTYPE html>")
    with pytest.raises(UserError, match="exists already"):
        evaluation_page.write_page(tmp_path, MINIMAL)
    assert path.read_text(encoding="utf-8") == text
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_path_is_not_unicode(tmp_path: Path) -> None:
    bad = example(name="faces/\udcff.png")
    text = evaluation_page.write_page(tmp_path, changed(mistakes=[bad])).read_text(encoding="utf-8")
    assert "faces/\\udcff.png" in text


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        evaluation_page.write_page(tmp_path / "gone", MINIMAL)


def test_list_of_mistakes() -> None:
    html = evaluation_page.render(FULL)
    assert all(f'title="faces/{i}.png"' in html for i in range(30))
    text = Reader(evaluation_page.render(changed(mistakes=[], pairs=[]))).text
    assert "There are no wrong predictions." in text and "No classes are confused." in text


def test_only_the_base_template_has_a_head() -> None:
    templates = Path(emotion_lab.__file__).parent.glob("**/templates/*.html")
    pages = {file.stem: file.read_text(encoding="utf-8") for file in templates}
    assert [name for name, text in pages.items() if "<head>" in text] == ["base"]
    assert {"report", "compare", "leaderboard", "certificate", "audit"} <= {*pages}
