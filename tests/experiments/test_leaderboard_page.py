"""Leaderboard page, figures and command: completeness, escaping, no network, no script needed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from emotion_lab import compare as entry
from emotion_lab.core.errors import UserError
from emotion_lab.experiments.leaderboard import figures, grouping, latency, report
from emotion_lab.experiments.leaderboard.table import build_leaderboard
from emotion_lab.reports.style import DARK, LIGHT, render
from tests.conftest import composed, make_checkpoint
from tests.experiments.test_leaderboard import CLASSES, three, write_run
from tests.reports.test_evaluation_page import Reader

PICTURES = {"curves": {"light": b"light", "dark": b"dark"}}


class Page(Reader):
    """Parses the page and separates its script from its text."""

    def __init__(self, html: str) -> None:
        self.script = ""
        super().__init__(html)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.script += data
        else:
            super().handle_data(data)


def page_of(runs_dir: Path, out: Path, drawn: dict[str, Any] = PICTURES) -> tuple[Page, str]:
    result = build_leaderboard(grouping.read([runs_dir], None), runs_dir / "none")
    html = report.write_page(out, result, drawn).read_text(encoding="utf-8")
    return Page(html), html


def test_page_has_all_numbers(tmp_path: Path) -> None:
    runs_dir = three(tmp_path)
    result = build_leaderboard(grouping.read([runs_dir], None), runs_dir / "none")
    reader, _ = page_of(runs_dir, tmp_path)
    for row in result["groups"]:
        for score in ("accuracy", "macro_f1"):
            over = row[score]
            assert f"{over['mean']:.4f} ± {over['std']:.4f} (3)" in reader.text
        assert f"{row['name']} seeds 1, 2, 3" in reader.text
        comparison = row["against_best"]
        if comparison:
            low, high = comparison["ci95"]
            cells = f"{comparison['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
            assert f"{cells} {report.format_p(comparison['p_holm'])} uncorrected" in reader.text
            assert f"{comparison['verdict']} over 3 seeds" in reader.text
    for wanted in ("n = 240", "3 configurations, 9 runs", "seeds 1, 2, 3", "optim.lr", "1,000",
                   "is optimistic", "Holm", "2000 paired", str(runs_dir / "9")):  # fmt: skip
        assert wanted in reader.text, wanted
    heads = [a for a in reader.all("th") if "aria-sort" in a]
    assert [a["aria-sort"] for a in heads] == ["ascending"], "it comes sorted by rank"
    first = [a["data-v"] for a in reader.all("td") if "data-v" in a][::9]
    assert first == ["1", "2", "3"]


def test_content_policy_allows_only_the_own_script(tmp_path: Path) -> None:
    reader, html = page_of(three(tmp_path), tmp_path)
    (policy,) = [m["content"] for m in reader.all("meta") if "Content" in m.get("http-equiv", "")]
    digest = base64.b64encode(hashlib.sha256(reader.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert len(reader.all("script")) == 1 and reader.all("script") == [{}]
    assert not any(key.startswith("on") for _, attrs in reader.tags for key in attrs)
    for _, attrs in reader.tags:
        for key in ("src", "srcset", "href", "action"):
            assert (attrs.get(key) or "data:image/").startswith("data:image/")
    assert "http:" not in html and "https:" not in html and "url(" not in html
    assert not re.search(r"fetch|XMLHttp|innerHTML|eval|import", reader.script)


def test_page_without_script_is_a_complete_table(tmp_path: Path) -> None:
    """Controls that need the script are hidden until it runs."""
    reader, _ = page_of(three(tmp_path), tmp_path)
    (tools,) = [attrs for _, attrs in reader.tags if attrs.get("id") == "tools"]
    assert "hidden" in tools and not reader.all("button")
    assert not [attrs for attrs in reader.all("tr") if "hidden" in attrs]
    for name in re.findall(r'getElementById\("(\w+)"\)', reader.script):
        assert [attrs for _, attrs in reader.tags if attrs.get("id") == name], name


BAD = "</td><script>alert('x')</script>&amp;\"'><img src=https://evil.example/x onerror=y>{{ 7*7 }}"


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    write_run(
        runs_dir / "<b>a", 0.5, loss__name=BAD, model__name="\u202eabc\x1b[0m", optim__x=[BAD]
    )
    write_run(runs_dir / "b", 0.7, loss__name="ce", **{"optim__<i>": BAD})
    for run in runs_dir.iterdir():
        for name in ("metrics.json", "predictions_val.csv"):
            text = (run / name).read_text().replace('"happy"', '"<u>"').replace("happy", "<u>")
            (run / name).write_text(text)
    reader, html = page_of(runs_dir, tmp_path)
    assert len(reader.all("script")) == 1 and not {"b", "i", "u"} & {t for t, _ in reader.tags}
    assert not [a for a in reader.all("img") if not str(a["src"]).startswith("data:")]
    assert "49" not in reader.text.split() and "<u>" in reader.text
    assert "\u202e" not in html and "\x1b" not in html and "\\u202eabc\\x1b[0m" in html
    for row in build_leaderboard(grouping.read([runs_dir], None), runs_dir / "none")["groups"]:
        (cell,) = [a for a in reader.all("th") if a.get("data-v") == row["name"]]
        assert cell["scope"] == "row"


def test_single_configuration(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    for seed in (1, 2):
        write_run(runs_dir / str(seed), 0.5, seed)
    reader, _ = page_of(runs_dir, tmp_path)
    assert "1 configuration, 2 runs" in reader.text and "Holm" not in reader.text
    assert "None" not in reader.text


def test_class_without_samples(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    for i, loss in enumerate(("ce", "focal")):
        run = write_run(runs_dir / str(i), 1.0, loss__name=loss)
        text = (run / "predictions_val.csv").read_text()
        header = text.replace("p_neutral", "p_neutral,p_fear", 1).splitlines()
        lines = [header[0], *(f"{line},0.0" for line in header[1:])]
        (run / "predictions_val.csv").write_text("\n".join(lines) + "\n")
    reader, _ = page_of(runs_dir, tmp_path)
    assert "No samples: fear." in reader.text and "fear – – – –" in reader.text


@pytest.mark.usefixtures("rendered_figures")
def test_figures_with_fifty_configurations(tmp_path: Path) -> None:
    """Only the first ones have a label; unusual values do not break a figure."""
    runs_dir = tmp_path / "runs"
    values: list[Any] = [None, 0.1, "$x$", "_a", [1, 2], True, 1e-5, "心"]
    for i in range(50):
        write_run(runs_dir / str(i), 0.5 + i / 120, parameters=1000 * (i + 1) ** 2,
                  optim__lr=10.0 ** -(i % 5), loss__gamma=values[i % 8], optim__n=i)  # fmt: skip
    configurations = grouping.read([runs_dir], None)
    result = build_leaderboard(configurations, runs_dir / "none")
    rows, by = result["groups"], result["by"]
    kept, notes = report.read_histories(configurations, result)
    assert notes == [] and len(rows) == 50
    drawn = figures.curves(rows, kept, by, LIGHT)
    for axis in drawn.axes:
        lines = [line for line in axis.lines if len(line.get_xdata()) > 1]
        assert len(lines) == 50
        named = [line for line in lines if not line.get_label().startswith("_")]
        assert len(named) == figures.MAX_COLOURED
        assert len({line.get_color() for line in named} | {LIGHT.quiet}) == figures.MAX_COLOURED + 1
    (legend,) = drawn.legends
    assert [text.get_text()[0] for text in legend.get_texts()] == list("12345")
    keys = result["keys"]
    axis = figures.parallel(rows, keys, by, DARK).axes[0]
    paths = [line for line in axis.lines if len(line.get_xdata()) == len(keys) + 1]
    assert len(paths) == 50
    best = [line for line in paths if line.get_color() == DARK.second]
    assert len(best) == 1 and best[0].get_xdata()[-1] == 1
    drawn = figures.scatter(rows, "parameters", by, DARK)
    points = {
        (float(box[0].get_xdata()[0]), float(box[0].get_ydata()[0]))
        for box in drawn.axes[0].containers
    }
    assert points == {(row["parameters"], row[by]["mean"]) for row in rows}
    assert render(lambda style: figures.curves(rows, kept, by, style), DARK)[:4] == b"\x89PNG"
    assert render(lambda style: figures.parallel(rows, keys, by, style), DARK)[:4] == b"\x89PNG"


def test_positions_on_an_axis() -> None:
    def positions(*values: Any) -> list[float]:
        return [round(float(x), 3) for x in figures._positions(values)[0]]

    assert positions(0.1, 0.01, 0.001) == [1, 0.5, 0], "as logarithms where the span is wide"
    assert positions(1, 2, 5) == [0, 0.25, 1]
    assert positions(0, 50, 100) == [0, 0.5, 1], "0 has no logarithm"
    assert positions("b", "a", "b") == [1, 0, 1]
    assert positions(True, 1, "1") == [0.5, 0, 1]
    assert positions("x", "x") == [0.5, 0.5]
    assert len(figures._positions([i * 1.0 for i in range(50)])[1]) <= 8


def test_figure_without_data_is_left_out(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    for seed in (1, 2):
        run = write_run(runs_dir / str(seed), 0.5, seed)
        (run / "history.csv").unlink()
        metrics = json.loads((run / "metrics.json").read_text())
        del metrics["parameters"]
        (run / "metrics.json").write_text(json.dumps(metrics))
    configurations = grouping.read([runs_dir], None)
    result = build_leaderboard(configurations, runs_dir / "none")
    assert report.draw_figures(configurations, result, tmp_path) == {}
    assert any("not in the learning curves" in note for note in result["notes"])
    assert result["groups"][0]["parameters"] is None
    assert "– 0" in page_of(runs_dir, tmp_path, {})[0].text


def test_each_distinct_network_is_measured_once(tmp_path: Path, monkeypatch: Any) -> None:
    runs_dir = tmp_path / "runs"
    for i, (widths, dropout) in enumerate((([8, 8], 0.2), ([8, 8], 0.5), ([16, 8], 0.2))):
        run = write_run(
            runs_dir / str(i), 0.5 + i / 10, model__widths=widths, model__dropout=dropout
        )
        (run / "checkpoints").mkdir()
        (run / "checkpoints" / "best.ckpt").write_bytes(b"x")
    measured = []

    def measure_checkpoint(path: Path) -> dict[str, float]:
        measured.append(path.parents[1].name)
        return {"median_ms": 1.5 * len(measured), "p25_ms": 1.0, "p75_ms": 9.0, "forwards": 100}

    monkeypatch.setattr(latency, "measure_checkpoint", measure_checkpoint)
    configurations = grouping.read([runs_dir], None)
    result = build_leaderboard(configurations, runs_dir / "none", True)
    assert measured == ["0", "2"]
    by_dropout = {str(row["values"]): row["latency"]["median_ms"] for row in result["groups"]}
    assert sorted(by_dropout.values()) == [1.5, 1.5, 3.0]
    assert result["latency"]["networks"] == 2 and result["latency"]["forwards"] == 100
    drawn = report.draw_figures(configurations, result, tmp_path)
    assert set(drawn) == {"curves", "parallel", "parameters", "latency"}
    report.write_page(tmp_path, result, drawn)
    text = Page((tmp_path / "leaderboard.html").read_text()).text
    assert (
        "3.00 ms 1.00 – 9.00" in text and "median of 100 forwards after 10 warm-up forwards" in text
    )
    assert "ms" in str(report.lines(result)[2])


def test_latency_of_a_real_network(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(latency, "FORWARDS", 7)
    cfg = composed("data=synthetic", "data.n=40", "model.widths=[8,8,8,8]", "model.stem=8")
    path = make_checkpoint(cfg, tmp_path / "best.ckpt", CLASSES)
    result = latency.measure_checkpoint(path)
    assert result["forwards"] == 7
    assert 0 < result["p25_ms"] <= result["median_ms"] <= result["p75_ms"] < 1000
    # The time limit ends the measurement after a minimum number of forwards.
    monkeypatch.setattr(latency, "MAX_SECONDS", 0)
    assert latency.measure_checkpoint(path)["forwards"] == latency.MIN_FORWARDS == 5


def test_latency_needs_checkpoints(tmp_path: Path) -> None:
    configurations = grouping.read([three(tmp_path)], None)
    with pytest.raises(UserError, match=r"latency=true needs the checkpoints, .*best.ckpt"):
        latency.checkpoints(configurations.groups)


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    entry.main()


def test_command_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    runs_dir = three(tmp_path)
    folders = [str(runs_dir / str(i)) for i in (4, 5, 6)]
    call(monkeypatch, tmp_path, f"runs=[{','.join(folders)},{runs_dir}]", "sort_by=accuracy")
    lines = capsys.readouterr().out.splitlines()
    folder = Path(lines[-1])
    assert folder.parents[1] == tmp_path / "outputs" / "compare"
    content = json.loads((folder / "leaderboard.json").read_text())
    assert content["by"] == "accuracy" and content["total_runs"] == 9, "each run once"
    assert lines[-2] == report.sentence(content)
    assert (folder / "leaderboard.csv").read_text() == report.csv_text(content)
    page = (folder / "leaderboard.html").read_text()
    assert page.count("data:image/png;base64,iVBOR") == 6 and "prefers-color-scheme: dark" in page
    for name in ("curves", "hyperparameters", "parameters"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path, f"runs={runs_dir}", f"hydra.run.dir={folder}")
    assert "already holds leaderboard.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run_a is missing"),
        (("run_a={a}",), "run_b is missing"),
        (("run_a={a}", "run_b=nowhere"), "no such run: nowhere"),
        (("run_a={a}", "run_b={a}"), "given twice"),
        (("run_a={a}", "run_b={b}", "split=test"), "no predictions of test"),
        (("run_a={a}", "run_b={b}", "split=all"), "expected one of train, val, test"),
        (("run_a={a}", "run_b={b}", "splt=val"), "Unknown option 'splt'"),
        (("run_a=[{a},{a}]", "run_b={b}"), "given twice"),
        (("run_a={a}", "run_b={b}", "latency=true"), "applies to a leaderboard only"),
        (("runs=nowhere",), "no such run directory: nowhere"),
        (("runs={runs_dir}", "run_a={a}"), "runs= ranks many runs"),
        (("runs={runs_dir}", "run_b={b}"), "runs= ranks many runs"),
        (("runs={a}",), "a leaderboard needs two or more"),
        (("runs=[{a},{a}]",), "a leaderboard needs two or more"),
        (("runs={runs_dir}", "split=test"), "ranks on val, not on test"),
        (("runs={runs_dir}", "sort_by=loss"), "expected one of accuracy, macro_f1"),
        (("runs={runs_dir}", "latency=true"), "latency=true needs the checkpoints"),
        (("runs={runs_dir}", "latency=1"), "expected true or false"),
        (("runs=[{runs_dir},{other}]",), "not scored on the same val split"),
    ],
)
def test_errors_are_one_line_and_create_no_folder(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    runs_dir, here = tmp_path / "runs", tmp_path / "here"
    paths = {
        "runs_dir": runs_dir,
        "a": write_run(runs_dir / "1", 0.5, 1),
        "b": write_run(runs_dir / "2", 0.5, 2),
        "other": write_run(tmp_path / "other", 0.5, val_hash="f" * 32),
    }
    here.mkdir()
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, here, *(text.format(**paths) for text in arguments))
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not any(here.iterdir()), "a run directory was created"
