"""A short identity for a split: which images, which labels, and a name when it is well known."""

from __future__ import annotations

import hashlib

import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.types import Split

#: Images of every class in the order of ``EMOTIONS``, counted in the challenge's CSV. Enough to
#: tell the two hold-outs apart, whatever their folder is called.
_KNOWN: dict[str, tuple[int, ...]] = {
    "FER2013 Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "FER2013 PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "FER2013 PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}


def fingerprint(split: Split, classes: list[str]) -> dict:
    """Describe a split so that two runs can tell whether they saw the same data.

    Args:
        split: Any split.
        classes: Class names; the position is the label.

    Returns:
        Builtins only: ``n``, ``counts`` (class -> images), ``hash`` (32 hex digits over content
        and class name of every image, the same in any order) and ``known_as`` (a FER2013 split
        with these counts, or None).
    """
    numbers = np.bincount(split.labels, minlength=len(classes)).tolist()
    counts = dict(zip(classes, numbers, strict=True))
    ends = [name.encode() + b"\0" for name in classes]
    pairs = zip(split.digests(), split.labels.tolist(), strict=True)
    lines = sorted(digest + ends[label] for digest, label in pairs)
    known_as = None
    if set(classes) == set(EMOTIONS):
        wanted = tuple(counts[name] for name in EMOTIONS)
        known_as = next((name for name, known in _KNOWN.items() if known == wanted), None)
    return {
        "n": len(split),
        "counts": counts,
        "hash": hashlib.blake2b(b"".join(lines), digest_size=16).hexdigest(),
        "known_as": known_as,
    }
