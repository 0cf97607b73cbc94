"""Adding: what it writes, what it does not look at, and adding the same only once."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, ROWS, contents, ids
from test_gallery import write_part

from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Metric,
    verify_gallery,
    write_shard,
)
from reid_index.errors import (
    BadItems,
    BadShard,
    ExtractorMismatch,
    NotFiniteError,
    UsageError,
)
from reid_index.store import writer
from reid_index.store.manifest import Event

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]
GOLDEN = Path(__file__).parent / "data" / "format_v1"


def garble(folder: Path) -> None:
    """As many bytes as before, in every file of a shard, and none of them right."""
    for path in folder.iterdir():
        path.write_bytes(b"?" * path.stat().st_size)


def test_it_writes_a_shard_and_looks_at_none_but_the_last(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    for camera in (1, 2):
        gallery.add(ROWS, [{"camera": camera, "age": 30}] * 3)
    before = contents(gallery.path)
    gallery.add(ROWS[:1], [{"camera": 3}])
    after = contents(gallery.path)
    assert {name for name in after if after[name] != before.get(name)} == {
        "CURRENT",
        "manifest-000003.json",
        "shards/000003/vectors.h5",
        "shards/000003/items.parquet",
        "shards/000003/shard.json",
    }
    assert before.keys() <= after.keys()
    garble(gallery.path / "shards/000001")
    garble(gallery.path / "shards/000002")
    gallery.add(ROWS[:2], [{"age": 1}, {"age": 2}])
    assert gallery.manifest.rows == 9
    with pytest.raises(BadItems, match=r"'age' holds string, that of .* int64: a column can have"):
        gallery.add(ROWS[:1], [{"age": "old"}])


def test_what_the_manifest_then_says(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    standard = gallery.manifest.columns
    assert standard == {}
    gallery.add(ROWS, [{"age": 3}] * 3, key="monday")
    gallery.add(ROWS, [{"item": 9}, {"item": 5}, {"item": 7}])
    gallery.add(ROWS[:2], [{"attr.hat": "red", "tags": ["a"]}] * 2)
    shown = Gallery.open(gallery.path).manifest
    assert [shard.first_item for shard in shown.shards] == [0, None, 10]
    assert shown.next_item == 12
    assert shown.keys == (hashlib.sha256(b"monday").hexdigest(),)
    assert shown.columns is not None
    assert {name: shown.columns[name] for name in ("item", "age", "attr.hat", "tags")} == {
        "item": "int64",
        "age": "int64",
        "attr.hat": "dictionary<values=string, indices=int32, ordered=0>",
        "tags": "list<item: string>",  # whatever this Arrow calls what it holds
    }
    assert [past.event for past in gallery.history()] == [
        Event(what="create"),
        Event(what="add", rows=3),
        Event(what="add", rows=3),
        Event(what="add", rows=2),
    ]
    times = [past.created for past in gallery.history()]
    assert times == sorted(times)
    assert verify_gallery(gallery) == []


def test_the_same_key_adds_once(make_gallery: MakeGallery, tmp_path: Path) -> None:
    gallery = make_gallery()
    late = Gallery.open(gallery.path)
    assert not gallery.has_added("monday")
    assert gallery.add(ROWS, key="monday") is True
    assert gallery.has_added("monday")
    before = contents(gallery.path)
    assert gallery.add(ROWS[:1], key="monday") is False
    assert contents(gallery.path) == before
    # Whoever opened the gallery before is told the same, and then sees what was added.
    assert len(late) == 0
    assert late.has_added("monday")
    assert late.add(ROWS, key="monday") is False
    assert ids(late) == [0, 1, 2]
    part = write_part(tmp_path / "part", ROWS[:2], pa.table({"camera": [1, 2]}))
    assert gallery.add_shards([part], key="monday") is False
    assert gallery.add_shards([part], key="tuesday") is True
    assert gallery.add_shards([part], key="tuesday") is False
    # An addition without a key is never one that was there before.
    assert gallery.add(ROWS[:1]) is True
    assert gallery.add(ROWS[:1]) is True
    gallery.delete(where="item >= 0")
    assert gallery.has_added("monday")
    assert gallery.add(ROWS, key="monday") is False
    gallery.compact()
    assert [gallery.has_added(key) for key in ("monday", "tuesday", "mon")] == [True, True, False]
    assert gallery.add_shards([part], key="tuesday") is False
    assert len(gallery) == 0


def test_what_was_not_added_may_be_tried_again(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    with pytest.raises(NotFiniteError):
        gallery.add(ROWS * np.nan, key="monday")
    assert gallery.add(np.empty((0, 3)), key="monday") is False
    assert not gallery.has_added("monday")
    assert gallery.manifest.generation == 0
    assert gallery.add(ROWS, key="monday") is True
    assert ids(gallery) == [0, 1, 2]


def test_what_the_first_shard_holds_all_must(make_gallery: MakeGallery, tmp_path: Path) -> None:
    def write(name: str, **widths: int) -> Path:
        arrays: dict[str, Any] = {"global": ROWS[:1]}
        if widths:
            arrays["parts"] = np.ones((1, 2, widths["parts"]), np.float32)
        write_shard(
            tmp_path / name,
            arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
            items=[pa.table({"camera": pa.array([1], pa.int32())})],
            fingerprint=FINGERPRINT,
            metric=Metric.COSINE,
        )
        return tmp_path / name

    gallery = make_gallery()
    gallery.add_shards([write("five", parts=5)])
    before = contents(gallery.path)
    for name, widths in (("none", {}), ("four", {"parts": 4})):
        with pytest.raises(BadShard, match="all must have the same"):
            gallery.add_shards([write(name, **widths)])
    assert contents(gallery.path) == before
    gallery.add_shards([write("again", parts=5)])
    assert len(gallery) == 2


def test_a_gallery_of_an_old_format_is_added_to_and_deleted_from(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    there, next_item = ids(gallery), gallery.manifest.next_item
    assert gallery.manifest.columns is None
    with pytest.raises(BadItems, match=r"'age' holds string, that of .* int64"):
        gallery.add(gallery.vectors([0]), [{"age": "old"}])
    assert gallery.delete(items=there[-1:]) == 1
    gallery.add(gallery.vectors([0]), [{"source": "new"}])
    assert ids(gallery) == [*there[:-1], next_item]
    assert gallery.items["source"].to_pylist()[-1] == "new"
    told = json.loads((gallery.path / gallery.manifest.file_name).read_bytes())
    assert (told["format"], told["requires"]) == ([1, 6], ["deletions"])
    assert told["columns"]["age"] == "int64"
    assert [shard["first_item"] for shard in told["shards"]] == [None, None, next_item]
    before = gallery.items.to_pylist()
    gallery.compact()
    assert gallery.items.to_pylist() == before
    assert [past.event.what for past in gallery.history()] == [
        *["unknown"] * 3,
        "delete",
        "add",
        "compact",
    ]
    assert verify_gallery(gallery) == []


def test_a_key_is_kept_as_a_digest_whatever_becomes_of_the_history(
    make_gallery: MakeGallery,
) -> None:
    """It may name somebody, and it outlives erasure, a rebuild and damage to former manifests."""
    gallery = make_gallery()
    gallery.add(ROWS, key="ann's holiday")
    gallery.add(ROWS, key="second")
    gallery.delete(items=[0])
    for change in (lambda: None, gallery.compact, lambda: rebuilt(gallery)):
        change()
        assert b"holiday" not in b"".join(contents(gallery.path).values())
        again = np.ones((1, gallery.dim))
        assert [gallery.add(again, key=key) for key in ("ann's holiday", "second")] == [False] * 2
    gallery.add(again, key="third")
    damaged = gallery.path / f"manifest-{gallery.manifest.generation - 1:06d}.json"
    damaged.write_bytes(b"?" * damaged.stat().st_size)
    for key in ("ann's holiday", "second", "third"):
        assert gallery.add(again, key=key) is False
    assert gallery.add(again, key="fourth") is True
    assert len(gallery) == 5 + 1 + 1


OTHER = Fingerprint(name="external:other", version="1")


def rebuilt(gallery: Gallery, *, dim: int = 2) -> None:
    """The same items, by another extractor."""
    part = write_part(
        gallery.path.parent / "other",
        np.ones((len(gallery), dim), np.float32),
        pa.table({"item": gallery.items["item"]}),
        fingerprint=OTHER,
    )
    gallery.rebuild([part], recipe={})


@pytest.mark.parametrize("key", ["", "k" * 201, "half \ud83d", 3, b"monday"])
def test_what_is_no_key(make_gallery: MakeGallery, key: Any) -> None:
    gallery = make_gallery()
    before = contents(gallery.path)
    with pytest.raises(UsageError, match="a key is text of 1 to 200 characters"):
        gallery.add(ROWS, key=key)
    with pytest.raises(UsageError, match="a key is text of 1 to 200 characters"):
        gallery.has_added(key)
    assert contents(gallery.path) == before
    assert gallery.add(ROWS, key="k" * 200) is True


# Beside other writers


def test_what_another_adds_before_the_lock_is_not_lost(
    make_gallery: MakeGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next generation is made from what is there once the lock is held."""
    gallery = make_gallery()
    other = Gallery.open(gallery.path)
    lock = writer.writer_lock

    @contextmanager
    def slow(path: Path) -> Iterator[None]:
        monkeypatch.setattr(writer, "writer_lock", lock)
        other.add(2 * ROWS[:2], [{"camera": 7}] * 2)
        with lock(path):
            yield

    monkeypatch.setattr(writer, "writer_lock", slow)
    gallery.add(ROWS, [{"camera": 8}] * 3)
    for seen in (gallery, Gallery.open(gallery.path)):
        assert ids(seen) == [0, 1, 2, 3, 4]
        assert seen.items["camera"].to_pylist() == [7, 7, 8, 8, 8]
    assert [past.event.what for past in gallery.history()] == ["create", "add", "add"]


@pytest.mark.parametrize("dim", [3, 2])
def test_vectors_for_the_extractor_of_before_are_refused(
    make_gallery: MakeGallery, tmp_path: Path, dim: int
) -> None:
    """Whoever opened the gallery before it was rebuilt has vectors that mean something else now."""
    gallery = make_gallery()
    gallery.add(ROWS)
    part = write_part(tmp_path / "part", ROWS, pa.table({"camera": [1, 2, 3]}))
    before = Gallery.open(gallery.path)
    rebuilt(gallery, dim=dim)
    there = contents(gallery.path)
    for add in (lambda: before.add(ROWS), lambda: before.add_shards([part])):
        with pytest.raises(ExtractorMismatch, match="was rebuilt with another extractor since"):
            add()
    assert contents(gallery.path) == there
    assert before.refresh()
    assert before.add(np.ones((1, dim)))
    assert len(before) == 4


def test_no_id_is_given_beyond_the_last(make_gallery: MakeGallery) -> None:
    """One near the end of what 64 bits hold leaves no room for those that follow."""
    gallery = make_gallery()
    gallery.add(ROWS[:1], [{"item": 2**62 - 1}])
    before = contents(gallery.path)
    with pytest.raises(BadItems, match=f"no ids left below {2**62}"):
        gallery.add(ROWS[1:])
    with pytest.raises(BadItems, match=f"beyond {2**62 - 1}"):
        gallery.add(ROWS[1:2], [{"item": 2**62}])
    assert contents(gallery.path) == before
    with Gallery.open(gallery.path) as seen:
        assert (ids(seen), seen.manifest.next_item) == ([2**62 - 1], 2**62)
        assert [match.item for match in seen.search(ROWS[0]).matches] == [2**62 - 1]
