"""Numbers with nouns."""

from emotion_lab.core.wording import counted


def test_one_is_singular() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 2, 1500)] == [
        *("0 epochs", "1 epoch", "2 epochs", "1,500 epochs")
    ]
