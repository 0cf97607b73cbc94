"""Changing crops at random, so that a network learns what stays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import UsageError

from ..preprocess import Preprocess

_AREA = (0.02, 0.4)
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 100
"""Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, section 3.2; its algorithm 1 has no
bound on tries."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """flip: how often a crop is mirrored. pad: pixels put around a crop, from which one of the same
    size is cut at random. erase: how often a rectangle is painted over with the mean colour."""

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.flip <= 1 and 0 <= self.erase <= 1 and 0 <= self.pad <= 1000):
            raise UsageError(
                f"flip {self.flip} and erase {self.erase} are chances from 0 to 1, and pad "
                f"{self.pad} is pixels"
            )


def prepare(
    crops: NDArray[np.uint8], augment: Augment, preprocess: Preprocess, rng: np.random.Generator
) -> NDArray[np.float32]:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W), changed at random and normalised."""
    return _prepared(crops, None, augment, preprocess, rng)


def prepare_both(
    crops: NDArray[np.uint8],
    maps: NDArray[np.uint8],
    augment: Augment,
    preprocess: Preprocess,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """As `prepare`, and maps of the crops' regions changed alike: uint8 (B, h, w), 0 where nothing
    of the person is to be seen: beside the crop and where it is painted over.

    h and w divide the crops' height and width.
    """
    changed = maps.copy()
    return _prepared(crops, changed, augment, preprocess, rng), changed


def _prepared(
    crops: NDArray[np.uint8],
    maps: NDArray[np.uint8] | None,
    augment: Augment,
    preprocess: Preprocess,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    out = np.empty((len(crops), 3, *crops.shape[1:3]), np.float32)
    for number, crop in enumerate(crops):
        large = None if maps is None else _enlarged(maps[number], crop.shape)
        if rng.random() < augment.flip:
            crop = crop[:, ::-1]
            large = None if large is None else large[:, ::-1]
        if augment.pad:
            move = rng.integers(-augment.pad, augment.pad + 1, 2)
            crop = _shifted(crop, *move)
            large = None if large is None else _shifted(large, *move)
        out[number] = preprocess.normalise(crop)
        if rng.random() < augment.erase:
            where = _rectangle(crop.shape[0], crop.shape[1], rng)
            # Normalised, the mean colour is 0.
            out[number][:, *where] = 0
            if large is not None:
                large = large.copy()
                large[where] = 0
        if maps is not None and large is not None:
            maps[number] = _reduced(large, maps.shape[1:])
    return out


def _enlarged(small: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    rows, columns = shape[0] // small.shape[0], shape[1] // small.shape[1]
    return small.repeat(rows, axis=0).repeat(columns, axis=1)


def _reduced(large: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """What lies in the middle of each cell."""
    rows, columns = large.shape[0] // shape[0], large.shape[1] // shape[1]
    return large[rows // 2 :: rows, columns // 2 :: columns]


def _shifted(crop: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """The crop as if it had been padded with black, or 0, and cut again."""
    height, width = crop.shape[:2]
    shifted = np.zeros_like(crop)
    to_y, to_x = max(0, down), max(0, right)
    from_y, from_x = max(0, -down), max(0, -right)
    rows, columns = height - abs(down), width - abs(right)
    if rows > 0 and columns > 0:
        shifted[to_y : to_y + rows, to_x : to_x + columns] = crop[
            from_y : from_y + rows, from_x : from_x + columns
        ]
    return shifted


def _rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """What is to be painted over; nothing, where no try fits."""
    for _ in range(_TRIES):
        area = rng.uniform(*_AREA) * height * width
        aspect = rng.uniform(*_ASPECT)
        rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < rows < height and 0 < columns < width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return slice(top, top + rows), slice(left, left + columns)
    return slice(0), slice(0)
