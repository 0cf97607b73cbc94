"""Colours in words: what people call the mean colour of a piece of clothing.

A colour is compared in CIELAB with some shades of each word. These, their shares and the spread
were measured on the labelled crops of Market-1501's training identities, dev split `train`, by
`python -m benchmarks.colors`; so the words are those that Market's labels have.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shades:
    """How clothes of one kind are called by their colour.

    words: the n words. lab: float64 (m, 3), shades in CIELAB. word: int (m,), which word each is
    of. share: float64 (m,), how many of all clothes are of that shade, sum 1. spread: squared
    distance in CIELAB by which a shade's weight falls to 1/e.
    """

    words: tuple[str, ...]
    lab: NDArray[np.float64]
    word: NDArray[np.int64]
    share: NDArray[np.float64]
    spread: float

    def probabilities(self, rgb: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Mean colours (B, 3), RGB 0…255, to the probabilities of the words (B, n), sum 1.

        A shade weighs its share times exp(−d² / spread), d the distance in CIELAB (CIE 1976 ΔE*ab);
        a word's probability is that of its shades, all weights scaled to sum 1.
        """
        apart = ((lab_of(rgb)[:, None, :] - self.lab) ** 2).sum(axis=2)
        logs = np.log(self.share) - apart / self.spread
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        of_words = np.stack(
            [weights[:, self.word == one].sum(axis=1) for one in range(len(self.words))], axis=1
        )
        shares: NDArray[np.float64] = of_words / of_words.sum(axis=1, keepdims=True)
        return shares


_PRIMARIES = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Rows X, Y, Z of linear red, green, blue; their sums are the white point."""


def lab_of(rgb: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """sRGB (…, 3) in 0…255 to CIELAB (…, 3) for the white point D65, in double precision.

    IEC 61966-2-1 for the curve and the primaries, CIE 15 for L*, a* and b*.
    """
    values = np.asarray(rgb, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _PRIMARIES.T / _PRIMARIES.sum(axis=1)
    curve = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = curve[..., 0], curve[..., 1], curve[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def mean_colors(
    pictures: NDArray[np.uint8], points: NDArray[np.floating[Any]], *, half: tuple[int, int]
) -> NDArray[np.float64]:
    """The mean colour around a point in each picture, in sRGB: float64 (B, 3), 0…255.

    pictures: (B, h, w, 3) RGB. points: (B, 2), x and y in 0…1 of width and height. half: pixels to
    the left and right, above and below, that count, too, as far as the picture reaches. NaN for a
    point that is outside 0…1 or no number.
    """
    height, width = pictures.shape[1:3]
    found = np.full((len(pictures), 3), np.nan)
    inside = ((points >= 0) & (points <= 1)).all(axis=1)
    for row in np.flatnonzero(inside):
        x = min(int(points[row, 0] * width), width - 1)
        y = min(int(points[row, 1] * height), height - 1)
        rows = slice(max(0, y - half[1]), y + half[1] + 1)
        columns = slice(max(0, x - half[0]), x + half[0] + 1)
        found[row] = pictures[row, rows, columns].reshape(-1, 3).mean(axis=0)
    return found


_SPREAD = {"upper": 67.9, "lower": 54.0}


@cache
def market_shades(clothes: str) -> Shades:
    """Of "upper" or "lower" clothes."""
    text = files(__package__).joinpath("colors.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["clothes"] == clothes]
    return shades_of(rows, spread=_SPREAD[clothes])


def shades_of(rows: Sequence[dict[str, Any]], *, spread: float) -> Shades:
    """rows: with word, L, a, b, share."""
    words = tuple(dict.fromkeys(str(row["word"]) for row in rows))
    share = np.array([float(row["share"]) for row in rows])
    return Shades(
        words=words,
        lab=np.array([[float(row[axis]) for axis in ("L", "a", "b")] for row in rows]),
        word=np.array([words.index(row["word"]) for row in rows]),
        share=share / share.sum(),
        spread=spread,
    )
