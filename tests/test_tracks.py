"""Which rows are of one track: the same as going through them one by one."""

import posixpath
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_index.store.items import STANDARD
from reid_index.store.tracks import COLUMNS, roots_by_row, tracks_of

SOURCES = ["a/1.png", "a/2.png", "a//3.png", "b/a/1.png", "1.png", "/1.png", "//1.png", "/", "//"]
SOURCES += ["", "a/", "a\nb/c\nd.png", "/a/ü/1.png", "/a/ü//", "./1.png", "/\n"]
ROW = st.fixed_dictionaries(
    {
        "video": st.sampled_from([None, "", "a", "b.mp4"]),
        "source": st.sampled_from([None, *SOURCES]),
        "camera": st.sampled_from([None, -1, 0, 1, 2**31 - 1]),
        "track": st.sampled_from([None, "", "1", "2"]),
        "person": st.sampled_from([None, "", "p"]),
    }
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table(
        {name: pa.array([row[name] for row in rows], STANDARD[name]) for name in COLUMNS}
    )


def one_by_one(rows: list[dict[str, Any]]) -> list[int]:
    seen: dict[object, int] = {}
    codes = []
    for number, row in enumerate(rows):
        folder = posixpath.dirname(row["source"] or "")
        place = (False, folder) if row["video"] is None else (True, row["video"])
        key = (place, row["camera"], row["track"], row["person"])
        codes.append(seen.setdefault(number if row["track"] is None else key, len(seen)))
    return codes


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, max_size=40))
def test_it_is_what_going_through_the_rows_gives(rows: list[dict[str, Any]]) -> None:
    assert tracks_of(table(rows)).tolist() == one_by_one(rows)


def test_chunks_of_a_table_are_one_table() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "video": [None, "a", "b"][rng.integers(3)],
            "source": SOURCES[rng.integers(len(SOURCES))],
            "camera": int(rng.integers(3)),
            "track": [None, "1", "2"][rng.integers(3)],
            "person": [None, "p"][rng.integers(2)],
        }
        for _ in range(100)
    ]
    parts = pa.concat_tables([table(rows[:30]), table(rows[30:30]), table(rows[30:])])
    assert tracks_of(parts).tolist() == one_by_one(rows)


def test_many_different_values_do_not_run_into_each_other() -> None:
    """The numbers of all columns multiplied are beyond 64 bits."""
    count = 100_000
    columns = {
        "video": pa.array([f"v{i}" for i in range(count)]),
        "source": pa.nulls(count, pa.string()),
        "camera": pa.array(np.arange(count), pa.int32()),
        "track": pa.array([f"t{i}" for i in range(count)]),
        "person": pa.array([f"p{i}" for i in range(count)]),
    }
    twice = pa.concat_tables([pa.table(columns)] * 2)
    assert tracks_of(twice).tolist() == [*range(count), *range(count)]


def test_paths_below_different_roots_are_different() -> None:
    """And one path is one place, wherever its root ends."""
    rows: list[dict[str, Any]] = [
        {"video": video, "source": source, "camera": None, "track": track, "person": None}
        for video, source, track in [
            ("c1/a.mp4", "c1/a.mp4", "1"),
            (None, "b/1.png", "1"),
            (None, "b/2.png", None),
            ("c1/a.mp4", "c1/a.mp4", "1"),
            (None, "b/1.png", "1"),
            ("a.mp4", "a.mp4", "1"),
            ("c1/a.mp4", "c1/a.mp4", "1"),
            (None, "1.png", "1"),
        ]
    ]
    roots = roots_by_row(["/d1", "/d2", "/d1/c1", "/d1", "/d2/b"], [3, 2, 1, 1, 1])
    assert roots.to_pylist() == ["/d1"] * 3 + ["/d2"] * 2 + ["/d1/c1", "/d1", "/d2/b"]
    assert tracks_of(table(rows), roots).tolist() == [0, 1, 2, 3, 4, 0, 0, 4]
    assert tracks_of(table(rows)).tolist() == [0, 1, 2, 0, 1, 3, 0, 4]
    one = roots_by_row(["/d", "/d"], [3, 5])
    assert tracks_of(table(rows), one).tolist() == tracks_of(table(rows)).tolist()
