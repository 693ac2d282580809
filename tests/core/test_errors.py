"""Suggestions for unknown options."""

from __future__ import annotations

from emotion_lab.core.errors import unknown_key


def test_unknown_key_suggests_keys_and_not_their_group() -> None:
    known = ["loss", "loss.name", "loss.gamma", "loss.label_smoothing", "optim.lr"]
    assert str(unknown_key("loss.margin", known)) == (
        "Unknown option 'loss.margin'. Available: loss.gamma, loss.label_smoothing, loss.name."
    )
    for key in ("loss.gama", "los.gamma"):
        assert "Did you mean 'loss.gamma'?" in str(unknown_key(key, known))
