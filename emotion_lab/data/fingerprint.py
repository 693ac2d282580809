"""Identity of a split: image count, class counts and a hash over contents and labels."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.types import Split

#: Images of each class in the CSV of the challenge, in ``EMOTIONS`` order. The counts identify
#: the two hold-out splits independently of file and folder names.
_KNOWN: dict[str, tuple[int, ...]] = {
    "FER2013 Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "FER2013 PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "FER2013 PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}


def fingerprint(split: Split, classes: list[str], digest_of: str = "pixels") -> dict[str, Any]:
    """Return the identity of a split; two runs with equal fingerprints used the same data.

    Args:
        split: The images.
        classes: Class names in label order.
        digest_of: What the images are hashed by, see :meth:`Split.digests`.

    Returns:
        Builtins only: ``n``, ``counts`` (class -> images), ``hash`` (32 hex digits over content
        and class name of every image, independent of their order), ``of`` (``digest_of``; missing
        in fingerprints of earlier versions) and ``known_as`` (the FER2013 split with these counts,
        or None).
    """
    numbers = np.bincount(split.labels, minlength=len(classes)).tolist()
    counts = dict(zip(classes, numbers, strict=True))
    suffixes = [name.encode() + b"\0" for name in classes]
    pairs = zip(split.digests(digest_of), split.labels.tolist(), strict=True)
    entries = sorted(digest + suffixes[label] for digest, label in pairs)
    known_as = None
    if set(classes) == set(EMOTIONS):
        by_emotion = tuple(counts[name] for name in EMOTIONS)
        known_as = next((name for name, known in _KNOWN.items() if known == by_emotion), None)
    return {
        "n": len(split),
        "counts": counts,
        "hash": hashlib.blake2b(b"".join(entries), digest_size=16).hexdigest(),
        "of": digest_of,
        "known_as": known_as,
    }


def differ(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two fingerprints are known to be of different images.

    Hashes of pixels and of files cannot be compared.
    """
    return first.get("of") == other.get("of") and first["hash"] != other["hash"]
