"""The contract of what predicts attributes, an extractor with one beside it, and how what is
predicted of several crops is joined."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reid_index.attributes import CONFIDENCE, MODEL, ORIGIN, PREFIX, names_in, vote
from reid_index.fingerprint import Fingerprint
from reid_index.matcher import Matcher

from .extractor import Crop, Embedding, Extractor
from .segments import SegmentEncoder


class AttributePredictor(ABC):
    """Says of crops what is to be seen in them.

    As of extractors, `prepare` is called for single crops by several threads at once and must not
    keep state; `predict` is called by one thread at a time.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> Fingerprint:
        """Everything that decides what it says."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The attributes that it predicts, as upper_color."""

    @abstractmethod
    def prepare(self, crop: Crop) -> NDArray[Any]:
        """One crop as the model wants it. Same shape and dtype for all."""

    @abstractmethod
    def predict(self, batch: NDArray[Any]) -> Mapping[str, Sequence[Any]]:
        """B prepared crops, stacked along a new first axis, B ≥ 1, to the columns of all `names`:
        `attr.<name>` (a word, of colours a list; None: unknown), `.confidence` (0…1, None beside
        unknown), `.origin`, B values each."""

    def extract(self, crops: Sequence[Crop]) -> Mapping[str, Sequence[Any]]:
        """Crops of any sizes: `prepare` for each, then `predict`."""
        return self.predict(np.stack([self.prepare(crop) for crop in crops]))

    @property
    def origin(self) -> str:
        """What the column `.origin` says of its words."""
        return origin_of(self.fingerprint)


def origin_of(fingerprint: Fingerprint) -> str:
    """ "model NAME VERSION SHA256" of a model, the sum's first 12 hex digits."""
    sha = (fingerprint.weights_sha256 or "")[:12]
    return " ".join(filter(None, (MODEL, fingerprint.name, fingerprint.version, sha)))


def columns_of(
    name: str, values: Sequence[Any], confidence: Sequence[float | None], origin: str
) -> dict[str, list[Any]]:
    """The three columns of an attribute that a model predicts; nothing beside unknown values."""
    known = [value is not None for value in values]
    return {
        PREFIX + name: list(values),
        PREFIX + name + CONFIDENCE: [
            one if is_known else None for one, is_known in zip(confidence, known, strict=True)
        ],
        PREFIX + name + ORIGIN: [origin if is_known else None for is_known in known],
    }


class WithAttributes(Extractor):
    """An extractor, and a predictor that sees the same crops: vectors are those of the extractor,
    bit by bit, attributes the predictor's; those that only the extractor has stay."""

    def __init__(self, extractor: Extractor, predictor: AttributePredictor) -> None:
        self._extractor = extractor
        self._predictor = predictor

    @property
    def fingerprint(self) -> Fingerprint:
        """The wrapped extractor's: its vectors can be compared with those made without a
        predictor."""
        return self._extractor.fingerprint

    @property
    def predicted_by(self) -> Fingerprint:
        return self._predictor.fingerprint

    @property
    def dim(self) -> int:
        return self._extractor.dim

    @property
    def matcher(self) -> Matcher | None:
        return self._extractor.matcher

    @property
    def segments(self) -> SegmentEncoder:
        return self._extractor.segments

    def prepare(self, crop: Crop) -> NDArray[Any]:
        """Both models' inputs as one structured number, of shape ()."""
        vectors, attributes = self._extractor.prepare(crop), self._predictor.prepare(crop)
        both = np.empty((), _pair(vectors, attributes))
        both["vectors"], both["attributes"] = vectors, attributes
        return both

    def embed(self, batch: NDArray[Any]) -> Embedding:
        # Copied, as the fields of one crop need not begin where numbers of their type do.
        made = self._extractor.embed(batch["vectors"].copy())
        said = self._predictor.predict(batch["attributes"].copy())
        return replace(made, attributes={**(made.attributes or {}), **said})


def _pair(vectors: NDArray[Any], attributes: NDArray[Any]) -> np.dtype[Any]:
    fields = [
        ("vectors", vectors.dtype, vectors.shape),
        ("attributes", attributes.dtype, attributes.shape),
    ]
    return np.dtype(fields)


def voted(items: pa.Table, groups: Sequence[Sequence[int]]) -> dict[str, pa.Array]:
    """What the attributes of some rows say together: the attribute columns that the items have,
    with a value for each group of rows, of which none is empty.

    See `reid_index.attributes.vote` for how.
    """
    columns: dict[str, pa.Array] = {}
    for name in names_in(items.column_names):
        whole = PREFIX + name
        there = [one for one in (whole, whole + CONFIDENCE, whole + ORIGIN) if one in _names(items)]
        rows = items.select(there).to_pylist()
        told = [(row[whole], row.get(whole + CONFIDENCE), row.get(whole + ORIGIN)) for row in rows]
        found = [vote(told[row] for row in group) for group in groups]
        for place, column in enumerate((whole, whole + CONFIDENCE, whole + ORIGIN)):
            if column in there:
                kind = items.schema.field(column).type
                columns[column] = _array([one[place] for one in found], kind)
    return columns


def _names(items: pa.Table) -> frozenset[str]:
    return frozenset(items.column_names)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)
