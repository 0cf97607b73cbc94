"""Where on a crop a trained system's map is strong, and how that is painted.

The heat of a place is the L2 norm of the backbone's map over its channels. It shows what the
network answers to, not what made two crops alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .extractor import Crop
from .torch_model import torch_device
from .trained import Model

_BATCH = 32

_STEPS = 256


def heat_maps(
    model: Model, crops: Sequence[Crop], *, device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """The heat of each crop, float32 (height, width) as the crop's, 0 where it is least and 1 where
    it is most; 0 all over where it is the same all over.

    The map's places are far fewer than pixels, and are interpolated bilinearly. device: "cpu",
    "cuda". Raises UsageError where the device is not to be had.
    """
    processor = torch_device(device)
    system = model.system.to(processor).eval()
    found = []
    for start in range(0, len(crops), _BATCH):
        some = crops[start : start + _BATCH]
        batch = np.stack([model.preprocess.apply(crop) for crop in some])
        with torch.inference_mode():
            norms = system.map(torch.from_numpy(batch).to(processor)).float().norm(dim=1)
        for crop, norm in zip(some, norms.cpu().numpy(), strict=True):
            found.append(_stretched(norm, crop))
    return found


def _stretched(norm: NDArray[np.float32], crop: Crop) -> NDArray[np.float32]:
    """Scaled to 0 … 1, then interpolated: so the extremes stay those of the map."""
    low, high = norm.min(), norm.max()
    scaled = (norm - low) / (high - low) if high > low else np.zeros_like(norm)
    height, width = crop.shape[:2]
    large = Image.fromarray(scaled).resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(large, np.float32), 0, 1)


def paint(heat: NDArray[np.float32]) -> Crop:
    """Heat (h, w), 0 … 1, as colours uint8 (h, w, 3): from dark violet over red to bright yellow,
    equal steps of heat looking like equal steps of light."""
    steps = np.rint(np.clip(heat, 0, 1) * (_STEPS - 1)).astype(np.intp)
    painted: Crop = _COLOURS[steps]
    return painted


def overlay(crop: Crop, heat: NDArray[np.float32], *, share: float = 0.6) -> Crop:
    """The painted heat over the crop in grey, which has no colours to be taken for heat. share:
    of the heat, 0 … 1."""
    grey = np.asarray(Image.fromarray(crop).convert("L"), np.float64)[..., None]
    mixed = share * paint(heat) + (1 - share) * grey
    laid: Crop = np.rint(mixed).astype(np.uint8)
    return laid


def _colours() -> NDArray[np.uint8]:
    """uint8 (256, 3): a path through OKLab, whose lightness rises evenly while the hue turns from
    violet to yellow, with as much chroma as sRGB has room for there.

    Björn Ottosson, "A perceptual color space for image processing", 2020.
    """
    along = np.linspace(0, 1, _STEPS)
    light = 0.25 + 0.70 * along
    hue = np.radians(300 + 170 * along)
    chroma = 0.10 + 0.09 * np.sin(np.pi * along)
    for _ in range(60):  # less chroma, step by step, where the colour is outside sRGB
        linear = _linear_rgb(light, chroma * np.cos(hue), chroma * np.sin(hue))
        outside = ((linear < 0) | (linear > 1)).any(axis=1)
        chroma = np.where(outside, 0.97 * chroma, chroma)
    linear = np.clip(linear, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: NDArray[np.uint8] = np.rint(255 * curved).astype(np.uint8)
    return colours


def _linear_rgb(
    light: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """OKLab → linear sRGB (n, 3)."""
    cones = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    mixed = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    rgb: NDArray[np.float64] = (mixed @ cones**3).T
    return rgb


_COLOURS = _colours()
