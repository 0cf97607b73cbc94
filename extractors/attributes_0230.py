"""person-attributes-recognition-crossroad-0230 of the Open Model Zoo, through OpenVINO.

Its page says what goes in and what comes out: BGR 0…255, 160 × 80; eight probabilities, and where
in the crop the colour of upper and lower clothes is to be seen.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import BadWeights
from reid_index.fingerprint import Fingerprint

from .attributes import AttributePredictor, columns_of
from .colors import market_shades, mean_colors
from .extractor import Crop
from .openvino import import_openvino
from .preprocess import Preprocess

BINARY = (
    ("gender", "male", "female"),  # is_male
    ("bag", "yes", "no"),  # has_bag
    ("backpack", "yes", "no"),  # has_backpack
    ("hat", "yes", "no"),  # has_hat
    ("sleeve", "long", "short"),  # has_longsleeves
    ("lower_length", "long", "short"),  # has_longpants
    ("hair", "long", "short"),  # has_longhair
    ("coat", "yes", "no"),  # has_coat_jacket
)
"""The model's eight outputs in its order: attribute, word for a probability of 1, word for 0."""

COLORS = (("upper_color", "upper", (16, 20)), ("lower_color", "lower", (16, 12)))
"""The attributes of its two points: which clothes, and how many of the 80 × 160 pixels around a
point count, half of each side: those by which colours of `train` were told apart best."""

_OUTPUTS = (("453", len(BINARY)), ("456", 2), ("459", 2))
"""Name and numbers for each crop: attributes, point of the upper clothes, of the lower."""

_INPUT = Preprocess(
    height=160, width=80, color_order="BGR", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3
)


class Predictor0230(AttributePredictor):
    """The model's words for crops. Raises BadWeights for another model, MissingExtra.

    Of a probability p, the likelier word is the value and max(p, 1 − p) the confidence, as the
    model gives them. Colours are named by `colors.Shades`; where a point is not in the crop, its
    colour is unknown.
    """

    def __init__(self, weights: Path) -> None:
        openvino = import_openvino()
        binary = weights.with_suffix(".bin")
        for path in (weights, binary):
            if not path.is_file():
                raise BadWeights(f"{path}: there is no such file; an IR model is .xml and .bin")
        try:
            core = openvino.Core()
            model = core.read_model(weights)
            _check(model, openvino, weights)
            wanted = openvino.PartialShape([-1, 3, _INPUT.height, _INPUT.width])
            model.reshape({model.inputs[0]: wanted})
            # As of embedding models: probabilities are not to depend on the CPU.
            hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
            self._model = core.compile_model(model, "CPU", hints)
            digest = hashlib.sha256(weights.read_bytes() + binary.read_bytes()).hexdigest()
        except RuntimeError as error:
            raise BadWeights(
                f"{weights}: OpenVINO cannot run it: {str(error).strip().splitlines()[-1]}"
            ) from None
        self._fingerprint = _INPUT.fingerprint(
            name="crossroad-0230", version="1", weights_sha256=digest
        )

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _, _ in BINARY), *(name for name, _, _ in COLORS))

    def prepare(self, crop: Crop) -> NDArray[np.uint8]:
        """uint8 (160, 80, 3), RGB: colours are taken from it, too."""
        return _INPUT.resized(crop)

    def predict(self, batch: NDArray[np.uint8]) -> Mapping[str, Sequence[Any]]:
        probabilities, points = self.run(batch)
        columns: dict[str, list[Any]] = {}
        for place, (name, yes, no) in enumerate(BINARY):
            one = probabilities[:, place].astype(np.float64)
            words = [yes if value >= 0.5 else no for value in one]
            columns |= columns_of(name, words, np.maximum(one, 1 - one).tolist(), self.origin)
        for (name, clothes, half), where in zip(COLORS, points, strict=True):
            shades = market_shades(clothes)
            rgb = mean_colors(batch, where, half=half)
            seen = np.asarray(np.isfinite(rgb).all(axis=1))
            likely = shades.probabilities(np.where(seen[:, None], rgb, 0))
            best = likely.argmax(axis=1)
            colors = [
                [shades.words[place]] if is_seen else None
                for place, is_seen in zip(best, seen, strict=True)
            ]
            columns |= columns_of(name, colors, likely.max(axis=1).tolist(), self.origin)
        return columns

    def run(
        self, batch: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], Sequence[NDArray[np.float32]]]:
        """The model's probabilities (B, 8), and its points for each of COLORS (B, 2), x and y in
        0…1 of width and height."""
        fed = np.ascontiguousarray(batch[..., ::-1].transpose(0, 3, 1, 2), np.float32)
        given = self._model(fed)
        probabilities, *points = (
            np.array(given[name]).reshape(len(batch), size) for name, size in _OUTPUTS
        )
        return probabilities, points


def _check(model: Any, openvino: Any, weights: Path) -> None:
    """Raise BadWeights unless the model has the input and the outputs of 0230."""
    wanted = {name: openvino.PartialShape([-1, size, 1, 1]) for name, size in _OUTPUTS}
    found = {name: one.partial_shape for one in model.outputs for name in one.get_names()}
    fits = len(model.outputs) == len(wanted) and all(
        name in found and shape.compatible(found[name]) for name, shape in wanted.items()
    )
    if not fits:
        raise BadWeights(
            f"{weights}: its outputs are {_told(model.outputs)}, not those of "
            "person-attributes-recognition-crossroad-0230: "
            + ", ".join(f"{name} [1,{size},1,1]" for name, size in _OUTPUTS)
        )
    shape = openvino.PartialShape([-1, 3, _INPUT.height, _INPUT.width])
    if len(model.inputs) != 1 or not shape.compatible(model.inputs[0].partial_shape):
        raise BadWeights(
            f"{weights}: its input is {_told(model.inputs)}, that of "
            "person-attributes-recognition-crossroad-0230 [1,3,160,80]"
        )


def _told(ends: Sequence[Any]) -> str:
    return (
        ", ".join(
            f"{min(end.get_names(), default='without a name')} {end.partial_shape}" for end in ends
        )
        or "none"
    )
