"""What a model says of the items that a gallery has, from the pictures that they were cut from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reid_index.attributes import CONFIDENCE, ORIGIN, PREFIX, names_in
from reid_index.fingerprint import Fingerprint
from reid_index.store.items import stack
from reid_index.store.shard import open_shard

from .attributes import AttributePredictor, voted
from .extractor import Crop, Embedding, Extractor
from .pictures import Source
from .rebuilding import as_source, located, with_pictures
from .resegmenting import listed_frames

_ITEMS = 512
"""Whose frames vote at a time."""


class OnlyAttributes(Extractor):
    """What a model says, without the vectors: those here say nothing. So pictures go through it as
    through any extractor: decoded ahead, in batches, in parts that outlive an interruption."""

    def __init__(self, model: AttributePredictor) -> None:
        self._model = model

    @property
    def fingerprint(self) -> Fingerprint:
        return self._model.fingerprint

    @property
    def dim(self) -> int:
        return 1

    def prepare(self, crop: Crop) -> NDArray[Any]:
        return self._model.prepare(crop)

    def embed(self, batch: NDArray[Any]) -> Embedding:
        said = self._model.predict(batch)
        return Embedding(global_=np.zeros((len(batch), 1), np.float32), attributes=said)


@dataclass(frozen=True)
class Pictured:
    """source: the pictures to look at. items: those that have one. numbers[offsets[i] :
    offsets[i + 1]] is the `item` of each person in the source whom item i is: one, unless it is a
    segment. unpictured: items without a picture."""

    source: Source
    items: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    unpictured: int


def pictured(crops: pa.Table, roots: Mapping[str, str], *, of_segments: bool) -> Pictured:
    """What the items of a gallery look like.

    crops: as `reid_index.upkeep.rebuild.read_crops` gives them, of segments with
    `resegmenting.COLUMNS`. roots: see `located`.
    """
    items = numbers = crops["item"].to_numpy()
    offsets = np.arange(len(items) + 1, dtype=np.int64)
    if of_segments:
        listed = listed_frames(crops)
        crops, items, numbers, offsets = listed.frames, listed.items, listed.numbers, listed.offsets
    named = with_pictures(located(crops, roots))
    there = np.isin(numbers, named["item"].to_numpy())
    items, numbers, offsets, lacking = _those(there, items, numbers, offsets)
    return Pictured(as_source(named), items, numbers, offsets, lacking)


def _those(
    there: NDArray[np.bool_],
    items: NDArray[np.int64],
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]:
    """Items, numbers and offsets, of the numbers that are there; and how many items have none."""
    counts = np.diff(np.concatenate([[0], np.cumsum(there)])[offsets])
    kept = counts > 0
    ends = np.concatenate([[0], np.cumsum(counts[kept])])
    return items[kept], numbers[there], ends, int(np.count_nonzero(~kept))


def predicted(parts: Sequence[Path], seen: Pictured) -> pa.Table:
    """`item` and the attribute columns of the items of which a picture could be read; a segment's
    frames vote (`attributes.voted`). parts: the shards that `harvest` has made of the source, at
    least one."""
    tables = []
    for part in parts:
        shard = open_shard(part)
        names = names_in(shard.columns.names)
        columns = [PREFIX + name + what for name in names for what in ("", CONFIDENCE, ORIGIN)]
        tables.append(shard.read_columns(["item", *columns]))
    table = stack(tables)
    found = pc.index_in(pa.array(seen.numbers), value_set=table["item"].combine_chunks())
    there = found.is_valid().to_numpy(zero_copy_only=False)
    rows = found.drop_null().to_numpy()
    items, _, offsets, _ = _those(there, seen.items, seen.numbers, seen.offsets)
    said = table.drop_columns(["item"])
    if len(rows) == len(items):
        said = said.take(pa.array(rows))
    else:
        said = pa.concat_tables(
            _voted(said, rows, offsets[start : start + _ITEMS + 1])
            for start in range(0, len(items), _ITEMS)
        )
    return said.add_column(0, "item", pa.array(items))


def _voted(said: pa.Table, rows: NDArray[np.int64], offsets: NDArray[np.int64]) -> pa.Table:
    """The attributes of items whose frames are rows, from one offset to the next."""
    some = said.take(pa.array(rows[offsets[0] : offsets[-1]]))
    ends = (offsets - offsets[0]).tolist()
    return pa.table(voted(some, [range(a, b) for a, b in pairwise(ends)]))
