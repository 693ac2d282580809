"""Names from indices of unknown origin."""

from __future__ import annotations

import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.paths import check_inside


@pytest.mark.parametrize("name", ["a.tar", "train/000000.tar", "train/é 1.png"])
def test_plain_names_are_returned(name: str) -> None:
    assert check_inside(name, "index") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".hidden", "a/.b", "C:a", "a\\b"),
        *("a\nb", "a\0b", None, 3, ["a"]),
    ],
)
def test_other_names_are_refused_in_one_line(name: object) -> None:
    with pytest.raises(UserError, match="index is refused") as caught:
        check_inside(name, "index")
    assert "\n" not in str(caught.value)
