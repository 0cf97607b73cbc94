"""Which rows are deleted: counting rows both ways, bitmaps, and damage to them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROWS, ids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid_index import Gallery, verify_gallery
from reid_index.errors import CorruptGallery
from reid_index.store.deletions import Live, pack, read_deleted, read_live, unpack

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]


SHARDS = st.lists(
    st.one_of(
        st.integers(0, 9),  # nothing of so many rows is deleted
        st.lists(st.booleans(), max_size=20),
    ),
    max_size=5,
)


def live_of(shards: list[int | list[bool]]) -> Live:
    sizes = [shard if isinstance(shard, int) else len(shard) for shard in shards]
    deleted = [None if isinstance(shard, int) else np.array(shard, np.bool_) for shard in shards]
    return Live(sizes, deleted)


def everything(shards: list[int | list[bool]]) -> list[bool]:
    """For each stored row whether it is deleted."""
    return [
        gone for shard in shards for gone in ([False] * shard if isinstance(shard, int) else shard)
    ]


def test_two_ways_to_count_rows() -> None:
    live = live_of([3, [True, False, True], 0, [False], [True, True], 1])
    assert (live.stored, live.count) == (10, 6)
    assert live.mask is not None
    assert np.flatnonzero(live.mask).tolist() == [0, 1, 2, 4, 6, 9]
    assert live.stored_of(np.array([5, 3, 3])).tolist() == [9, 4, 4]
    assert live.rows_of(np.array([9, 4, 0])).tolist() == [5, 3, 0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHARDS, st.randoms(use_true_random=False))
def test_rows_are_those_of_a_list_without_the_deleted(shards, random) -> None:
    gone = everything(shards)
    kept = [row for row, deleted in enumerate(gone) if not deleted]
    live = live_of(shards)
    assert (live.stored, live.count) == (len(gone), len(kept))
    assert (live.mask is None) == (len(kept) == len(gone))
    if live.mask is not None:
        assert live.mask.tolist() == [not deleted for deleted in gone]
    rows = np.array([random.randrange(len(kept)) for _ in range(9 * bool(kept))], np.int64)
    stored = live.stored_of(rows)
    assert stored.tolist() == [kept[row] for row in rows]
    assert live.rows_of(stored).tolist() == rows.tolist()
    asked = np.array([random.random() < 0.5 for _ in gone], np.bool_)
    among = live.among(asked)
    assert among is not None
    assert among.tolist() == [asked[row] for row in kept]
    assert live.among(None) is None
    assert live.among(live.mask) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_bitmap_comes_back_as_it_was(deleted: list[bool]) -> None:
    bitmap = pack(np.array(deleted))
    assert len(bitmap) == (len(deleted) + 7) // 8
    number = int.from_bytes(bitmap, "little")
    assert [number >> row & 1 == 1 for row in range(len(deleted))] == deleted
    assert number >> len(deleted) == 0
    assert unpack(bitmap, len(deleted)).tolist() == deleted


@pytest.mark.parametrize(
    ("bitmap", "rows", "words"),
    [
        (b"\x01", 0, "1 bytes, which are not those of 0 rows"),
        (b"\x01\x00", 8, "2 bytes, which are not those of 8 rows"),
        (b"\x01", 9, "1 bytes, which are not those of 9 rows"),
        (b"", 1, "0 bytes"),
        (b"\x80", 7, "rows beyond the last of 7"),
        (b"\xff\x02", 9, "rows beyond the last of 9"),
    ],
)
def test_bitmaps_of_other_shards_are_refused(bitmap: bytes, rows: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unpack(bitmap, rows)


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    """Two shards of three rows; of the first, the second row is deleted."""
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.add(ROWS)
    gallery.delete(items=[1])
    return gallery


def bitmap_of(gallery: Gallery) -> Path:
    deleted = gallery.manifest.shards[0].deleted
    assert deleted is not None
    return gallery.path / deleted.file


def test_what_is_kept_of_a_deletion(gallery: Gallery) -> None:
    path = bitmap_of(gallery)
    assert str(path.relative_to(gallery.path)) == "deleted/000003-000000.bits"
    assert path.read_bytes() == b"\x02"
    first, second = gallery.manifest.shards
    found = read_deleted(gallery.path, first)
    assert found is not None
    assert found.tolist() == [False, True, False]
    assert read_deleted(gallery.path, second) is None
    live = read_live(gallery.path, gallery.manifest)
    assert (live.stored, live.count) == (6, 5)


def spoilt(whole: bytes) -> list[bytes]:
    flips = [bytes([whole[0] ^ (1 << bit)]) for bit in range(8)]
    others = [b"\x01", b"\x04"]  # as many rows
    return [*flips, *others, b"", whole + b"\x00", whole + whole]


@pytest.mark.parametrize("number", range(13))
def test_no_damage_to_a_bitmap_is_believed(gallery: Gallery, number: int) -> None:
    path = bitmap_of(gallery)
    content = spoilt(path.read_bytes())[number]
    path.write_bytes(content)
    with pytest.raises(CorruptGallery, match=r"000003-000000\.bits.*restore it"):
        ids(Gallery.open(gallery.path))
    with pytest.raises(CorruptGallery, match=r"000003-000000\.bits.*restore it"):
        gallery.search(ROWS[0])  # opened before the damage, read after it
    before = sorted(gallery.path.rglob("*"))
    with pytest.raises(CorruptGallery):
        gallery.delete(items=[0])
    with pytest.raises(CorruptGallery):
        gallery.compact()
    assert sorted(gallery.path.rglob("*")) == before
    assert any("000003-000000.bits" in line for line in verify_gallery(gallery))


def test_a_bitmap_that_is_gone(gallery: Gallery) -> None:
    bitmap_of(gallery).unlink()
    with pytest.raises(CorruptGallery, match=r"000003-000000\.bits: cannot be read: No such file"):
        gallery.search(ROWS[0])
    with pytest.raises(CorruptGallery, match=r"000003-000000\.bits is gone"):
        Gallery.open(gallery.path)


def test_a_bitmap_of_another_count_than_the_manifest_says(gallery: Gallery) -> None:
    """Its bytes have the right checksum: only the count can tell."""
    shard = gallery.manifest.shards[0]
    assert shard.deleted is not None
    entry = replace(shard, deleted=replace(shard.deleted, rows=2))
    with pytest.raises(CorruptGallery, match="deletes 1 rows, the manifest says 2"):
        read_deleted(gallery.path, entry)
