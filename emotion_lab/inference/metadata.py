"""Metadata inside exported files, and the two hashes that protect it. Imports no torch.

The metadata holds its own digest and the hash of the graph. A truncated, modified or relabelled
file is detected. The hashes do not protect against forgery: they are not signatures.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write

#: Name of the metadata entry in every format.
ENTRY = "emotion_lab"
#: Version of the metadata; readers refuse other versions.
FORMAT = 1
#: Name of the entry inside the zip files that torch writes.
EXTRA = f"extra/{ENTRY}.json"
#: Largest side of a face and largest batch that a graph accepts; torch requires a limit.
LARGEST = 1 << 14
#: The entry as OpenVINO's .xml contains it.
XML_ENTRY = re.compile(rb'<emotion_lab value="([^"]*)" ?/>')


def metadata_digest(meta: dict[str, Any]) -> str:
    """Return the sha256 of the metadata without its ``seal``."""
    rest = {key: value for key, value in meta.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def onnx_entry(text: str) -> bytes:
    """Return the entry as bytes to append to an .onnx file.

    Protobuf merges two concatenated messages, so appending adds the entry.
    """

    def field(tag: int, content: bytes) -> bytes:
        size, rest = b"", len(content)
        while rest > 127:
            size, rest = size + bytes([rest & 127 | 128]), rest >> 7
        return bytes([tag]) + size + bytes([rest]) + content

    # ModelProto.metadata_props, a key and a value.
    return field(0x72, field(0x0A, ENTRY.encode()) + field(0x12, text.encode()))


def relabel_onnx(path: Path, meta: dict[str, Any], entries: dict[str, Any]) -> None:
    """Change entries of the metadata of an .onnx file; the graph stays the same."""
    new = {**meta, **entries}
    text = json.dumps({**new, "seal": metadata_digest(new)})
    atomic_write(path, path.read_bytes()[: meta["graph_bytes"]] + onnx_entry(text))


def graph_hash(path: Path, size: int | None = None) -> str:
    """Return the sha256 of an exported file without its metadata.

    For .onnx, ``size`` is the number of bytes of the graph; the metadata follows.
    """
    if path.suffix == ".onnx":
        return hashlib.sha256(path.read_bytes()[:size]).hexdigest()
    if path.suffix == ".xml":
        digest = hashlib.sha256(XML_ENTRY.sub(b"", path.read_bytes(), count=1))
        digest.update(path.with_suffix(".bin").read_bytes())
        return digest.hexdigest()
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(EXTRA):
                digest.update(f"{name}\0".encode() + archive.read(name))
    return digest.hexdigest()


def xml_text(path: Path) -> str | None:
    """Return the entry of an OpenVINO .xml file, None if missing."""
    match = XML_ENTRY.search(path.read_bytes())
    return html.unescape(match[1].decode()) if match else None


def zip_text(path: Path) -> str | None:
    """Return the entry of a zip file that torch wrote, None if missing."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(EXTRA)), None)
        return archive.read(name).decode() if name else None


def parse_metadata(path: Path, text: str | None) -> dict[str, Any]:
    """Parse the metadata of a file and verify both hashes."""
    if text is None:
        raise UserError(f"{path} holds no metadata of emotion_lab: export it again.")
    changed = UserError(f"{path}: its metadata was changed after the export. Export it again.")
    try:
        meta = json.loads(text)
        version, intact = meta["version"], meta["seal"] == metadata_digest(meta)
    except (ValueError, KeyError, TypeError):
        raise changed from None
    if version != FORMAT:
        raise UserError(f"{path} has version {version}, this program reads {FORMAT}: upgrade.")
    if not intact:
        raise changed
    size = meta.get("graph_bytes")
    appended = path.suffix == ".onnx" and path.read_bytes()[size:] != onnx_entry(text)
    if appended or graph_hash(path, size) != meta["graph_sha256"]:
        raise UserError(f"{path}: its graph was changed after the export. Export it again.")
    return meta
