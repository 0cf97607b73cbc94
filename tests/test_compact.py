"""Compaction: nothing of the deleted is left, nothing of the others is changed."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FINGERPRINT, ROWS, contents, ids
from numpy.typing import NDArray

from reid_index import (
    ArrayStream,
    Gallery,
    Metric,
    Reranking,
    open_shard,
    verify_gallery,
    write_shard,
)
from reid_index.errors import CorruptGallery, GalleryLocked, UsageError
from reid_index.evaluation.calibration import calibrate, write_calibration
from reid_index.store.commit import writer_lock
from reid_index.store.lease import Held

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]
SMALL = Reranking(k1=5, k2=3)


def bytes_below(gallery: Gallery) -> bytes:
    return b"\0".join(contents(gallery.path).values())


# Bytes


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_and_parts_stay_bit_for_bit(
    make_gallery: MakeGallery, tmp_path: Path, rng: np.random.Generator, metric: Metric, dtype: str
) -> None:
    """More rows than are handled at a time; normalising them again would change last bits."""
    gallery = make_gallery(dim=3, metric=metric, dtype=dtype)
    deleted = np.zeros(10_000, np.bool_)
    deleted[[0, 1, 4095, 4096, 9998, 9999]] = True
    deleted[rng.integers(0, 10_000, 2000)] = True
    for number, rows in enumerate((9000, 1000)):
        arrays = {
            "global": rng.normal(size=(rows, 3)).astype(np.float32),
            "parts": rng.normal(size=(rows, 2, 5)).astype(np.float32),
            "visible": rng.integers(0, 2, (rows, 2)).astype(np.uint8),
        }
        folder = tmp_path / f"{number}"
        write_shard(
            folder,
            arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
            items=[pa.table({"camera": pa.array([number] * rows, pa.int32())})],
            fingerprint=FINGERPRINT,
            metric=metric,
            dtype=dtype,
        )
        gallery.add_shards([folder])
    before = arrays_of(gallery)
    gallery.delete(items=np.flatnonzero(deleted).tolist())
    done = gallery.compact()
    assert (done.rows, done.removed) == (10_000 - deleted.sum(), deleted.sum())
    assert (done.shards_before, done.shards_after) == (2, 1)
    after = arrays_of(gallery)
    assert set(after) == {"global", "parts", "visible"}
    for name, array in after.items():
        assert array.dtype == before[name].dtype
        assert array.tobytes() == before[name][~deleted].tobytes()
    assert ids(gallery) == np.flatnonzero(~deleted).tolist()
    headers = [shard.header for shard in gallery._generation.shards]
    assert headers[0].max_norm == np.linalg.norm(after["global"].astype(np.float64), axis=1).max()
    assert verify_gallery(gallery) == []


def arrays_of(gallery: Gallery) -> dict[str, NDArray[Any]]:
    shards = [open_shard(gallery.path / folder).arrays for folder in gallery.manifest.folders]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


KNOWN = ("path", "person", "track", "hat", "note", "tag")


def test_nothing_of_the_deleted_is_left_in_any_byte(
    make_gallery: MakeGallery, rng: np.random.Generator
) -> None:
    """Dictionaries, statistics, lists, former manifests and bitmaps among them."""
    gallery = make_gallery(dim=16)
    hidden = rng.normal(size=(1, 16)).astype(np.float32)
    hidden /= np.linalg.norm(hidden)

    def item(known: tuple[str, ...]) -> dict[str, Any]:
        names = ("source", "person", "track", "attr.hat", "note")
        return {**dict(zip(names, known, strict=False)), "tags": [known[-1], "all"]}

    plain, secret = (tuple(f"{kind}-{name}" for name in KNOWN) for kind in ("plain", "secret"))
    gallery.add(rng.normal(size=(50, 16)), [item(plain)] * 50)
    gallery.add(
        np.concatenate([rng.normal(size=(2, 16)), hidden]),
        [item(plain), item(plain), item(secret)],
    )
    gallery.add(rng.normal(size=(60, 16)), [item(plain)] * 60)
    row = gallery.vectors([52]).tobytes()
    before = bytes_below(gallery)
    assert row in before
    gallery.delete(where="attr.hat = 'secret-hat'")
    assert b"secret" in bytes_below(gallery)
    done = gallery.compact()
    assert (done.removed, done.pending) == (1, ())
    after = bytes_below(gallery)
    assert row not in after
    for path in gallery.path.rglob("*.parquet"):
        with pq.ParquetFile(path) as file:
            after += repr(file.read().to_pydict()).encode() + repr(file.metadata).encode()
            after += pq.read_table(path, read_dictionary=["person", "note"]).to_string().encode()
            for column in range(file.metadata.num_columns):
                after += repr(file.metadata.row_group(0).column(column).statistics).encode()
    assert b"plain-hat" in after
    assert b"secret" not in after
    [hats] = [
        shard.items["attr.hat"].combine_chunks().dictionary.to_pylist()
        for shard in gallery._generation.shards
    ]
    assert hats == ["plain-hat"]
    assert {path.name for path in gallery.path.iterdir()} == {
        "CURRENT",
        "lock",
        gallery.manifest.file_name,
        "shards",
        "deleted",
    }
    assert list((gallery.path / "deleted").iterdir()) == []
    assert len(list((gallery.path / "shards").iterdir())) == 1


def test_columns_that_only_some_shards_have(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS[:1], [{"attr.hat": "red", "age": 3, "box": [1, 2, 3, 4]}])
    gallery.add(ROWS[1:2], [{"tags": ["a", "b"], "attr.hat": "blue"}])
    gallery.add(ROWS, [{"start": "2024-05-01T12:00:00Z"}, {"start": None}, {"start": None}])
    gallery.delete(items=[4])
    kept = gallery.items
    gallery.compact()
    assert gallery.items.schema == kept.schema
    assert gallery.items.to_pylist() == kept.to_pylist()
    assert len(gallery.manifest.shards) == 1
    assert gallery.items["box"].to_pylist() == [[1, 2, 3, 4], None, None, None]
    # A column all of whose values are gone has its type for ever, as those who filter expect.
    gallery.delete(items=[0])
    gallery.compact()
    with pytest.raises(ValueError, match=r"'age' holds string, that of .* int64"):
        gallery.add(ROWS[:1], [{"age": "old"}])
    assert verify_gallery(gallery) == []


def test_rows_of_several_roots_keep_theirs(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(metric="inner_product")
    for number, root in enumerate(["/a", "/b", "/a", "", "/b"]):
        gallery.add(ROWS * (number + 1), root=root)
    gallery.delete(items=[0, 7, 9, 10, 11])
    before = {item: place(gallery, item) for item in ids(gallery)}
    done = gallery.compact()
    assert {item: place(gallery, item) for item in ids(gallery)} == before
    # Of /b nothing is deleted, and its first shard is as large as its second.
    assert gallery.roots == ("/b", "/b", "/a")
    assert (done.shards_before, done.shards_after) == (5, 3)
    assert gallery.manifest.stored == len(gallery) == 10
    assert verify_gallery(gallery) == []
    again = contents(gallery.path)
    assert gallery.compact().removed == 0
    assert contents(gallery.path) == again


def place(gallery: Gallery, item: int) -> tuple[str, list[float]]:
    row = gallery.row_of(item)
    return gallery.root_of(row), gallery.vectors([row])[0].tolist()


# What is written again, and what is not


def test_nothing_to_do(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    for _ in range(2):  # empty, then one shard
        before = contents(gallery.path)
        done = gallery.compact()
        assert (done.removed, done.freed_bytes, done.pending) == (0, 0, ())
        assert done.shards_before == done.shards_after
        assert contents(gallery.path) == before
        gallery.add(ROWS)


@pytest.mark.parametrize(
    ("sizes", "deleted", "left"),
    [
        ((20, 10, 10), [], (20, 10, 10)),  # each as large as all that follow
        ((21, 10, 9, 2), [], (21, 21)),
        ((20, 9, 10), [], (20, 19)),
        ((20, 11, 10), [], (41,)),
        ((1, 2, 4), [], (7,)),
        ((20, 10, 10), [25], (20, 19)),
        ((20, 10, 10), [35], (20, 10, 9)),
        ((20, 10, 10), [5], (39,)),
        ((20, 10, 10), list(range(20, 40)), (20,)),
        ((20, 10, 11), [38], (20, 10, 10)),  # counted without the deleted
        ((3, 3), list(range(6)), ()),
    ],
)
def test_large_shards_are_kept(
    make_gallery: MakeGallery, sizes: tuple[int, ...], deleted: list[int], left: tuple[int, ...]
) -> None:
    gallery = make_gallery(metric="inner_product")
    for size in sizes:
        gallery.add(np.full((size, 3), size, np.float32))
    vectors = gallery.vectors(range(sum(sizes)))
    gallery.delete(items=deleted)
    before = {entry.folder: contents(gallery.path / entry.folder) for entry in shards_of(gallery)}
    seen: list[int] = []
    done = gallery.compact(progress=seen.append)
    after = shards_of(gallery)
    assert tuple(entry.rows for entry in after) == left
    assert (done.shards_before, done.shards_after, done.removed) == (
        len(sizes),
        len(left),
        len(deleted),
    )
    kept = [entry for entry in after if entry.folder in before]
    assert all(contents(gallery.path / e.folder) == before[e.folder] for e in kept)
    assert sum(seen) == sum(entry.rows for entry in after if entry not in kept)
    there = [item for item in range(sum(sizes)) if item not in deleted]
    assert ids(gallery) == there
    assert gallery.vectors(range(len(there))).tolist() == vectors[there].tolist()
    assert {path.name for path in (gallery.path / "shards").iterdir()} == {
        Path(entry.folder).name for entry in after
    }
    assert gallery.compact().removed == 0
    assert shards_of(gallery) == after
    assert verify_gallery(gallery) == []


def shards_of(gallery: Gallery) -> tuple[Any, ...]:
    return gallery.manifest.shards


def test_an_empty_gallery_goes_on(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS, [{"camera": 1}] * 3)
    gallery.delete(where="camera = 1")
    assert (len(gallery), gallery.search(ROWS[0]).matches) == (0, ())
    size = sum(map(len, contents(gallery.path).values()))
    done = gallery.compact()
    assert (done.rows, done.removed, done.shards_after) == (0, 3, 0)
    assert done.freed_bytes == size - sum(map(len, contents(gallery.path).values())) > 0
    for seen in (gallery, Gallery.open(gallery.path)):
        assert (len(seen), seen.items.num_rows, seen.search(ROWS[0]).matches) == (0, 0, ())
    gallery.add(ROWS[:1], [{"camera": 2}])
    assert ids(gallery) == [3]
    assert verify_gallery(gallery) == []


def test_history_is_told_after_compaction(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS, key="monday")
    gallery.delete(items=[1])
    gallery.add(ROWS[:2])
    gallery.compact()
    gallery.add(ROWS[:1], key="tuesday")
    gallery.delete(items=[0, 3])
    before = gallery.history()
    gallery.compact()
    told = gallery.history()
    assert told[:-1] == before
    assert [(past.generation, past.event.what, past.event.rows, past.rows) for past in told] == [
        (0, "create", 0, 0),
        (1, "add", 3, 3),
        (2, "delete", 1, 2),
        (3, "add", 2, 4),
        (4, "compact", 1, 4),
        (5, "add", 1, 5),
        (6, "delete", 2, 3),
        (7, "compact", 2, 3),
    ]
    assert Gallery.open(gallery.path).history() == told
    assert [gallery.has_added(key) for key in ("monday", "tuesday", "sunday")] == [
        True,
        True,
        False,
    ]
    assert not gallery.add(ROWS, key="monday")
    manifests = [path.name for path in gallery.path.glob("manifest-*")]
    assert manifests == ["manifest-000007.json"]


def test_who_cannot_compact_changes_nothing(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.delete(items=[1])
    before = contents(gallery.path)
    with writer_lock(gallery.path), pytest.raises(GalleryLocked):
        gallery.compact()
    assert contents(gallery.path) == before
    path = gallery.path / "shards/000001/items.parquet"
    path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])
    before = contents(gallery.path)
    with pytest.raises((CorruptGallery, ValueError), match=r"items\.parquet: its bytes have"):
        gallery.compact()
    assert contents(gallery.path) == before


def test_another_writer_that_comes_between_fails_nothing(
    make_gallery: MakeGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.delete(items=[1])
    other = Gallery.open(gallery.path)
    lock = ExitStack()

    def come(*_: Any, **__: Any) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        lock.enter_context(writer_lock(gallery.path))
        return (), ()

    monkeypatch.setattr("reid_index.upkeep.compact.remake_all", come)
    with lock:
        done = gallery.compact()
    assert (done.removed, done.pending) == (1, (Held(2, (os.getpid(),)),))
    assert (ids(gallery), ids(other)) == ([0, 2], [0, 2])


def test_vectors_that_changed_are_not_passed_on(make_gallery: MakeGallery) -> None:
    """A compaction gives its shards new checksums: damage would be taken for what was meant."""
    gallery = make_gallery(dim=64)
    gallery.add(np.random.default_rng(1).normal(size=(40, 64)))
    gallery.delete(items=[39])
    path = gallery.path / "shards/000001/vectors.h5"
    with h5py.File(path) as file:
        offset = file["global"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 1] ^= 1
    path.write_bytes(content)
    before = contents(gallery.path)
    with pytest.raises(ValueError, match=r"vectors\.h5: its bytes have changed"):
        gallery.compact()
    assert contents(gallery.path) == before


# What is attached


@pytest.fixture
def furnished(make_gallery: MakeGallery, rng: np.random.Generator) -> Gallery:
    """30 people, four rows each, in two shards, with a graph and a calibration."""
    gallery = make_gallery(dim=8)
    person = np.repeat(np.arange(30), 4)
    vectors = rng.normal(size=(30, 8))[person] + 0.3 * rng.normal(size=(120, 8))
    for rows in (slice(0, 60), slice(60, 120)):
        gallery.add(vectors[rows], [{"person": f"p{code}"} for code in person[rows]])
    gallery.build_graph(SMALL)
    write_calibration(gallery, calibrate(gallery, false_match_rate=0.05))
    return gallery


def test_what_is_attached_is_made_again(furnished: Gallery) -> None:
    furnished.delete(where="person = 'p7'")
    assert (furnished.is_stale("graph"), furnished.is_stale("calibration")) == (True, True)
    done = furnished.compact()
    assert (done.remade, done.dropped) == (("graph", "calibration"), ())
    assert not furnished.is_stale("graph")
    assert not furnished.is_stale("calibration")
    graph = furnished.graph
    assert graph is not None
    assert graph.fits(SMALL)
    assert len(graph.near.index) == 116
    fresh = calibrate(furnished, false_match_rate=0.05)
    folder = furnished.attached("calibration")
    assert folder is not None
    assert fresh.positives == 29 * 6
    assert len(list((furnished.path / "attached").iterdir())) == 2
    told = [(past.event.what, past.event.kind) for past in furnished.history()[-3:]]
    assert told == [("compact", None), ("attach", "graph"), ("attach", "calibration")]
    assert verify_gallery(furnished) == []


def test_what_is_attached_may_be_left_out(furnished: Gallery) -> None:
    furnished.delete(items=[0])
    done = furnished.compact(remake=False)
    why = "it was not to be made again"
    assert (done.remade, done.dropped) == ((), (("graph", why), ("calibration", why)))
    assert furnished.manifest.attached == ()
    assert furnished.graph is None
    assert list((furnished.path / "attached").iterdir()) == []


def test_what_cannot_be_made_again_is_told(furnished: Gallery) -> None:
    furnished.delete(where="item > 4")
    done = furnished.compact()
    assert done.remade == ()
    assert [kind for kind, _ in done.dropped] == ["graph", "calibration"]
    assert all(why and "\n" not in why for _, why in done.dropped)
    assert furnished.manifest.attached == ()


def test_what_is_of_kept_shards_stays(make_gallery: MakeGallery, rng: np.random.Generator) -> None:
    """What was made from the first shard only is of rows that are all still there."""
    gallery = make_gallery()
    gallery.add(rng.normal(size=(40, 3)))
    gallery.build_graph(SMALL)
    folder = gallery.attached("graph")
    assert folder is not None
    before = contents(folder)
    gallery.add(rng.normal(size=(10, 3)))
    gallery.add(rng.normal(size=(11, 3)))
    done = gallery.compact(remake=False)
    assert (done.shards_after, gallery.attached("graph")) == (2, folder)
    assert contents(folder) == before
    assert gallery.is_stale("graph")
    assert gallery.compact().remade == ("graph",)
    assert not folder.exists()
    assert not gallery.is_stale("graph")
    # Nothing is stale, and nothing is made again.
    assert gallery.compact().remade == ()


def test_what_was_made_from_rows_that_are_gone_is_not_kept(furnished: Gallery) -> None:
    generation = furnished.manifest.generation
    furnished.delete(items=[3])
    furnished.compact()
    before = contents(furnished.path)
    with pytest.raises(UsageError, match=f"generation {generation} is gone"):
        furnished.attach("graph", lambda folder: None, generation=generation)
    assert contents(furnished.path) == before
