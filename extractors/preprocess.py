"""How a crop becomes a network's input, and the JSON card that says so beside a model file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.errors import BadWeights
from reid_index.fingerprint import Fingerprint

from .extractor import Crop

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

_FIELDS = ("height", "width", "color_order", "scale", "mean", "std", "interpolation")
_FACTS = ("dim", "l2_normalized")


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
        if self.interpolation not in _FILTERS:
            raise BadWeights(f"interpolation {self.interpolation!r}: use bilinear or bicubic")
        if self.color_order not in ("RGB", "BGR"):
            raise BadWeights(f"color_order {self.color_order!r}: use RGB or BGR")
        if self.height < 1 or self.width < 1:
            raise BadWeights(f"an input of {self.height} × {self.width} pixels cannot be")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std) or not self.scale:
            raise BadWeights("mean and std need three numbers each; std and scale cannot be 0")

    def apply(self, crop: Crop) -> NDArray[np.float32]:
        """uint8 (h, w, 3) RGB of any size → float32 (3, height, width), C order."""
        size = (self.width, self.height)
        if crop.shape[:2] != (self.height, self.width):
            crop = np.asarray(Image.fromarray(crop).resize(size, _FILTERS[self.interpolation]))
        out = np.empty((3, self.height, self.width), np.float32)
        for channel in range(3):
            source = channel if self.color_order == "RGB" else 2 - channel
            gain = self.scale / self.std[channel]
            np.multiply(crop[:, :, source], np.float32(gain), out=out[channel])
            if self.mean[channel]:
                out[channel] -= np.float32(self.mean[channel] / self.std[channel])
        return out

    def fingerprint(self, *, name: str, version: str, weights_sha256: str) -> Fingerprint:
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
            pooling="in the model",
        )


def read_card(path: Path) -> Preprocess:
    """The preprocessing in a JSON card.

    The card is an object with height, width, color_order, scale, mean, std and interpolation;
    dim and l2_normalized may stand beside them. Raises BadWeights, with the field, when one is
    missing or unknown: guessing would give vectors that look right and are not.
    """
    try:
        data = json.loads(path.read_bytes())
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
        what += [f"{', '.join(unknown)} unknown"] if unknown else []
        raise BadWeights(f"{where}: {'; '.join(what)}; the fields are {', '.join(_FIELDS)}")
    try:
        mean = [float(value) for value in data["mean"]]
        std = [float(value) for value in data["std"]]
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std need three numbers each")
        return Preprocess(
            height=int(data["height"]),
            width=int(data["width"]),
            color_order=str(data["color_order"]),
            scale=float(data["scale"]),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            interpolation=str(data["interpolation"]),
        )
    except BadWeights as error:
        raise BadWeights(f"{where}: {error}") from None
    except (TypeError, ValueError) as error:
        raise BadWeights(f"{where}: {error}") from None


def preprocess_to_json(preprocess: Preprocess) -> dict[str, Any]:
    """The card's content, the inverse of `preprocess_from`."""
    values = {name: getattr(preprocess, name) for name in _FIELDS}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
