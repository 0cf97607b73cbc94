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
    out = np.empty((len(crops), 3, *crops.shape[1:3]), np.float32)
    for number, crop in enumerate(crops):
        if rng.random() < augment.flip:
            crop = crop[:, ::-1]
        if augment.pad:
            crop = _shifted(crop, augment.pad, rng)
        out[number] = preprocess.normalise(crop)
        if rng.random() < augment.erase:
            # Normalised, the mean colour is 0.
            _erase(out[number], rng)
    return out


def _shifted(crop: NDArray[np.uint8], pad: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The crop as if it had been padded with black and cut again."""
    height, width = crop.shape[:2]
    down, right = rng.integers(-pad, pad + 1, 2)
    shifted = np.zeros_like(crop)
    to_y, to_x = max(0, down), max(0, right)
    from_y, from_x = max(0, -down), max(0, -right)
    rows, columns = height - abs(down), width - abs(right)
    if rows > 0 and columns > 0:
        shifted[to_y : to_y + rows, to_x : to_x + columns] = crop[
            from_y : from_y + rows, from_x : from_x + columns
        ]
    return shifted


def _erase(image: NDArray[np.float32], rng: np.random.Generator) -> None:
    height, width = image.shape[1:]
    for _ in range(_TRIES):
        area = rng.uniform(*_AREA) * height * width
        aspect = rng.uniform(*_ASPECT)
        rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < rows < height and 0 < columns < width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            image[:, top : top + rows, left : left + columns] = 0
            return
