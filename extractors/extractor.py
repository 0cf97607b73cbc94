"""The one contract of all extractors: RGB crops in, an `Embedding` out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.fingerprint import Fingerprint
from reid_index.matcher import Matcher

from .segments import MeanEncoder, SegmentEncoder

Crop = NDArray[np.uint8]
"""A person's picture: uint8 (height, width, 3), RGB, 0…255, any size from 1×1."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What an extractor yields for B crops, row i for crop i.

    global_: float32 (B, D), finite, not normalised unless the model does so itself.
    parts: float32 (B, P, Dp), or None.
    visible: uint8 (B, P) of 0 and 1: whether the part is to be seen; None where parts is None or
        all parts always are.
    attributes: item columns `attr.<name>`, `attr.<name>.confidence`, `attr.<name>.origin`, each
        with B values, None = unknown.
    """

    global_: NDArray[np.float32]
    parts: NDArray[np.float32] | None = None
    visible: NDArray[np.uint8] | None = None
    attributes: Mapping[str, Sequence[Any]] | None = None


def joined(made: Sequence[Embedding]) -> Embedding:
    """Embeddings of the same extractor, at least one, as one of all their crops in order."""

    def arrays(name: str) -> Any:
        every = [getattr(one, name) for one in made]
        return None if every[0] is None else np.concatenate(every)

    return Embedding(
        global_=arrays("global_"),
        parts=arrays("parts"),
        visible=arrays("visible"),
        attributes=None
        if made[0].attributes is None
        else {
            name: [value for one in made for value in (one.attributes or {})[name]]
            for name in made[0].attributes
        },
    )


class Extractor(ABC):
    """Turns crops into vectors.

    `prepare` is called for single crops by several threads at once and must not keep state;
    `embed` is called by one thread at a time.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Everything that decides the numbers."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the width of `Embedding.global_`."""

    @property
    def matcher(self) -> Matcher | None:
        """How `Embedding.parts` of two items are compared; None where items are by `global_`
        alone, parts or not."""
        return None

    @property
    def predicted_by(self) -> Fingerprint | None:
        """Of the model beside it that predicts `Embedding.attributes`; None where there is none.
        It is no part of `fingerprint`, as it does not change a vector."""
        return None

    @property
    def segments(self) -> SegmentEncoder:
        """What makes a segment's vector of those of its frames: their mean, unless a model has
        learnt better. Galleries of segments have its `dim` and `matcher`."""
        return MeanEncoder(self.dim)

    @abstractmethod
    def prepare(self, crop: Crop) -> NDArray[Any]:
        """One crop as the model wants it: resized, ordered, normalised. Same shape for all."""

    @abstractmethod
    def embed(self, batch: NDArray[Any]) -> Embedding:
        """B prepared crops, stacked along a new first axis, to their embedding. B ≥ 1."""

    def extract(self, crops: Sequence[Crop]) -> Embedding:
        """Crops of any sizes to their embedding: `prepare` for each, then `embed`."""
        return self.embed(np.stack([self.prepare(crop) for crop in crops]))
