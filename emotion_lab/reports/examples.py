"""Example images of a report: worst mistakes, most confused pairs, random samples by class."""

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

#: Approximate longer side of a thumbnail: small images are enlarged by an integer factor.
_SIDE = 96
#: Maximum side of a thumbnail in pixels.
_LARGE = 144
#: Thumbnails with a larger PNG (in bytes) are stored as JPEG.
_HEAVY = 12_000


@dataclass(frozen=True)
class Example:
    """An image and its prediction.

    Attributes:
        i: Index of the prediction in :class:`EvaluationResult`.
        name: Path or ``file:row``.
        confidence: Probability of the predicted class, 0 to 1, at temperature 1.
        p_true: Probability of the true class.
        top3: The three most probable classes with their probabilities, in descending order.
        image: Thumbnail as a data URI.
        overlay: Thumbnail with the explanation map as a data URI, if there is one.
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
    """A pair of true and wrongly predicted class.

    Attributes:
        count: Number of images of ``true`` predicted as ``predicted``.
        fraction: ``count`` as a fraction of the images of ``true``, 0 to 1.
        examples: Some of these images, most confident first.
    """

    true: str
    predicted: str
    count: int
    fraction: float
    examples: list[Example]


@dataclass(frozen=True)
class ClassExamples:
    """Random images of one true class; ``support`` is its number of images in the split."""

    name: str
    support: int
    right: list[Example]
    wrong: list[Example]


def data_uri(image: np.ndarray) -> str:
    """Return a thumbnail of an image as a data URI: PNG, or JPEG if the PNG is large.

    Small images are enlarged by an integer factor with nearest neighbour; large ones are reduced.

    ``image`` is uint8 (H, W, 1) grey or (H, W, 3) RGB.
    """
    picture = _picture(image)
    longer = max(picture.size)
    factor = round(_SIDE / longer)
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    elif longer > _LARGE:
        picture.thumbnail((_LARGE, _LARGE), Image.Resampling.BOX)
    buffer, kind = io.BytesIO(), "png"
    picture.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _HEAVY:
        buffer, kind = io.BytesIO(), "jpeg"
        picture.save(buffer, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def example(result: EvaluationResult, i: int, resized: bool = False) -> Example:
    """Return the example of prediction ``i``; ``resized`` shows the input of the network."""
    classes, row = result.classes, result.probabilities[i]
    order = np.argsort(-result.logits[i], kind="stable")[:3]
    true = int(result.labels[i])
    return Example(
        i=int(i),
        name=result.name(i),
        true=classes[true],
        predicted=classes[order[0]],
        confidence=float(row[order[0]]),
        p_true=float(row[true]),
        top3=[(classes[k], float(row[k])) for k in order],
        image=data_uri(result.image(i) if resized else result.raw(i)),
    )


def _wrong(result: EvaluationResult) -> np.ndarray:
    """Return the indices of wrong predictions, int64 (M,), most confident first, then by index."""
    wrong = np.flatnonzero(result.predicted != result.labels)
    confidence = result.probabilities[wrong].max(1)
    return wrong[np.argsort(-confidence, kind="stable")]


def worst_mistakes(result: EvaluationResult, limit: int = 50) -> list[Example]:
    """Return the wrong predictions with the highest confidence, in descending order."""
    return [example(result, i) for i in _wrong(result)[:limit]]


def confused_pairs(
    result: EvaluationResult, limit: int = 10, examples: int = 8
) -> list[ConfusedPair]:
    """Return the (true, predicted) pairs with the most images, in descending order.

    Args:
        result: The predictions.
        limit: Maximum number of pairs; pairs without images are not listed.
        examples: Maximum number of images of a pair.
    """
    classes, size = result.classes, len(result.classes)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (result.labels, result.predicted), 1)
    support = counts.sum(1)
    np.fill_diagonal(counts, 0)
    wrong = _wrong(result)
    pairs = []
    for flat in np.argsort(-counts, axis=None, kind="stable")[:limit]:
        true, predicted = divmod(int(flat), size)
        count = int(counts[true, predicted])
        if not count:
            break
        in_pair = (result.labels[wrong] == true) & (result.predicted[wrong] == predicted)
        shown = [example(result, i) for i in wrong[in_pair][:examples]]
        fraction = count / int(support[true])
        pairs.append(ConfusedPair(classes[true], classes[predicted], count, fraction, shown))
    return pairs


def class_examples(result: EvaluationResult, each: int = 4, seed: int = 0) -> list[ClassExamples]:
    """Return random right and wrong predictions of each true class, for the explanation maps.

    The images are not selected by their maps, which would be misleading. They have the input size
    of the network, as the maps do.

    Args:
        result: The predictions.
        each: Maximum number of right, and of wrong, predictions of a class.
        seed: Random seed.
    """
    generator = np.random.default_rng(seed)
    right = result.predicted == result.labels
    rows = []
    for index, name in enumerate(result.classes):
        in_class = result.labels == index
        groups = [np.flatnonzero(in_class & right), np.flatnonzero(in_class & ~right)]
        drawn = [generator.permutation(group)[:each] for group in groups]
        shown = [[example(result, i, resized=True) for i in group] for group in drawn]
        rows.append(ClassExamples(name, int(in_class.sum()), shown[0], shown[1]))
    return rows


def with_overlays(
    rows: list[ClassExamples], overlays: Mapping[int, np.ndarray]
) -> list[ClassExamples]:
    """Return the rows of :func:`class_examples` with explanation maps added.

    ``overlays``: index of a prediction -> image blended with its map, uint8 (H, W, 3).
    """

    def add(examples: list[Example]) -> list[Example]:
        return [
            replace(e, overlay=data_uri(overlays[e.i])) if e.i in overlays else e for e in examples
        ]

    return [replace(row, right=add(row.right), wrong=add(row.wrong)) for row in rows]


def _safe(name: str, limit: int) -> str:
    """Return a name valid on all file systems: letters, digits, - and _, never empty."""
    name = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name)).strip("_")
    return name[:limit] or "_"


def _safe_classes(classes: list[str]) -> list[str]:
    """Return a folder name for each class, unique also if case is ignored."""
    folders: list[str] = []
    for name in classes:
        stem = safe = _safe(name, 24)
        number = 2
        while safe.casefold() in {other.casefold() for other in folders}:
            safe, number = f"{stem}_{number}", number + 1
        folders.append(safe)
    return folders


def write_mistakes(result: EvaluationResult, folder: Path, limit: int | None = None) -> int:
    """Write the original images of wrong predictions and ``index.csv``, most confident first.

    Files are named ``folder/<true>_as_<predicted>/<rank>_<name>.png``. The index has the columns
    ``file`` (relative to ``folder``), ``path``, ``true``, ``predicted``, ``confidence`` and
    ``p_true``.

    Returns:
        The number of images, at most ``limit``.
    """
    classes, safe = result.classes, _safe_classes(result.classes)
    chosen = _wrong(result)[:limit]
    try:
        folder.mkdir(parents=True)
        # Names that are not UTF-8 keep their bytes.
        with (folder / "index.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            writer = csv.writer(file)
            writer.writerow(["file", "path", "true", "predicted", "confidence", "p_true"])
            for rank, i in enumerate(chosen, 1):
                true, predicted, name = result.labels[i], result.predicted[i], result.name(i)
                stem = _safe(re.split(r"[/\\]", name)[-1], 40)
                subfolder = folder / f"{safe[true]}_as_{safe[predicted]}"
                subfolder.mkdir(exist_ok=True)
                target = subfolder / f"{rank:05d}_{stem}.png"
                _picture(result.raw(i)).save(target)
                row = result.probabilities[i]
                numbers = [f"{row[predicted]:.8g}", f"{row[true]:.8g}"]
                file_name = target.relative_to(folder).as_posix()
                writer.writerow([file_name, name, classes[true], classes[predicted], *numbers])
    except FileExistsError:
        raise UserError(
            f"{folder} exists already and is not overwritten: give a new folder."
        ) from None
    except OSError as error:
        raise UserError(f"cannot write the mistakes to {folder}: {error.strerror}.") from error
    return len(chosen)
