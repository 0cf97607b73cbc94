"""The frames of a gallery's segments, to be embedded and encoded anew: the windows stay."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reid_index.errors import BadItems
from reid_index.files import make_folder, remove
from reid_index.fingerprint import Fingerprint
from reid_index.metric import Metric
from reid_index.store.items import BOX

from .frames import Frame, read_frame
from .segmenting import FrameRows, SegmentWriter
from .segments import SegmentEncoder

COLUMNS = ("video", "frames")
"""Of the items, besides what `reid_index.upkeep.rebuild.read_crops` reads anyway."""

_ROWS = 512
"""Items whose frames are listed, or encoded, at a time."""

_FRAME_TYPES = {"item": pa.int64(), "source": pa.string(), "box": BOX, "frame_first": pa.int64()}


@dataclass(frozen=True)
class Listed:
    """The frames of some items. frames: each one once, as `extractors.rebuilding.as_source` reads
    crops, a video's in order: `item`, here the frame's own number, `source`, `box`, `root`, and
    `frame_first`, its place in the video, null in a picture. items: ids of the n items. numbers:
    the frames of item i, in order, are numbers[offsets[i] : offsets[i + 1]].
    """

    frames: pa.Table
    items: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def whole(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which items have all of their frames among these."""
        if not len(self.items):
            return np.zeros(0, np.bool_)
        are_there = np.isin(self.numbers, numbers)
        whole: NDArray[np.bool_] = np.logical_and.reduceat(are_there, self.offsets[:-1])
        return whole


def listed_frames(crops: pa.Table) -> Listed:
    """The frames of items, as `read_crops` gives them with COLUMNS. An item that lists none is one
    frame, its picture; a text that says no frame is one without a picture.

    A frame's number is made of its root, file, place and box, so that it is the same in every run.
    Raises BadItems where two frames have the same, which happens to three million frames in one
    gallery of a million.
    """
    tables, numbers, lengths = [_no_frames(crops)], [], []
    for batch in crops.to_batches(_ROWS):
        rows: dict[str, dict[str, Any]] = {}
        for row in batch.to_pylist():
            found = list(_frames(row))
            lengths.append(len(found))
            for one in found:
                text = "\0".join(map(str, (row["root"], one["source"], one["frame"])))
                number = _number(text)
                rows.setdefault(text, {**one, "item": number, "root": row["root"], "text": text})
                numbers.append(number)
        tables.append(_table(list(rows.values()), tables[0].schema))
    frames = pa.concat_tables(tables).unify_dictionaries()
    every, firsts = np.unique(frames["item"].to_numpy(), return_index=True)
    if pc.count_distinct(frames["text"]).as_py() > len(every):
        raise BadItems("two frames of the gallery happen to have the same number: build it anew")
    frames = frames.take(pa.array(firsts))
    keys = {
        "root": frames["root"].cast(pa.string()),
        "source": frames["source"],
        "frame_first": frames["frame_first"],
    }
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    return Listed(
        frames.take(order).drop_columns(["text"]),
        crops["item"].to_numpy(),
        np.array(numbers, np.int64),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
    )


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # an id of an item is not negative


def _frames(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Source, box, place in the video, and the text of each frame."""
    of_video = row.get("video") is not None and row["video"] == row["source"]
    texts = row.get("frames")
    if not texts:
        box = None if row["box"] is None else tuple(row["box"])
        frame = Frame(source=row["source"] or "", box=box)
        yield {"source": row["source"], "box": box, "frame_first": None, "frame": str(frame)}
        return
    for text in texts:
        try:
            frame = read_frame(text or "", of_video=of_video)
        except BadItems:
            yield {"source": "", "box": None, "frame_first": None, "frame": text}
            continue
        source = row["source"] if of_video else frame.source
        yield {
            "source": source,
            "box": frame.box,
            "frame_first": frame.number,
            "frame": text,
        }


def _no_frames(crops: pa.Table) -> pa.Table:
    types = {**_FRAME_TYPES, "root": crops["root"].type, "text": pa.string()}
    return pa.table({name: pa.array([], kind) for name, kind in types.items()})


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table(
        {field.name: pa.array([row[field.name] for row in rows], field.type) for field in schema}
    )


def write_listed(
    parts: Sequence[Path],
    folder: Path,
    listed: Listed,
    *,
    encoder: SegmentEncoder,
    fingerprint: Fingerprint,
    metric: Metric,
    dtype: str,
) -> tuple[Path, ...]:
    """Encode the items that have all of their frames in parts, and write them as shards in folder,
    each row with the `item` that it is of. folder: emptied first.

    parts: shards that `harvest` has written of the frames. Raises what the encoder and
    `write_shard` raise.
    """
    remove(folder)
    make_folder(folder)
    rows = FrameRows(parts)
    known = rows.column("item").to_numpy()
    order = np.argsort(known)
    items = np.flatnonzero(listed.whole(known))
    writer = SegmentWriter(
        folder,
        fingerprint=fingerprint,
        metric=metric,
        dtype=dtype,
        root=rows.root,
        matcher=encoder.matcher,
    )
    for start in range(0, len(items), _ROWS):
        some = items[start : start + _ROWS]
        spans = [listed.numbers[listed.offsets[one] : listed.offsets[one + 1]] for one in some]
        offsets = np.concatenate([[0], np.cumsum([len(span) for span in spans])])
        distinct, places = np.unique(np.concatenate(spans), return_inverse=True)
        vectors, _ = rows.take(order[np.searchsorted(known, distinct, sorter=order)])
        table = pa.table({"item": pa.array(listed.items[some])})
        writer.add(encoder.encode(vectors[places], offsets), offsets, table)
    writer.flush()
    return tuple(writer.parts)
