"""Maps of body parts that any human parser made of the crops: an indexed or grey PNG of each."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.errors import BadSource, UnreadableImage

from ..boxes import crop_box
from ..images import inside
from .crops import Labelled

_MODES = ("P", "L", "1")
_MOST_PIXELS = 2**26


def read_parsed(folder: Path, labelled: Labelled, *, height: int, width: int) -> NDArray[np.uint8]:
    """The maps of all crops, each cell as its middle: uint8 (N, height, width), 0 for background.

    folder: has for each picture a map of its size, at the same place and under the same name, but
    `.png`. Parts are numbered anew, 1 … from the top, by their mean height over all crops, so that
    they may have any number before.

    Raises BadSource for a map that is not there, is of another size, or has no whole numbers.
    """
    maps = np.zeros((len(labelled), height, width), np.uint8)
    for row, (picture, person) in enumerate(labelled.people):
        path = (folder / picture.source).with_suffix(".png")
        large = _read(path, folder)
        with Image.open(picture.path) as image:
            size = image.size
        if large.shape != (size[1], size[0]):
            raise BadSource(
                f"{path}: a map of {large.shape[1]}×{large.shape[0]} for a picture of "
                f"{size[0]}×{size[1]}"
            )
        if person.box is not None:
            try:
                large = crop_box(large[:, :, None], person.box)[:, :, 0]
            except UnreadableImage as error:
                raise BadSource(f"{path}: {error}") from None
        rows = (2 * np.arange(height) + 1) * large.shape[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * large.shape[1] // (2 * width)
        maps[row] = large[rows][:, columns]
    return _from_the_top(maps)


def _read(path: Path, folder: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(inside(path, folder)) as image:
            if image.mode not in _MODES:
                raise BadSource(
                    f"{path}: a map has a number for each pixel (indexed or grey, 8 bits), this is "
                    f"{image.mode}"
                )
            if image.width * image.height > _MOST_PIXELS:
                raise BadSource(f"{path}: a map of more than {_MOST_PIXELS:,} pixels")
            return np.asarray(image).astype(np.uint8)
    except BadSource:
        raise
    except FileNotFoundError:
        raise BadSource(f"{path}: there is no map of that picture") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnreadableImage,
        Image.DecompressionBombError,
    ) as fault:
        raise BadSource(f"{path}: cannot be read as a map: {fault}") from None


def _from_the_top(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Parts numbered by their mean height, background first."""
    counts = np.zeros(256)
    heights = np.zeros(256)
    for row in range(maps.shape[1]):
        here = np.bincount(maps[:, row].ravel(), minlength=256)
        counts += here
        heights += row * here
    there = np.flatnonzero(counts[1:]) + 1
    order = there[np.argsort(heights[there] / counts[there], kind="stable")]
    numbers = np.zeros(256, np.uint8)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers[maps]
