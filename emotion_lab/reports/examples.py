"""Images worth looking at: the worst mistakes, the pairs most often confused, samples by class."""

from __future__ import annotations

import base64
import csv
import io
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.result import EvaluationResult

#: Pixels of a thumbnail's longer side, roughly: small images are enlarged by a whole factor.
_SIDE = 96
#: Larger ones are reduced to this.
_LARGE = 144
#: A PNG beyond this many bytes goes into the page as JPEG.
_HEAVY = 12_000


@dataclass(frozen=True)
class Example:
    """One image and what was said of it.

    Attributes:
        i: The prediction's index in :class:`EvaluationResult`.
        name: Path or ``file:row``.
        true: The true class.
        predicted: The class of the largest probability.
        confidence: Its probability, 0 to 1, at temperature 1.
        p_true: The probability of the true class.
        top3: The three likeliest classes with their probabilities, likeliest first.
        image: The thumbnail, a data URI.
        overlay: The same image under its explanation map, a data URI, where there is one.
    """

    i: int
    name: str
    true: str
    predicted: str
    confidence: float
    p_true: float
    top3: list[tuple[str, float]]
    image: str
    overlay: str | None = None

    @property
    def right(self) -> bool:
        """Whether the prediction is the true class."""
        return self.true == self.predicted


@dataclass(frozen=True)
class ConfusedPair:
    """A true class and what it is taken for.

    Attributes:
        true: The true class.
        predicted: The class it was taken for.
        count: Images of ``true`` predicted as ``predicted``.
        share: ``count`` among the images of ``true``, 0 to 1.
        examples: Some of them, most confident first.
    """

    true: str
    predicted: str
    count: int
    share: float
    examples: list[Example]


@dataclass(frozen=True)
class ClassExamples:
    """Samples of one true class, for the explanation maps.

    Attributes:
        name: The class.
        support: Images of the class in the split; 0 means there is nothing to show.
        right: Images recognised.
        wrong: Images taken for something else.
    """

    name: str
    support: int
    right: list[Example]
    wrong: list[Example]


def data_uri(image: np.ndarray) -> str:
    """Return an image as a data URI, at a size to look at.

    Small images are enlarged by a whole factor with nearest neighbour, so that their pixels can be
    seen; large ones are reduced. PNG, or JPEG where a PNG would be heavy.

    Args:
        image: uint8 (H, W, 1) grey or (H, W, 3) RGB.
    """
    picture = _picture(image)
    longer = max(picture.size)
    factor = round(_SIDE / longer)
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    elif longer > _LARGE:
        picture.thumbnail((_LARGE, _LARGE), Image.Resampling.BOX)
    out, kind = io.BytesIO(), "png"
    picture.save(out, "PNG", optimize=True)
    if out.tell() > _HEAVY:
        out, kind = io.BytesIO(), "jpeg"
        picture.save(out, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def example(judged: EvaluationResult, i: int, seen: bool = False) -> Example:
    """Describe prediction ``i``.

    Args:
        judged: The predictions.
        i: Its index.
        seen: Show the image as the network saw it, instead of as it was read.
    """
    classes, row = judged.classes, judged.probabilities[i]
    order = np.argsort(-judged.logits[i], kind="stable")[:3]
    true = int(judged.labels[i])
    return Example(
        i=int(i),
        name=judged.name(i),
        true=classes[true],
        predicted=classes[order[0]],
        confidence=float(row[order[0]]),
        p_true=float(row[true]),
        top3=[(classes[k], float(row[k])) for k in order],
        image=data_uri(judged.image(i) if seen else judged.raw(i)),
    )


def _wrong(judged: EvaluationResult) -> np.ndarray:
    """Return the misclassified predictions, int64 (M,), most confident first, then by index."""
    wrong = np.flatnonzero(judged.predicted != judged.labels)
    confidence = judged.probabilities[wrong].max(1)
    return wrong[np.argsort(-confidence, kind="stable")]


def worst_mistakes(judged: EvaluationResult, limit: int = 50) -> list[Example]:
    """Return the mistakes made with the highest confidence, worst first."""
    return [example(judged, i) for i in _wrong(judged)[:limit]]


def confused_pairs(
    judged: EvaluationResult, limit: int = 10, examples: int = 8
) -> list[ConfusedPair]:
    """Return the (true, predicted) pairs with the most images, most first, then in class order.

    Args:
        judged: The predictions.
        limit: Pairs at most; pairs that never happen are not listed.
        examples: Images at most for a pair.
    """
    classes, size = judged.classes, len(judged.classes)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (judged.labels, judged.predicted), 1)
    support = counts.sum(1)
    np.fill_diagonal(counts, 0)
    wrong = _wrong(judged)
    pairs = []
    for flat in np.argsort(-counts, axis=None, kind="stable")[:limit]:
        true, predicted = divmod(int(flat), size)
        count = int(counts[true, predicted])
        if not count:
            break
        those = (judged.labels[wrong] == true) & (judged.predicted[wrong] == predicted)
        shown = [example(judged, i) for i in wrong[those][:examples]]
        pairs.append(
            ConfusedPair(
                classes[true], classes[predicted], count, count / int(support[true]), shown
            )
        )
    return pairs


def class_examples(judged: EvaluationResult, each: int = 4, seed: int = 0) -> list[ClassExamples]:
    """Return right and wrong samples of every true class, for the explanation maps.

    They are drawn at random, not the most telling ones: maps of chosen images prove little. The
    images are as the network saw them, so that a map fits.

    Args:
        judged: The predictions.
        each: Right ones, and wrong ones, for a class.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    right = judged.predicted == judged.labels
    rows = []
    for index, name in enumerate(judged.classes):
        mine = judged.labels == index
        groups = [np.flatnonzero(mine & right), np.flatnonzero(mine & ~right)]
        drawn = [generator.permutation(group)[:each] for group in groups]
        shown = [[example(judged, i, seen=True) for i in group] for group in drawn]
        rows.append(ClassExamples(name, int(mine.sum()), shown[0], shown[1]))
    return rows


def with_overlays(
    rows: list[ClassExamples], overlays: Mapping[int, np.ndarray]
) -> list[ClassExamples]:
    """Return the rows with the explanation maps that there are.

    Args:
        rows: From :func:`class_examples`.
        overlays: Index of a prediction -> its image under the map, uint8 (H, W, 3).
    """

    def add(examples: list[Example]) -> list[Example]:
        return [
            replace(e, overlay=data_uri(overlays[e.i])) if e.i in overlays else e for e in examples
        ]

    return [replace(row, right=add(row.right), wrong=add(row.wrong)) for row in rows]


def _safe(name: str, limit: int) -> str:
    """Return a name every file system takes: letters, digits, - and _, never empty."""
    name = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name)).strip("_")
    return name[:limit] or "_"


def _safe_classes(classes: list[str]) -> list[str]:
    """Return a folder name for every class, different also where case is ignored."""
    taken: list[str] = []
    for name in classes:
        plain = safe = _safe(name, 24)
        number = 2
        while safe.casefold() in {other.casefold() for other in taken}:
            safe, number = f"{plain}_{number}", number + 1
        taken.append(safe)
    return taken


def write_mistakes(judged: EvaluationResult, folder: Path, limit: int | None = None) -> int:
    """Write misclassified images as they were read, and ``index.csv``, most confident first.

    ``folder/<true>_as_<predicted>/<rank>_<name>.png``; the index has ``file`` (from ``folder``),
    ``path``, ``true``, ``predicted``, ``confidence`` and ``p_true``. The rank keeps file names
    apart.

    Args:
        judged: The predictions.
        folder: A folder that is not there yet.
        limit: Mistakes at most; None for all.

    Returns:
        How many were written.

    Raises:
        UserError: If the folder is there already, or something cannot be written.
    """
    classes, safe = judged.classes, _safe_classes(judged.classes)
    chosen = _wrong(judged)[:limit]
    try:
        folder.mkdir(parents=True)
        # A path that is not valid Unicode is still written, its odd bytes as \udcxx.
        with open(
            folder / "index.csv", "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as file:
            writer = csv.writer(file)
            writer.writerow(["file", "path", "true", "predicted", "confidence", "p_true"])
            for rank, i in enumerate(chosen, 1):
                true, predicted = int(judged.labels[i]), int(judged.predicted[i])
                name = judged.name(i)
                stem = _safe(re.split(r"[/\\]", name)[-1], 40)
                kind = folder / f"{safe[true]}_as_{safe[predicted]}"
                kind.mkdir(exist_ok=True)
                target = kind / f"{rank:05d}_{stem}.png"
                _picture(judged.raw(i)).save(target)
                row = judged.probabilities[i]
                numbers = [f"{row[predicted]:.8g}", f"{row[true]:.8g}"]
                place = target.relative_to(folder).as_posix()
                writer.writerow([place, name, classes[true], classes[predicted], *numbers])
    except FileExistsError:
        raise UserError(
            f"{folder} exists already: give a new folder, nothing is replaced."
        ) from None
    except OSError as error:
        raise UserError(f"cannot write the mistakes to {folder}: {error.strerror}.") from error
    return len(chosen)
