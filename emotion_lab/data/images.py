"""Image files to arrays, and a cheap look at whether a file is whole."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emotion_lab.core.errors import UserError

#: Transparent parts are laid on this grey (0..255): neither a dark nor a bright frame.
BACKGROUND = 128

#: What Pillow's decoders raise on bytes they do not like.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    Image.DecompressionBombError,
)


def _scale_deep(array: np.ndarray, mode: str) -> np.ndarray:
    """Scale 16-bit, 32-bit and float grey values (H, W) to uint8."""
    values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if mode == "F":
        # Floats come as 0..1 or 0..255; anything above is scaled by its own maximum.
        factor = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / top
    elif mode.startswith("I;16"):
        factor = 255.0 / 65535.0
    else:
        # Mode "I" has 32 bits, and holds 8- or 16-bit values in practice.
        factor = 1.0 if top <= 255.0 else 255.0 / max(top, 65535.0)
    return np.clip(np.rint(values * factor), 0, 255).astype(np.uint8)


def to_array(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image, upright already or with an EXIF orientation.

    Args:
        image: Any mode.

    Returns:
        uint8 (H, W, 1) for grey images, else RGB (H, W, 3).
    """
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        pass  # broken metadata is no reason to refuse a good picture
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return np.ascontiguousarray(_scale_deep(np.asarray(image), mode)[:, :, None])
    if mode in ("1", "L"):
        return np.array(image.convert("L"), dtype=np.uint8)[:, :, None]
    if mode in ("LA", "La"):
        image = image.convert("LA")
        base = Image.new("L", image.size, BACKGROUND)
        base.paste(image.getchannel("L"), mask=image.getchannel("A"))
        return np.array(base, dtype=np.uint8)[:, :, None]
    if mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        base = Image.new("RGB", image.size, (BACKGROUND,) * 3)
        base.paste(image, mask=image.getchannel("A"))
        return np.array(base, dtype=np.uint8)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file.

    EXIF orientation is applied, transparency is laid on mid-grey, deep images are scaled to
    8 bits; of an animation the first frame is read.

    Args:
        path: File; any name the system allows.

    Returns:
        uint8 (H, W, 1) for grey files, else RGB (H, W, 3).

    Raises:
        UserError: If the file is missing, truncated or no image; the path is named.
    """
    try:
        # Opening the file ourselves keeps odd names away from the decoder.
        with open(path, "rb") as stream, Image.open(stream) as image:
            return to_array(image)
    except FileNotFoundError as error:
        raise UserError(f"Image {path} does not exist; check the path.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, expected an image file.") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image; remove or replace it.") from error
    except _DECODE_ERRORS as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"Cannot read image {path} ({text or type(error).__name__}); replace it."
        ) from error


def _looks_whole(data: bytes) -> bool:
    """Tell whether header and end are those of a complete file of a known kind."""
    if data.startswith(b"\xff\xd8\xff"):
        return data[-64:].rstrip(b"\x00\r\n ").endswith(b"\xff\xd9")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data[-8:-4] == b"IEND"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return len(data) >= struct.unpack("<I", data[4:8])[0] + 8
    if data[:2] == b"BM" and len(data) > 26:
        return len(data) >= struct.unpack("<I", data[2:6])[0] > 26
    return False


def check_bytes(data: bytes) -> str | None:
    """Return why ``data`` is not a whole image file, or None when it looks like one.

    Only a file whose header or end is unusual is decoded; a good file with trailing bytes or
    of a rarer kind therefore passes, and costs more.
    """
    if not data:
        return "empty file"
    if _looks_whole(data):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return "not an image"
    except _DECODE_ERRORS as error:
        text = " ".join(str(error).split())
        return "truncated" if "truncated" in text.lower() else text or "cannot be decoded"
    return None


def quick_check(path: str | Path) -> str | None:
    """Return why the file at ``path`` is bad, or None when it looks whole.

    The pixels of an ordinary file are not decoded: damage in the middle goes unseen here, and
    is told by ``read_image``.
    """
    try:
        return check_bytes(Path(path).read_bytes())
    except OSError as error:
        return error.strerror or "cannot be opened"
