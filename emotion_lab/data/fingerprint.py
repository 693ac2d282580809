"""Identity of a split: image count, class counts and a hash over contents and labels."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from emotion_lab.core.labels import LABEL_SCHEMES
from emotion_lab.data.types import Split

#: Scheme -> images of each class in its order: of the CSV of the challenge, and by the FER+
#: majority (``data.labels=ferplus``). The counts identify the hold-out splits independently of
#: file and folder names.
_KNOWN: dict[str, dict[str, tuple[int, ...]]] = {
    "fer2013": {
        "FER2013 Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
        "FER2013 PublicTest": (467, 56, 496, 895, 653, 415, 607),
        "FER2013 PrivateTest": (491, 55, 528, 879, 594, 416, 626),
    },
    "ferplus": {
        "FER+ Training": (8740, 7287, 3149, 3014, 2100, 119, 532, 119),
        "FER+ PublicTest": (1182, 865, 415, 351, 287, 24, 62, 13),
        "FER+ PrivateTest": (1090, 893, 396, 384, 273, 18, 83, 16),
    },
}


def _known_as(counts: dict[str, int]) -> str | None:
    """Return the name of the split with these images of each class, if it is known."""
    for scheme, known in _KNOWN.items():
        names = LABEL_SCHEMES[scheme].values()
        for name, numbers in known.items():
            if counts == dict(zip(names, numbers, strict=True)):
                return name
    return None


def fingerprint(split: Split, classes: list[str], digest_of: str = "pixels") -> dict[str, Any]:
    """Return the identity of a split; two runs with equal fingerprints used the same data.

    Args:
        split: The images.
        classes: Class names in label order.
        digest_of: What the images are hashed by, see :meth:`Split.digests`.

    Returns:
        Builtins only: ``n``, ``counts`` (class -> images), ``hash`` (32 hex digits over content
        and class name of every image, independent of their order), ``of`` (``digest_of``; missing
        in fingerprints of earlier versions) and ``known_as`` (the FER2013 or FER+ split with these
        counts, or None).
    """
    numbers = np.bincount(split.labels, minlength=len(classes)).tolist()
    counts = dict(zip(classes, numbers, strict=True))
    suffixes = [name.encode() + b"\0" for name in classes]
    pairs = zip(split.digests(digest_of), split.labels.tolist(), strict=True)
    entries = sorted(digest + suffixes[label] for digest, label in pairs)
    return {
        "n": len(split),
        "counts": counts,
        "hash": hashlib.blake2b(b"".join(entries), digest_size=16).hexdigest(),
        "of": digest_of,
        "known_as": _known_as(counts),
    }
