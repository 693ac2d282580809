"""The paired comparison of a fine-tuned run with the checkpoint that it started from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_lab.experiments.run import before_after


def result(classes: list[str], names: list[str], labels: list[str], predicted: list[str]) -> Any:
    index = {name: i for i, name in enumerate(classes)}
    return SimpleNamespace(
        classes=classes,
        groups=None,
        names=names,
        name=names.__getitem__,
        labels=np.array([index[name] for name in labels]),
        predicted=np.array([index[name] for name in predicted]),
    )


def test_shared_classes_are_compared_by_name() -> None:
    """Image d is of a class that only the run has; a prediction of another class is wrong."""
    before = result(
        ["sad", "happy", "fear"], ["c", "a", "b"], ["sad", "happy", "sad"], ["fear", "sad", "sad"]
    )
    after = result(
        ["happy", "bored", "sad"],
        ["a", "b", "c", "d"],
        ["happy", "sad", "sad", "bored"],
        ["happy", "sad", "bored", "bored"],
    )
    values = before_after.compare(before, after)
    assert values["classes"] == ["happy", "sad"] and values["n"] == 3
    assert values["accuracy_before"] == pytest.approx(1 / 3)
    assert values["accuracy_after"] == pytest.approx(2 / 3)
    difference = values["difference"]
    assert difference["accuracy"] == pytest.approx(1 / 3)
    assert (difference["only_a_right"], difference["only_b_right"]) == (0, 1)
    line = before_after.line(values)
    assert "3 images of 2 shared classes: accuracy 33.3% and 66.7%, +33.3 points" in line


def test_persons_are_resampled_as_a_whole() -> None:
    """All images of a person change together: six persons, not sixty independent images."""
    names = [str(i) for i in range(60)]
    labels = ["happy", "sad"] * 30
    wrong = [labels[i] if i < 20 else "sad" if labels[i] == "happy" else "happy" for i in range(60)]
    before, after = (result(["happy", "sad"], names, labels, own) for own in (wrong, labels))
    images = before_after.compare(before, after)["difference"]
    after.groups = [f"p{i // 10}" for i in range(60)]
    values = before_after.compare(before, after)
    persons = values["difference"]
    assert persons["mcnemar_p"] is None and images["mcnemar_p"] < 0.001
    assert persons["accuracy_ci95"][0] < images["accuracy_ci95"][0]
    assert before_after.line(values).endswith("over persons or groups)")
