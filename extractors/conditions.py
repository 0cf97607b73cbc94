"""Whether what tells people apart by their clothes can be seen at all: light, black clothes, blur.

The "reference identification feature" of US 12,394,239 B2 is there where a crop's brightness is
below a preset value, where the clothes are black, or where the picture is blurred. Both forms here,
of a crop and of a network's input, measure on the means of 64 × 32 equal cells, so that a crop says
the same at every size from that on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float64]
Values = TypeVar("Values", Floats, Tensor)

HEIGHT, WIDTH = 64, 32
"""The cells that are measured on."""

_ROWS, _COLUMNS = slice(13, 58), slice(8, 24)
"""Torso and legs of somebody standing in the middle: a fifth to nine tenths down, the middle half
across."""

DARK, GREY = 0.2012, 0.1188
"""Black is a colour whose largest channel is below the one, and less than the other above its
smallest. Not a quotient, which says nothing of colours near 0. Both lie between the levels of
pictures, and between their means of a few, so that rounding decides nothing."""

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a condition begins: brightness below the one, a share of black above the next,
    sharpness below the last.

    Measured over the 12,936 crops of Market-1501's training split, about the darkest, the blackest
    and the most blurred tenth are beyond each; see docs/training.md.
    """

    brightness: float = 0.30
    black: float = 0.48
    sharpness: float = 1000.0


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Of one crop. brightness: mean luma, 0…1. black: share of torso and legs, 0…1. sharpness: the
    variance of the Laplacian of the luma, in squared steps of 1/255 (Pech-Pacheco et al., ICPR
    2000); from 0 up, the more the sharper."""

    brightness: float
    black: float
    sharpness: float

    def features(self, limits: Limits = LIMITS) -> tuple[str, ...]:
        """Those of FEATURES that are there."""
        there = (
            self.brightness < limits.brightness,
            self.black > limits.black,
            self.sharpness < limits.sharpness,
        )
        return tuple(name for name, is_there in zip(FEATURES, there, strict=True) if is_there)

    def present(self, limits: Limits = LIMITS) -> bool:
        """Whether any is: the reference identification feature."""
        return bool(self.features(limits))


FEATURES = ("dark", "black", "blurred")


def measure(crop: NDArray[np.uint8]) -> Conditions:
    """Of a crop uint8 (H, W, 3), RGB, of any size from 1 × 1."""
    cells = _cells(_cells(crop / 255.0, HEIGHT, axis=0), WIDTH, axis=1)
    luma = cells @ np.array(_LUMA)
    body = cells[_ROWS, _COLUMNS]
    largest, smallest = body.max(axis=2), body.min(axis=2)
    is_black = (largest < DARK) & (largest - smallest < GREY)
    return Conditions(
        brightness=float(luma.mean()),
        black=float(is_black.mean()),
        sharpness=float(_laplacian(luma * 255).var()),
    )


def _cells(values: Floats, count: int, *, axis: int) -> Floats:
    """Means along an axis of length n: cell i is of those from ⌊i·n/count⌋ to before
    ⌈(i+1)·n/count⌉, as torch's adaptive pooling has it."""
    length = values.shape[axis]
    start = np.arange(count) * length // count
    stop = -(-np.arange(1, count + 1) * length // count)
    means = [
        values.take(range(a, b), axis=axis).mean(axis=axis)
        for a, b in zip(start.tolist(), stop.tolist(), strict=True)
    ]
    return np.stack(means, axis=axis)


def _laplacian(x: Values) -> Values:
    """Of (…, H, W), inside the border: the four neighbours less four times the middle."""
    across = x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return across + x[..., :-2, 1:-1] + x[..., 2:, 1:-1] - 4 * x[..., 1:-1, 1:-1]


@dataclass(frozen=True)
class Measured:
    """Of B crops, float32 (B,) each; as `Conditions`."""

    brightness: Tensor
    black: Tensor
    sharpness: Tensor

    def features(self, limits: Limits = LIMITS) -> Tensor:
        """Which of FEATURES are there: bool (B, 3)."""
        there = (
            self.brightness < limits.brightness,
            self.black > limits.black,
            self.sharpness < limits.sharpness,
        )
        return torch.stack(there, dim=1)

    def present(self, limits: Limits = LIMITS) -> Tensor:
        """Whether any is: bool (B,)."""
        return self.features(limits).any(dim=1)


@torch.no_grad()
def measure_inputs(x: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Measured:
    """Of a network's inputs float32 (B, 3, H, W), RGB: (v / 255 − mean) / std of values v. Without
    gradient."""
    x = x.float()
    rgb = x * x.new_tensor(std).view(3, 1, 1) + x.new_tensor(mean).view(3, 1, 1)
    cells = functional.adaptive_avg_pool2d(rgb, (HEIGHT, WIDTH))
    luma = (cells * x.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1)
    body = cells[:, :, _ROWS, _COLUMNS]
    largest, smallest = body.amax(dim=1), body.amin(dim=1)
    is_black = (largest < DARK) & (largest - smallest < GREY)
    return Measured(
        brightness=luma.mean(dim=(1, 2)),
        black=is_black.float().mean(dim=(1, 2)),
        sharpness=_laplacian(luma * 255).var(dim=(1, 2), correction=0),
    )
