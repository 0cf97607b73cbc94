"""Decoding pictures to RGB, the way Pillow does, and refusing what should not be decoded."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from reid_index.errors import UnreadableImage

from .extractor import Crop

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
"""What a folder's pictures end with, in lower case."""

MAX_PIXELS = 80_000_000
"""A picture with more pixels is not decoded: a small file can claim gigabytes of them."""

_LARGEST = 2**30
"""Bytes of a picture file: MAX_PIXELS of four times 16 bits, uncompressed, have 640,000,000."""

# Formats that Pillow decodes itself; others start programs (EPS) or have no business here. Its
# JPEG reader also reads MPO, which is no name to ask for.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")

# A broken file can make a decoder fail in any of these ways.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError)

# Exif 2.32 (JEITA CP-3451), tag 274; Pillow turns counter-clockwise.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, *, root: Path | None = None) -> Crop:
    """A picture file as uint8 (height, width, 3) RGB, upright.

    root: a folder that the file has to be in when all links are followed, its own too.

    EXIF rotation is applied, 16-bit greys are scaled to 8 bits, palettes, CMYK and greys become
    RGB, alpha is dropped, of several frames the first is taken. Raises UnreadableImage for a file
    that is empty, truncated, no picture, of 32-bit pixels, beyond MAX_PIXELS, or outside root. EXIF
    data that cannot be read are taken as none.
    """
    try:
        file = path if root is None else inside(path, root)
        # A pipe or a device would never end.
        if file.exists() and not file.is_file():
            raise UnreadableImage(f"{path}: not a file")
        if file.stat().st_size > _LARGEST:
            raise UnreadableImage(f"{path}: over {_LARGEST:,} bytes: it was not read")
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot be read: {error.strerror}") from None
    except UnreadableImage:
        raise
    except ValueError as error:  # a NUL in the name
        raise UnreadableImage(f"{str(path)!r}: cannot be read: {error}") from None
    return decode_image(data, name=str(path))


def inside(path: Path, root: Path) -> Path:
    """Where a file really is. Raises UnreadableImage where that is outside root."""
    file, folder = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if not file.is_relative_to(folder):
        raise UnreadableImage(
            f"{path}: it is {file}, outside {folder}: build from the folder that it is in"
        )
    return file


def decode_image(data: bytes, *, name: str) -> Crop:
    """`read_image` of bytes; name is what messages call them."""
    if not data:
        raise UnreadableImage(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(
                    f"{name}: {image.width} × {image.height} pixels, over the limit of "
                    f"{MAX_PIXELS:,}: it was not decoded; make it smaller"
                )
            return np.asarray(_to_rgb(_upright(image), name))
    except UnidentifiedImageError:
        raise UnreadableImage(f"{name}: not a picture that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(
            f"{name}: over the limit of {MAX_PIXELS:,} pixels: it was not decoded; make it smaller"
        ) from None
    except _BROKEN as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(f"{name}: broken: {error}") from None


def silence_pillow_warnings() -> None:
    """Keep Pillow from warning, on standard error, of large pictures, which are refused here
    anyway, and of odd metadata, which change no pixel."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _upright(image: Image.Image) -> Image.Image:
    # Not by ImageOps.exif_transpose: it writes all EXIF data anew, and fails where any are odd.
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts everything above 255 to white.
        grey = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImage(f"{name}: 32-bit pixels have no known range; convert it to 8 bits")
    if image.mode == "P":
        # By way of RGBA, or Pillow warns of palettes with transparency.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
