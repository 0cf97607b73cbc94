"""The attributes that a model of `reid train` tells, beside whatever makes the vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from reid_index.errors import BadWeights
from reid_index.fingerprint import Fingerprint

from .attributes import AttributePredictor
from .extractor import Crop
from .trained import TrainedExtractor


class TrainedPredictor(AttributePredictor):
    """What such a model says of crops, without its vectors.

    weights: the `.safetensors` file. device: as PyTorch names it. Raises BadWeights, also for a
    model that tells no attributes, and UsageError where the device is not to be had.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        self._extractor = TrainedExtractor(weights, device=device)
        if not self._extractor.told:
            raise BadWeights(
                f"{weights}: this model predicts no attributes; one of `reid train --system fls "
                "--attributes FILE` does"
            )

    @property
    def fingerprint(self) -> Fingerprint:
        return self._extractor.fingerprint

    @property
    def names(self) -> tuple[str, ...]:
        return self._extractor.told

    def prepare(self, crop: Crop) -> NDArray[Any]:
        return self._extractor.prepare(crop)

    def predict(self, batch: NDArray[Any]) -> Mapping[str, Sequence[Any]]:
        told = self._extractor.embed(batch).attributes
        assert told is not None
        return told
