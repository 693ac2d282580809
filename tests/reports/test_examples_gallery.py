"""Example images and files of wrong predictions, compared with numpy and scikit-learn."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.reports import examples

NAMES = ["angry", "happy", "sad", "neutral"]


def make_result(
    n: int = 120,
    names: list[str] | None = None,
    never: int | None = None,
    paths: list[str] | None = None,
    size: int = 48,
) -> EvaluationResult:
    """Return an evaluation result of random images with an accuracy of about one half.

    ``never`` is a class without samples. The predictions are in another order than the images, as
    when some could not be read.
    """
    names = names or NAMES
    generator = np.random.default_rng(3)
    labels = generator.integers(0, len(names), n)
    if never is not None:
        labels[labels == never] = (never + 1) % len(names)
    images = generator.integers(0, 256, (n, size, size, 1), dtype=np.uint8)
    paths = paths or [f"faces/{i}.png" for i in range(n)]
    part = Split(ArrayStore(images), np.arange(n), labels, paths)
    positions = generator.permutation(n)[: n - 5]
    logits = generator.normal(size=(len(positions), len(names))).astype(np.float32)
    logits[np.arange(len(positions)), labels[positions]] += 1
    predictions = Predictions(
        torch.from_numpy(logits), torch.from_numpy(labels[positions]), torch.from_numpy(positions)
    )
    net: Any = None
    return EvaluationResult(
        net, {"classes": names}, "val", part, predictions, {}, Resize(40, 3), "cpu"
    )


def decoded(uri: str) -> Image.Image:
    kind, data = uri.split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_small_images_are_enlarged_by_nearest_neighbour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 40, 1), dtype=np.uint8)
    shown = np.asarray(decoded(examples.data_uri(image)))
    assert np.array_equal(shown, image[:, :, 0].repeat(2, 0).repeat(2, 1))
    tiny = np.array([[[1, 2, 3]]], dtype=np.uint8)
    assert np.asarray(decoded(examples.data_uri(tiny))).shape == (96, 96, 3)


def test_large_images_are_small_files() -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    uri = examples.data_uri(image)
    assert max(decoded(uri).size) == 144
    assert len(uri) < 20_000


def test_worst_mistakes_match_numpy() -> None:
    result = make_result()
    shown = examples.worst_mistakes(result, 30)
    p, labels = result.probabilities, result.labels
    wrong = [i for i in range(len(labels)) if p[i].argmax() != labels[i]]
    wanted = sorted(wrong, key=lambda i: (-p[i].max(), i))[:30]
    assert [each.i for each in shown] == wanted and len(wanted) == 30
    for each in shown:
        row = p[each.i]
        order = np.lexsort((np.arange(4), -row))[:3]
        assert [name for name, _ in each.top3] == [NAMES[k] for k in order]
        assert [value for _, value in each.top3] == pytest.approx(row[order])
        assert each.true == NAMES[labels[each.i]] and each.predicted == NAMES[row.argmax()]
        assert each.confidence == pytest.approx(row.max())
        assert each.p_true == pytest.approx(row[labels[each.i]])
        assert not each.right
        position = int(result.predictions.positions[each.i])
        assert each.name == f"faces/{position}.png"
        image = result.part.store[position][:, :, 0]
        assert np.array_equal(np.asarray(decoded(each.image))[::2, ::2], image)


def test_fewer_mistakes_than_the_limit() -> None:
    result = make_result(30)
    count = int((result.predicted != result.labels).sum())
    assert len(examples.worst_mistakes(result)) == count < 50


def test_pairs_match_the_confusion_matrix() -> None:
    result = make_result(never=2)
    pairs = examples.confused_pairs(result, limit=5, examples=3)
    matrix = metrics.confusion_matrix(result.labels, result.predicted, labels=range(4))
    errors = matrix - np.diag(np.diag(matrix))
    assert [pair.count for pair in pairs] == sorted(errors.ravel(), reverse=True)[:5]
    for pair in pairs:
        t, q = NAMES.index(pair.true), NAMES.index(pair.predicted)
        assert pair.count == matrix[t, q] and pair.fraction == pytest.approx(
            matrix[t, q] / matrix[t].sum()
        )
        assert len(pair.examples) == min(3, pair.count)
        assert {(e.true, e.predicted) for e in pair.examples} == {(pair.true, pair.predicted)}
        confidence = [e.confidence for e in pair.examples]
        assert confidence == sorted(confidence, reverse=True)
    every = examples.confused_pairs(result, limit=100)
    assert len(every) == (errors > 0).sum() and all(pair.true != "sad" for pair in every)


def test_class_examples() -> None:
    result = make_result(never=2)
    rows = examples.class_examples(result, each=3)
    assert [row.name for row in rows] == NAMES
    assert rows[2].support == 0 and rows[2].right == [] and rows[2].wrong == []
    for row in rows:
        assert row.support == int((result.labels == NAMES.index(row.name)).sum())
        assert all(e.right and e.true == row.name for e in row.right)
        assert all(not e.right and e.true == row.name for e in row.wrong)
        for e in row.right + row.wrong:
            # As the network saw it: 40 px, three channels.
            assert np.array_equal(np.asarray(decoded(e.image))[::2, ::2], result.image(e.i))
    assert all(len(row.right) == 3 for row in rows if row.support)
    again = examples.class_examples(result, each=3)
    assert again == rows
    other = examples.class_examples(result, each=3, seed=1)
    assert [e.i for row in other for e in row.right] != [e.i for row in rows for e in row.right]


def test_overlays_are_added_to_their_image() -> None:
    rows = examples.class_examples(make_result(), each=2)
    first = rows[0].right[0]
    red = np.zeros((40, 40, 3), np.uint8)
    red[:, :, 0] = 255
    shown = examples.with_overlays(rows, {first.i: red})
    overlay = shown[0].right[0].overlay
    assert overlay is not None and decoded(overlay).getpixel((5, 5)) == (255, 0, 0)
    others = [e for row in shown for e in row.right + row.wrong if e.i != first.i]
    assert others and all(e.overlay is None for e in others)


def read_index(folder: Path) -> list[dict[str, str]]:
    file_name = folder / "index.csv"
    with file_name.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_index_lists_all_files(tmp_path: Path) -> None:
    result = make_result()
    folder = tmp_path / "run" / "mistakes"
    wrong = np.flatnonzero(result.predicted != result.labels)
    assert examples.write_mistakes(result, folder) == len(wrong)
    rows = read_index(folder)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert {row["file"] for row in rows} == files and len(files) == len(rows) == len(wrong)
    confidence = [float(row["confidence"]) for row in rows]
    assert confidence == sorted(confidence, reverse=True)
    by_path = {result.name(i): i for i in range(len(result.labels))}
    for row in rows:
        i = by_path[row["path"]]
        p = result.probabilities[i]
        assert row["true"] == NAMES[result.labels[i]] and row["predicted"] == NAMES[p.argmax()]
        assert row["file"].startswith(f"{row['true']}_as_{row['predicted']}/")
        assert float(row["confidence"]) == pytest.approx(p.max(), abs=1e-7)
        assert float(row["p_true"]) == pytest.approx(p[result.labels[i]], abs=1e-7)
        image = np.asarray(Image.open(folder / row["file"]))
        assert np.array_equal(image, result.raw(i)[:, :, 0])


def test_limit_keeps_the_most_confident(tmp_path: Path) -> None:
    result = make_result()
    assert examples.write_mistakes(result, tmp_path / "m", 4) == 4
    worst = [example.name for example in examples.worst_mistakes(result, 4)]
    assert [row["path"] for row in read_index(tmp_path / "m")] == worst


HOSTILE = ["../../up", "a/b", "a:b", 'CON"', "A:B", "", "心 ", "x" * 300]


def test_names_invalid_on_file_systems(tmp_path: Path) -> None:
    names = [f'C:\\x\\..\\<{i}>|?*"\n.png' if i % 2 else f"\udcff{'y' * 300}" for i in range(150)]
    result = make_result(150, HOSTILE, paths=names)
    folder = tmp_path / "mistakes"
    count = examples.write_mistakes(result, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mistakes"]
    rows = read_index(folder)
    assert len(rows) == count > 20
    assert {row["path"] for row in rows} <= set(names)
    kinds: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        assert (folder / row["file"]).is_file()
        parts = row["file"].split("/")
        assert len(parts) == 2
        for part in parts:
            assert not set(part) & set('\\/:*?"<>|\n\r\t') and len(part.encode()) <= 255
            assert not part.startswith(".") and not part.endswith((" ", "."))
        kinds.setdefault(parts[0].casefold(), set()).add((row["true"], row["predicted"]))
    # Also where case is ignored, a folder is one pair of classes.
    assert all(len(pairs) == 1 for pairs in kinds.values())
    assert len({row["file"].casefold() for row in rows}) == count


def test_existing_folder_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        examples.write_mistakes(make_result(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_no_mistakes(tmp_path: Path) -> None:
    result = make_result()
    result.predictions.logits[:] = -5
    result.predictions.logits[torch.arange(len(result.labels)), result.predictions.labels] = 5
    assert examples.worst_mistakes(result) == [] and examples.confused_pairs(result) == []
    assert examples.write_mistakes(result, tmp_path / "m") == 0
    assert read_index(tmp_path / "m") == []
