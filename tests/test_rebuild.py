"""Gallery.rebuild: the same items with other vectors, and nothing left of the former ones."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROWS, contents, ids
from numpy.typing import NDArray

import reid_index.upkeep.compact
from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Metric,
    Reranking,
    verify_gallery,
    write_shard,
)
from reid_index.errors import BadShard, GalleryLocked, NothingToIndex, UsageError
from reid_index.store.commit import writer_lock

MakeGallery = Callable[..., Gallery]

NEW = Fingerprint(name="external:new", version="2")
RECIPE = {"extractor": "external:new"}


def shard(
    path: Path,
    vectors: Any,
    items: Sequence[int] | None,
    *,
    fingerprint: Fingerprint = NEW,
    metric: Metric = Metric.COSINE,
    dtype: str = "float32",
    **more: Any,
) -> Path:
    """A shard of an extraction: vectors and which items they are of."""
    arrays = {"global": np.asarray(vectors, np.float64), **more}
    table = pa.table({"source": pa.nulls(len(vectors), pa.string())})
    write_shard(
        path,
        arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
        items=[table if items is None else table.append_column("item", pa.array(items))],
        fingerprint=fingerprint,
        metric=metric,
        dtype=dtype,
    )
    return path


def directions(count: int) -> NDArray[np.float64]:
    """Different unit vectors (count, 2)."""
    angles = np.linspace(0, 3, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def all_vectors(gallery: Gallery) -> NDArray[np.float32]:
    return gallery.vectors(range(len(gallery)))


@pytest.fixture
def people(make_gallery: MakeGallery) -> Gallery:
    """Items 0 … 8 in shards of roots a, b, a; 1 and 4 are deleted."""
    gallery = make_gallery()
    for first, root in ((0, "/a"), (3, "/b"), (6, "/a")):
        known = [
            {
                "source": f"{number}.jpg",
                "person": f"p{number}",
                "camera": number % 2,
                "start": "2024-05-01T14:00",
                "track": "t",
                "box": [number, 1, 2, 3],
                "attr.hat": "yes",
                "floor": number,
            }
            for number in range(first, first + 3)
        ]
        gallery.add(ROWS, known, root=root)
    gallery.delete(items=[1, 4])
    return gallery


def test_items_get_the_vectors_that_name_them_and_keep_all_else(
    people: Gallery, tmp_path: Path
) -> None:
    made, former = directions(9), people.items
    parts = [
        shard(tmp_path / "1", 2 * made[[7, 0, 3, 99 % 9]], [7, 0, 3, 99], dtype="float16"),
        shard(tmp_path / "2", made[[8, 2, 6, 5, 4]], [8, 2, 6, 5, 4], dtype="float16"),
    ]
    done = people.rebuild(parts, recipe=RECIPE)
    expected = made[[0, 2, 3, 5, 6, 7, 8]]
    for gallery in (people, Gallery.open(people.path)):
        np.testing.assert_allclose(all_vectors(gallery), expected, atol=1e-3)
        assert gallery.items.equals(former)
        assert [gallery.root_of(row) for row in range(7)] == ["/a"] * 2 + ["/b"] * 2 + ["/a"] * 3
        manifest = gallery.manifest
        assert (manifest.dim, manifest.dtype, manifest.fingerprint) == (2, "float16", NEW)
        assert (manifest.recipe, manifest.next_item, manifest.deleted) == (RECIPE, 9, 0)
        assert gallery.search(made[6], k=1).matches[0].item == 6
    assert (done.rows, done.removed, done.missing) == (7, 2, 0)
    assert (done.shards_before, done.shards_after, done.pending) == (3, 3, ())
    assert [past.event.what for past in people.history()][-2:] == ["delete", "rebuild"]
    assert people.history()[-1].event.rows == 2
    assert verify_gallery(Gallery.open(people.path)) == []
    people.add([[1.0, 0.0]], [{"source": "9.jpg"}])
    assert ids(people)[-1] == 9


def test_nothing_of_former_vectors_and_deleted_items_is_left(
    people: Gallery, tmp_path: Path
) -> None:
    assert any(b"p4" in content for content in contents(people.path).values())
    people.rebuild([shard(tmp_path / "1", directions(9), range(9))], recipe=RECIPE)
    left = contents(people.path)
    assert sorted(left) == sorted(
        ["CURRENT", "lock", "manifest-000005.json"]
        + [
            f"shards/000005-{number}/{name}"
            for number in range(3)
            for name in ("items.parquet", "shard.json", "vectors.h5")
        ]
    )
    columns = [str(gallery) for gallery in people.items["person"].to_pylist()]
    assert "p4" not in columns
    for content in left.values():
        assert b"p4" not in content
        assert b"p1" not in content
        assert directions(9)[4].astype(np.float32).tobytes() not in content


def test_the_shards_are_those_of_a_gallery_built_anew_bit_for_bit(
    make_gallery: MakeGallery, tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = 9000  # several pieces, each from both parts
    vectors = rng.normal(size=(rows, 5))
    more = {
        "parts": rng.normal(size=(rows, 2, 3)),
        "visible": rng.integers(2, size=(rows, 2)).astype(np.uint8),
    }
    straight = shard(tmp_path / "straight", vectors, None, **more)
    anew = make_gallery("anew", dim=5, fingerprint=NEW)
    anew.add_shards([straight])

    gallery = make_gallery()
    gallery.add(rng.normal(size=(rows, 3)))
    order = rng.permutation(rows)
    parts = [
        shard(
            tmp_path / f"part-{number}",
            vectors[half],
            half,
            **{name: array[half] for name, array in more.items()},
        )
        for number, half in enumerate((order[:4000], order[4000:]))
    ]
    gallery.rebuild(parts, recipe=RECIPE)
    ours, theirs = (path.path / "shards" for path in (gallery, anew))
    assert (ours / "000002-0" / "vectors.h5").read_bytes() == (
        theirs / "000001" / "vectors.h5"
    ).read_bytes()
    assert gallery.items.equals(anew.items)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what is mapped")
def test_parts_do_not_stay_mapped(people: Gallery, tmp_path: Path) -> None:
    part = shard(tmp_path / "1", directions(9), range(9))
    seen: list[bool] = []

    def look(rows: int) -> None:
        seen.append(str(part) in Path("/proc/self/maps").read_text())

    people.rebuild([part], recipe=RECIPE, progress=look)
    assert seen == [False] * 3  # items are written behind the vectors


def test_items_without_a_vector_are_refused_or_left_out_by_choice(
    people: Gallery, tmp_path: Path
) -> None:
    part = shard(tmp_path / "1", directions(9)[[0, 3, 5, 6]], [0, 3, 5, 6])
    before = contents(people.path)
    with pytest.raises(UsageError, match=r"no vector of 3 of its 7 items \(2, 7, 8\)"):
        people.rebuild([part], recipe=RECIPE)
    with pytest.raises(UsageError, match=r"no vector of 1 of its 7 items \(7\)"):
        people.rebuild([part], recipe=RECIPE, drop_missing=[2, 8, 77])
    assert contents(people.path) == before
    done = people.rebuild([part], recipe=RECIPE, drop_missing=True)
    assert (done.rows, done.removed, done.missing) == (4, 2, 3)
    assert people.history()[-1].event.rows == 5
    assert ids(people) == [0, 3, 5, 6]
    np.testing.assert_allclose(all_vectors(people), directions(9)[[0, 3, 5, 6]], atol=1e-6)
    assert verify_gallery(Gallery.open(people.path)) == []


def other_shards(folder: Path, case: str) -> list[Path]:
    first = shard(folder / "1", directions(9)[:5], range(5))
    rest: dict[str, Callable[[], list[Path]]] = {
        "none": list,
        "unnamed": lambda: [first, shard(folder / "2", directions(4), None)],
        "twice": lambda: [first, shard(folder / "2", directions(5), range(4, 9))],
        "extractor": lambda: [
            first,
            shard(
                folder / "2",
                directions(4),
                range(5, 9),
                fingerprint=Fingerprint(name="external:new", version="3"),
            ),
        ],
        "dtype": lambda: [first, shard(folder / "2", directions(4), range(5, 9), dtype="float16")],
        "metric": lambda: [
            first,
            shard(folder / "2", directions(4), range(5, 9), metric=Metric.EUCLIDEAN),
        ],
        "arrays": lambda: [
            first,
            shard(folder / "2", directions(4), range(5, 9), parts=np.ones((4, 1, 1))),
        ],
        "others": lambda: [shard(folder / "2", directions(2), [1, 99])],
    }
    return rest[case]()


@pytest.mark.parametrize(
    ("case", "error", "text"),
    [
        ("none", UsageError, "got none"),
        ("unnamed", BadShard, "4 of its rows do not say which item they are of"),
        ("twice", UsageError, "item 4 is in the shards twice"),
        ("extractor", BadShard, "not of one extractor, metric, type and shape"),
        ("dtype", BadShard, "not of one extractor, metric, type and shape"),
        ("metric", BadShard, "not of one extractor, metric, type and shape"),
        ("arrays", BadShard, "not of one extractor, metric, type and shape"),
        ("others", NothingToIndex, "a vector of none of its items"),
    ],
)
def test_shards_that_do_not_fit_are_refused_and_nothing_changes(
    people: Gallery, tmp_path: Path, case: str, error: type[Exception], text: str
) -> None:
    before = contents(people.path)
    shards = other_shards(tmp_path, case)
    with pytest.raises(error, match=text):
        people.rebuild(shards, recipe=RECIPE, drop_missing=True)
    assert contents(people.path) == before
    assert people.dim == 3


def test_a_reader_keeps_what_it_has_and_is_named(people: Gallery, tmp_path: Path) -> None:
    reader = Gallery.open(people.path)
    before = all_vectors(reader)
    done = people.rebuild([shard(tmp_path / "1", directions(9), range(9))], recipe=RECIPE)
    assert [held.generation for held in done.pending] == [4]
    if sys.platform == "linux":
        assert done.pending[0].processes == (os.getpid(),)
    np.testing.assert_array_equal(all_vectors(reader), before)
    assert reader.search(ROWS[2], k=1).matches[0].item == 2
    assert reader.refresh()
    np.testing.assert_allclose(all_vectors(reader), directions(9)[[0, 2, 3, 5, 6, 7, 8]], atol=1e-6)
    reader.close()
    assert people.compact().pending == ()
    assert not (people.path / "manifest-000004.json").exists()
    assert not list((people.path / "deleted").iterdir())


def test_the_graph_is_made_again_from_the_new_vectors(
    make_gallery: MakeGallery, tmp_path: Path, rng: np.random.Generator
) -> None:
    part = shard(tmp_path / "1", rng.normal(size=(30, 4)), range(30))
    gallery, anew = make_gallery(), make_gallery("anew", dim=4, fingerprint=NEW)
    gallery.add(rng.normal(size=(30, 3)))
    anew.add_shards([part])
    for one in (gallery, anew):
        one.build_graph(Reranking(k1=4, k2=2))
    gallery.rebuild([part], recipe=RECIPE, remake=False)
    assert gallery.attached("graph") is None
    gallery.build_graph(Reranking(k1=4, k2=2))
    done = gallery.rebuild([part], recipe=RECIPE)
    assert (done.remade, done.dropped) == (("graph",), ())
    ours, theirs = (one.attached("graph") for one in (gallery, anew))
    assert ours is not None
    assert theirs is not None
    assert not gallery.is_stale("graph")
    assert contents(ours) == contents(theirs)


@pytest.mark.parametrize("is_read", [False, True])
def test_former_vectors_go_before_the_graph_is_made_or_when_their_reader_ends_meanwhile(
    make_gallery: MakeGallery,
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    is_read: bool,
) -> None:
    gallery = make_gallery()
    gallery.add(rng.normal(size=(30, 3)))
    gallery.build_graph(Reranking(k1=4, k2=2))
    reader = Gallery.open(gallery.path) if is_read else None
    seen: list[int] = []

    def made(gallery: Gallery, recipe: object) -> None:
        seen.append(len(list((gallery.path / "shards").iterdir())))
        if reader is not None:
            reader.close()

    monkeypatch.setattr(reid_index.upkeep.compact, "make_again", made)
    part = shard(tmp_path / "1", rng.normal(size=(30, 4)), range(30))
    assert gallery.rebuild([part], recipe=RECIPE).pending == ()
    assert seen == [2 if is_read else 1]
    assert [path.name for path in (gallery.path / "shards").iterdir()] == ["000003-0"]


def test_what_cannot_be_made_again_is_named_and_why(
    make_gallery: MakeGallery, tmp_path: Path, rng: np.random.Generator
) -> None:
    gallery = make_gallery()
    gallery.add(rng.normal(size=(30, 3)))
    gallery.build_graph(Reranking(k1=4, k2=2))
    flat = shard(tmp_path / "1", rng.normal(size=(30, 4)), range(30), metric=Metric.INNER_PRODUCT)
    done = gallery.rebuild([flat], recipe=RECIPE)
    assert gallery.metric is Metric.INNER_PRODUCT
    assert done.remade == ()
    [(kind, why)] = done.dropped
    assert kind == "graph"
    assert "inner product" in why


def test_a_second_writer_is_refused_before_anything_is_written(
    people: Gallery, tmp_path: Path
) -> None:
    part = shard(tmp_path / "1", directions(9), range(9))
    before = contents(people.path)
    with writer_lock(people.path), pytest.raises(GalleryLocked):
        people.rebuild([part], recipe=RECIPE)
    assert contents(people.path) == before


def test_a_rebuild_that_failed_leaves_nothing(people: Gallery, tmp_path: Path) -> None:
    part = shard(tmp_path / "1", directions(9), range(9))
    before = contents(people.path)
    told: list[int] = []

    def fail(rows: int) -> None:
        told.append(rows)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        people.rebuild([part], recipe=RECIPE, progress=fail)
    assert contents(people.path) == before
    assert json.loads((people.path / "CURRENT").read_bytes())["manifest"] == "manifest-000004.json"
