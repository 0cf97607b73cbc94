"""How a crop becomes a network's input, and the JSON card that says so beside a model file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.errors import BadWeights
from reid_index.fingerprint import Fingerprint
from reid_index.reading import read_json, shown

from .extractor import Crop

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Interpolation → Pillow's."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, RGB in 0…1."""

_MOST_PIXELS = 2048 * 2048
"""Pixels of a model's input: crops of persons are a hundredth of it, and a batch of 32 such takes
1.5 GiB."""

_MOST_GAIN = 1e30
"""A value of a picture times so much is still a number in single precision."""

_LARGEST_CARD = 2**20

_FIELDS = ("height", "width", "color_order", "scale", "mean", "std", "interpolation")
_FACTS = ("dim", "l2_normalized")


class Size(NamedTuple):
    """Of a model's input in pixels, where all else is known."""

    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Size in pixels, colour order, and (v · scale − mean) / std for values v in 0…255.

    mean and std have a number for each channel, in color_order. interpolation is Pillow's, which
    averages when it shrinks ("antialiased"): other libraries' filters of the same name do not,
    which has cost twenty points of rank-1 (JDAI-CV/fast-reid issue 363).
    """

    height: int
    width: int
    color_order: str = "RGB"
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise BadWeights(f"interpolation {shown(self.interpolation)}: use bilinear or bicubic")
        if self.color_order not in ("RGB", "BGR"):
            raise BadWeights(f"color_order {shown(self.color_order)}: use RGB or BGR")
        if self.height < 1 or self.width < 1:
            raise BadWeights(f"an input of {self.height} × {self.width} pixels cannot be")
        if self.height * self.width > _MOST_PIXELS:
            raise BadWeights(
                f"an input of {shown(self.height)} × {shown(self.width)} pixels is over the limit "
                f"of {_MOST_PIXELS:,}; correct height and width"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std) or not self.scale:
            raise BadWeights("mean and std need three numbers each; std and scale cannot be 0")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise BadWeights("scale, mean and std cannot be NaN or infinite")
        if any(
            max(abs(self.scale), abs(mean)) > _MOST_GAIN * abs(std)
            for mean, std in zip(self.mean, self.std, strict=True)
        ):
            raise BadWeights("scale / std and mean / std are too large for single precision")

    def apply(self, crop: Crop) -> NDArray[np.float32]:
        """uint8 (h, w, 3) RGB of any size → float32 (3, height, width), C order."""
        return self.normalise(self.resized(crop))

    def resized(self, crop: Crop) -> Crop:
        """uint8 (h, w, 3) of any size → uint8 (height, width, 3)."""
        if crop.shape[:2] == (self.height, self.width):
            return crop
        size = (self.width, self.height)
        return np.asarray(Image.fromarray(crop).resize(size, FILTERS[self.interpolation]))

    def normalise(self, crop: Crop) -> NDArray[np.float32]:
        """uint8 (height, width, 3) RGB → float32 (3, height, width), C order."""
        out = np.empty((3, self.height, self.width), np.float32)
        for channel in range(3):
            source = channel if self.color_order == "RGB" else 2 - channel
            gain = self.scale / self.std[channel]
            np.multiply(crop[:, :, source], np.float32(gain), out=out[channel])
            if self.mean[channel]:
                out[channel] -= np.float32(self.mean[channel] / self.std[channel])
        return out

    def fingerprint(
        self, *, name: str, version: str, weights_sha256: str, pooling: str = "in the model"
    ) -> Fingerprint:
        """The fingerprint of a network that is fed this way."""
        return Fingerprint(
            name=name,
            version=version,
            weights_sha256=weights_sha256,
            height=self.height,
            width=self.width,
            interpolation=self.interpolation,
            color_order=self.color_order,
            scale=self.scale,
            mean=self.mean,
            std=self.std,
            pooling=pooling,
        )


def read_card(path: Path) -> Preprocess:
    """The preprocessing in a JSON card.

    The card is an object with height, width, color_order, scale, mean, std and interpolation;
    dim and l2_normalized may stand beside them. Raises BadWeights, with the field, when one is
    missing or unknown: guessing would give vectors that look right and are not.
    """
    try:
        data = read_json(path, most=_LARGEST_CARD)
    except OSError as error:
        raise BadWeights(
            f"{path}: cannot be read ({error.strerror}): write the model's preprocessing there, "
            f"an object with {', '.join(_FIELDS)}, or give it by options"
        ) from None
    except ValueError as error:
        raise BadWeights(f"{path}: not JSON: {error}") from None
    return preprocess_from(data, where=str(path))


def preprocess_from(data: Any, *, where: str) -> Preprocess:
    """A card's content as Preprocess; where is what messages call it."""
    if not isinstance(data, dict):
        raise BadWeights(f"{where}: not a JSON object")
    missing = [name for name in _FIELDS if name not in data]
    unknown = [name for name in data if name not in _FIELDS + _FACTS]
    if missing or unknown:
        what = [f"{', '.join(missing)} missing"] if missing else []
        what += [f"{', '.join(shown(name)[1:-1] for name in unknown)} unknown"] if unknown else []
        raise BadWeights(f"{where}: {'; '.join(what)}; the fields are {', '.join(_FIELDS)}")
    for name in ("height", "width"):
        if type(data[name]) is not int:
            raise BadWeights(
                f"{where}: {name} is {shown(data[name])}; give a whole number of pixels"
            )
    if not _is_number(data["scale"]):
        raise BadWeights(f"{where}: scale is {shown(data['scale'])}; give a number")
    try:
        return Preprocess(
            height=data["height"],
            width=data["width"],
            color_order=data["color_order"],
            scale=float(data["scale"]),
            mean=_three(data, "mean"),
            std=_three(data, "std"),
            interpolation=data["interpolation"],
        )
    except BadWeights as error:
        raise BadWeights(f"{where}: {error}") from None


def _is_number(value: Any) -> bool:
    # An integer beyond the largest float is none.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _three(data: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    values = data[name]
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise BadWeights(f"{name} is {shown(values)}; give a list of three numbers")
    return float(values[0]), float(values[1]), float(values[2])


def preprocess_to_json(preprocess: Preprocess) -> dict[str, Any]:
    """The card's content, the inverse of `preprocess_from`."""
    values = {name: getattr(preprocess, name) for name in _FIELDS}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
