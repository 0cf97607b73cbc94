"""The rows that golden galleries from format 1.1 on hold, told by number without the code that they
judge, and what each of those galleries is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
ROOT = "/golden/crops"
RATE = 0.05
"""The false-match rate that calibrations were made for."""

PEOPLE = 8
LABELLED = 24
"""Only the first rows have a label, so that few pairs are counted."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A golden gallery, item ids being the numbers of its rows.

    shards: how many rows were added at a time. compacted: the numbers of those deleted and then
    compacted away; deleted: since. k1, k2: of its graph, if it has one; fresh: whether that was
    made from just the present rows. index: its kind, if it has one; late: the first number of those
    that it knows nothing of. weight: of its matcher, if it has one of parts; its rows then have
    some. bias: of its matcher, if it has one of frames; its rows then are segments. said: whether
    attributes were said of its items later; see `said_of`.
    """

    folder: str
    format: tuple[int, int]
    generation: int
    metric: str
    dtype: str
    shards: tuple[int, ...]
    compacted: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    k1: int | None = None
    k2: int = 1
    fresh: bool = True
    index: str | None = None
    late: int = 0
    weight: float | None = None
    bias: float | None = None
    said: bool = False

    def known(self, number: int) -> dict[str, Any]:
        """What is known of a row, what was said of it included."""
        known = item(number) if self.bias is None else item_of_segment(number)
        return known | (said_of(number) if self.said else {})

    @property
    def path(self) -> Path:
        return DATA / self.folder

    @property
    def added(self) -> int:
        """How many rows were ever added: the next item id."""
        return sum(self.shards)

    @property
    def numbers(self) -> list[int]:
        """The numbers of its rows, in order."""
        return sorted(set(range(self.added)) - {*self.compacted, *self.deleted})

    @property
    def indexed(self) -> int:
        """How many rows its index is of, those deleted since, too."""
        return len(set(range(self.late)) - set(self.compacted))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, 4), as they are stored."""
        return stored(self.numbers, metric=self.metric, dtype=self.dtype)


GOLDENS = (
    Golden(
        folder="format_v1_1",
        format=(1, 1),
        generation=4,
        metric="cosine",
        dtype="float32",
        shards=(14, 10),
        k1=4,
        k2=2,
    ),
    Golden(
        folder="format_v1_1_stale",
        format=(1, 1),
        generation=5,
        metric="cosine",
        dtype="float32",
        shards=(14, 10, 3),
        k1=4,
        k2=2,
        fresh=False,
    ),
    Golden(
        folder="format_v1_2_ivf-pq",
        format=(1, 2),
        generation=5,
        metric="euclidean",
        dtype="float16",
        shards=(1000, 20),
        k1=2,
        k2=1,
        index="ivf-pq",
        late=1020,
    ),
    Golden(
        folder="format_v1_2_hnsw",
        format=(1, 2),
        generation=4,
        metric="euclidean",
        dtype="float16",
        shards=(1000, 20),
        index="hnsw",
        late=1000,
    ),
    Golden(
        folder="format_v1_3",
        format=(1, 3),
        generation=11,
        metric="cosine",
        dtype="float16",
        shards=(1000, 12, 8),
        compacted=tuple(range(8, 16)),
        deleted=(700, 1015),
        k1=1,
        k2=2,
        index="ivf-pq",
        late=1012,
    ),
    Golden(
        folder="format_v1_4",
        format=(1, 4),
        generation=8,
        metric="cosine",
        dtype="float32",
        shards=(14, 10, 5),
        compacted=(3, 9),
        deleted=(26,),
        weight=0.5,
    ),
    Golden(
        folder="format_v1_5",
        format=(1, 5),
        generation=8,
        metric="cosine",
        dtype="float16",
        shards=(14, 10, 5),
        compacted=(3, 9),
        deleted=(26,),
        bias=1.5,
    ),
    Golden(
        folder="format_v1_6",
        format=(1, 6),
        generation=11,
        metric="cosine",
        dtype="float32",
        shards=(14, 10, 5),
        compacted=(3, 9),
        deleted=(26,),
        said=True,
    ),
)


def vector(number: int) -> list[int]:
    """Four whole numbers: those of one of PEOPLE, and noise a third as large."""
    person = _bytes(f"person {number % PEOPLE}")
    noise = _bytes(f"row {number}")
    return [a + b // 3 for a, b in zip(person, noise, strict=True)]


def parts(number: int) -> list[list[int]]:
    """Three stripes of two whole numbers each, of which some are zeros."""
    person = [_bytes(f"stripe {stripe} of {number % PEOPLE}") for stripe in range(3)]
    return [[four[0], four[1] + number % 7] if four[2] > -64 else [0, 0] for four in person]


HEAD = (-0.0001, -0.0002, 0.0, -0.0004)
"""Of the matcher of frames."""


def frames(number: int) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """A segment's index vector of three numbers, and the keys, of three, and values, of four, of
    its one to five frames. All are whole, and small enough for half precision."""
    count = number % 5 + 1
    index = [one // 64 for one in _bytes(f"index of {number % PEOPLE}")[:3]]
    keys = [_bytes(f"key {frame} of {number}")[:3] for frame in range(count)]
    values = [_bytes(f"value {frame} of {number % PEOPLE}") for frame in range(count)]
    return index, [[one // 32 for one in key] for key in keys], values


def item_of_segment(number: int) -> dict[str, Any]:
    """What is known of a segment: `item`, its track, its frames."""
    count = len(frames(number)[1])
    return item(number) | {
        "video": f"{number // 6}.mp4",
        "track": f"{number // 3}",
        "frame_first": number * 4,
        "frame_last": number * 4 + count - 1,
        "start_s": number * 0.5,
        "end_s": number * 0.5 + count / 8,
        "frames": [f"{number * 4 + frame}@{number * 0.5 + frame / 8}" for frame in range(count)],
    }


MODEL = "model golden 1 0123456789ab"


def by_model(number: int) -> dict[str, Any] | None:
    """What a model says of every other row."""
    if number % 2:
        return None
    return {
        "attr.hat": "no",
        "attr.hat.confidence": 0.75,
        "attr.upper_color": ["red", "black"][: number % 3],
        "attr.upper_color.confidence": 0.5,
    }


def by_person(number: int) -> dict[str, Any] | None:
    """What somebody says of every fifth row."""
    return None if number % 5 else {"attr.hat": "yes"}


def said_of(number: int) -> dict[str, Any]:
    """What is seen of both: a person counts more than what a row was added with, that more than a
    model."""
    seen: dict[str, Any] = {}
    model = by_model(number)
    if model is not None and item(number)["attr.hat"] is None:
        seen = {"attr.hat": "no", "attr.hat.confidence": 0.75, "attr.hat.origin": MODEL}
    if by_person(number) is not None:
        seen = {"attr.hat": "yes", "attr.hat.origin": "person"}
    if model is not None and model["attr.upper_color"]:
        seen["attr.upper_color"] = sorted(model["attr.upper_color"])
        seen |= {"attr.upper_color.confidence": 0.5, "attr.upper_color.origin": MODEL}
    return seen


def _bytes(name: str) -> list[int]:
    """Four numbers from -128 to 127."""
    return [byte - 128 for byte in hashlib.sha256(name.encode()).digest()[:4]]


def stored(numbers: Sequence[int], *, metric: str, dtype: str) -> NDArray[np.float32]:
    """What a gallery keeps of those rows: (n, 4), of length 1 for cosine."""
    rows = np.array([vector(number) for number in numbers], np.float64)
    if metric == "cosine":
        rows /= np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return rows.astype(dtype).astype(np.float32)


def item(number: int) -> dict[str, Any]:
    """What is known of a row."""
    known = {
        "source": f"{number % 50:02d}.png",
        "camera": number // PEOPLE % 3 + 1,
        "start": datetime(2024, 5, 1, 12, tzinfo=UTC) + timedelta(seconds=number // 10),
        "attr.hat": ("yes", "no", None)[number % 3],
        "age": number % 5 * 10,
    }
    if number < LABELLED:
        known["person"] = f"p{number % PEOPLE}"
    return known
