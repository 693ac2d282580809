"""Numbers with nouns in messages."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Return ``1 epoch``, ``2 epochs``; thousands are separated."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
