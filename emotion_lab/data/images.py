"""Decoding of image files, and a fast integrity check without decoding."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from emotion_lab.core.errors import UserError

#: Suffixes of image files, for training and prediction. HEIC needs the package ``pillow-heif``.
IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx"),
    }
)
#: Grey level (0..255) behind transparent pixels: neither a dark nor a bright border.
BACKGROUND = 128

#: Exceptions that Pillow's decoders raise on corrupt files.
DECODE_ERRORS = (
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
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

#: Images of more pixels are read at 1/2, 1/4 or 1/8 of their size: a JPEG is decoded at that size,
#: which saves time and memory. 108 and 200 megapixels become 27 and 50.
REDUCED_PIXELS = 50_000_000
#: Images of more pixels are refused, as files made to fill the memory: JPEG, other formats.
_MAX_JPEG_PIXELS, _MAX_PIXELS = 1_000_000_000, 300_000_000
Image.MAX_IMAGE_PIXELS = _MAX_JPEG_PIXELS
# Only for images that are refused anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

with contextlib.suppress(ImportError):  # an optional package
    from pillow_heif import register_heif_opener

    register_heif_opener()


def is_image_name(name: str | Path) -> bool:
    """Return whether a file name has one of :data:`IMAGE_SUFFIXES`, in upper or lower case."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _unidentified(start: bytes) -> str:
    """Return why Pillow does not know a file with these first 12 bytes or more."""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "a HEIC image, which needs a package: pip install pillow-heif"
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"):
        return "an AVIF image, which needs a newer Pillow: pip install --upgrade pillow"
    return "not an image"


class ImageError(UserError):
    """An image file that cannot be read; ``reason`` says why in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _to_uint8(array: np.ndarray, mode: str) -> np.ndarray:
    """Scale 16-bit, 32-bit and float grey values (H, W) to uint8."""
    values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    maximum = float(values.max(initial=0.0))
    if mode == "F":
        # Float images use 0..1 or 0..255; larger values are scaled by the maximum.
        factor = 255.0 if maximum <= 1.0 else 1.0 if maximum <= 255.0 else 255.0 / maximum
    elif mode.startswith("I;16"):
        factor = 255.0 / 65535.0
    else:
        # Mode "I" has 32 bits, but files hold 8- or 16-bit values in practice.
        factor = 1.0 if maximum <= 255.0 else 255.0 / max(maximum, 65535.0)
    return np.clip(np.rint(values * factor), 0, 255).astype(np.uint8)


def to_array(image: Image.Image) -> np.ndarray:
    """Return uint8 (H, W, 1) for grey images, else RGB (H, W, 3); EXIF orientation is applied."""
    image.load()
    with contextlib.suppress(*DECODE_ERRORS):  # the pixels are usable without the metadata
        image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode == "F" or mode.startswith("I"):
        return np.ascontiguousarray(_to_uint8(np.asarray(image), mode)[:, :, None])
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


def _decode(image: Image.Image) -> tuple[np.ndarray, int]:
    """Return :func:`to_array` of an open image and by which factor it is reduced."""
    pixels = image.size[0] * image.size[1]
    if pixels > (_MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else _MAX_PIXELS):
        raise ValueError(f"{image.size[0]} x {image.size[1]} pixels are too many")
    factor = 1
    while pixels > REDUCED_PIXELS * factor**2 and factor < 8:
        factor *= 2
    if factor == 1:
        return to_array(image), 1
    width, height = image.size
    image.draft(image.mode, (width // factor, height // factor))
    drafted = image.size != (width, height)
    array = to_array(image)
    if not drafted:
        size = (max(1, array.shape[1] // factor), max(1, array.shape[0] // factor))
        array = cv2.resize(array, size, interpolation=cv2.INTER_AREA)
        array = array[:, :, None] if array.ndim == 2 else array
    return array, factor


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as uint8 (H, W, 1) for grey files, else RGB (H, W, 3).

    The EXIF orientation is applied, transparent pixels become mid-grey, higher bit depths are
    scaled to 8 bits, images of more than ``REDUCED_PIXELS`` are read at a reduced size, and only
    the first frame of an animation is read.

    Raises:
        ImageError: If the file is missing, truncated or not an image that Pillow can read.
    """
    return read_reduced(path)[0]


def read_reduced(path: str | Path) -> tuple[np.ndarray, int]:
    """Return the image of :func:`read_image`, and how many times larger the sides of the file are.

    Raises:
        UserError: See :func:`read_image`.
    """
    try:
        # An open file instead of its name, which some decoders cannot handle.
        with Path(path).open("rb") as stream:
            start = stream.read(12)
            stream.seek(0)
            with Image.open(stream) as image:
                return _decode(image)
    except FileNotFoundError as error:
        text = f"Image {path} does not exist; check the path."
        raise ImageError(text, "no such file") from error
    except IsADirectoryError as error:
        text = f"{path} is a folder, expected an image file."
        raise ImageError(text, "a folder") from error
    except UnidentifiedImageError as error:
        reason = _unidentified(start)
        raise ImageError(f"{path} is {reason}; remove or replace it.", reason) from error
    except DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"Cannot read image {path} ({reason}); replace it.", reason) from error


def _looks_complete(data: bytes) -> bool:
    """Return whether header and end match a complete JPEG, PNG, WebP or BMP file."""
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
    """Return why ``data`` is not a complete image file, or None if it looks complete.

    Only files with an unusual header or end are decoded. Valid files with trailing bytes or in
    a rare format therefore pass, but take longer.
    """
    if not data:
        return "empty file"
    if _looks_complete(data):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return _unidentified(data)
    except DECODE_ERRORS as error:
        text = " ".join(str(error).split())
        return "truncated" if "truncated" in text.lower() else text or "cannot be decoded"
    return None


def check_file(path: str | Path) -> str | None:
    """Return why the file at ``path`` cannot be read as an image, or None."""
    try:
        reason = check_bytes(Path(path).read_bytes())
        if reason is None:
            read_image(path)
    except OSError as error:
        return error.strerror or "cannot be opened"
    except ImageError as error:
        return error.reason
    return reason
