"""Galleries on disk: what is added is there, and nothing that goes wrong leaves a trace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, ROWS, contents, ids
from numpy.typing import ArrayLike, NDArray

from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Metric,
    ReidIndexError,
    verify_gallery,
    write_shard,
)
from reid_index import files as reid_files
from reid_index.errors import (
    BadItems,
    BadShard,
    CorruptGallery,
    DimensionMismatch,
    ExtractorMismatch,
    GalleryExists,
    GalleryNotFound,
    NotFiniteError,
    UsageError,
)

MakeGallery = Callable[..., Gallery]


def write_part(path: Path, vectors: ArrayLike, items: pa.Table, **options: Any) -> Path:
    write_shard(
        path,
        arrays={"global": ArrayStream.of(np.asarray(vectors))},
        items=[items],
        **{"fingerprint": FINGERPRINT, "metric": Metric.COSINE, **options},
    )
    return path


def test_a_new_gallery_is_empty_and_remembers_what_it_was_told(tmp_path: Path) -> None:
    made = Gallery.create(
        tmp_path / "deep" / "g",
        dim=5,
        fingerprint=FINGERPRINT,
        metric="euclidean",
        dtype="float16",
        recipe={"extractor": "stripes"},
    )
    opened = Gallery.open(str(made.path))
    assert opened.manifest == made.manifest
    assert (opened.dim, opened.metric, len(opened)) == (5, Metric.EUCLIDEAN, 0)
    assert opened.fingerprint == FINGERPRINT
    assert opened.manifest.dtype == "float16"
    assert opened.manifest.recipe == {"extractor": "stripes"}
    assert opened.search([0] * 5).matches == ()


def test_added_rows_are_seen_here_and_by_whoever_opens(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(metric="inner_product")
    gallery.add(ROWS[:2] * 2, [{"camera": 1, "shop": "a"}, {"camera": None}], root="/crops")
    gallery.add(ROWS[2:], [{"camera": 3}])
    for seen in (gallery, Gallery.open(gallery.path)):
        assert len(seen) == 3
        assert seen.manifest.generation == 2
        assert seen.items.select(["item", "camera", "shop"]).to_pylist() == [
            {"item": 0, "camera": 1, "shop": "a"},
            {"item": 1, "camera": None, "shop": None},
            {"item": 2, "camera": 3, "shop": None},
        ]
        assert seen.vectors([2, 0]).tolist() == [[0, 0, 1], [2, 0, 0]]
        assert [seen.root_of(row) for row in range(3)] == ["/crops", "/crops", ""]
        assert seen.row_of(2) == 2
    assert verify_gallery(gallery) == []


def test_rows_and_items_that_are_not_there(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.add(ROWS)
    for row in (-1, 6):
        with pytest.raises(IndexError, match=str(row)):
            gallery.vectors([row])
    with pytest.raises(UsageError, match="no item 6"):
        gallery.row_of(6)


@pytest.mark.parametrize(
    "as_given",
    [
        lambda array: np.asfortranarray(array),
        lambda array: np.repeat(array, 2, axis=0)[::2],
        lambda array: array[:, ::-1].copy()[:, ::-1],
        lambda array: array.astype(">f4"),
        lambda array: array.astype(">f8"),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.float16),
        lambda array: array.astype(np.int8),
        lambda array: array.tolist(),
    ],
)
def test_any_memory_order_and_number_type(
    make_gallery: MakeGallery, as_given: Callable[[NDArray[Any]], Any]
) -> None:
    numbers = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    gallery = make_gallery(metric="inner_product")
    gallery.add(as_given(numbers))
    assert gallery.vectors([0, 1]).tolist() == numbers.tolist()
    query = as_given(numbers)[0]
    assert [match.similarity for match in gallery.search(query).matches] == [14, -24]


def test_inputs_may_be_read_only_and_are_never_changed(make_gallery: MakeGallery) -> None:
    given = np.array([[3, 4, 0], [0, 0, 2]], np.float32)
    given.setflags(write=False)
    before = given.copy()
    gallery = make_gallery()
    gallery.add(given)
    gallery.search(given)
    gallery.search(given[0])
    assert np.array_equal(given, before)


def test_item_ids_are_given_once(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS[:2])
    gallery.add(ROWS, [{"item": 9}, {"item": 4}, {"item": 7}])
    gallery.add(ROWS[:1])
    assert ids(gallery) == [0, 1, 9, 4, 7, 10]
    assert Gallery.open(gallery.path).manifest.next_item == 11


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 1], "not unique"),
        ([0, 5], "below 1"),
        ([-1, 5], "below 1"),
        ([5, None], "some have none"),
    ],
)
def test_item_ids_that_are_refused(
    make_gallery: MakeGallery, given: list[int | None], words: str
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS[:1])
    before = contents(gallery.path)
    with pytest.raises(BadItems, match=words):
        gallery.add(ROWS[:2], [{"item": item} for item in given])
    assert contents(gallery.path) == before


@pytest.mark.parametrize(
    ("vectors", "items", "error", "words"),
    [
        ([[1, 2, np.nan]], None, NotFiniteError, "vector 0 .*NaN"),
        ([[1, 2, 3], [0, np.inf, 0]], None, NotFiniteError, "vector 1 .*Inf"),
        ([[1, 2, 3], [0, 0, 0]], None, NotFiniteError, "vector 1 .*length 0"),
        ([[1, 2, 3, 4]], None, DimensionMismatch, r"\(1, 4\).* 3 dimensions"),
        ([1, 2, 3], None, DimensionMismatch, r"\(3,\)"),
        ([["a", "b", "c"]], None, UsageError, "real numbers"),
        ([[1, 2, 3], [1, 2]], None, UsageError, r"a table of numbers, \(n, 3\)"),
        ([[1j, 0, 0]], None, UsageError, "real numbers, got complex128"),
        (ROWS, [{}, {}], BadItems, "3 vectors but 0 items"),
        (ROWS, [{"camera": 1}], BadItems, "3 vectors but 1 items"),
        (ROWS[:2], [{"camera": 1}, {"camera": "x"}], BadItems, "several types"),
        (ROWS[:1], [{"camera": "x"}], BadItems, "'camera'"),
        (ROWS[:1], [{"number": 2**70}], BadItems, "too large"),
        (ROWS[:1], [{"age": "old"}], BadItems, "age"),
    ],
)
def test_bad_input_leaves_the_gallery_byte_for_byte(
    make_gallery: MakeGallery, vectors: Any, items: Any, error: type[Exception], words: str
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS, [{"age": 3}] * 3)
    before = contents(gallery.path)
    with pytest.raises(error, match=words) as caught:
        gallery.add(vectors, items)
    assert "\n" not in str(caught.value)
    assert contents(gallery.path) == before
    assert len(gallery) == 3


def test_overflow_of_half_precision_leaves_the_gallery(make_gallery: MakeGallery) -> None:
    gallery = make_gallery(metric="euclidean", dtype="float16")
    before = contents(gallery.path)
    with pytest.raises(NotFiniteError, match=r"vector 1 .*float16"):
        gallery.add([[1, 1, 1], [65520, 0, 0]])
    assert contents(gallery.path) == before


def test_adding_nothing_makes_no_generation(make_gallery: MakeGallery, tmp_path: Path) -> None:
    gallery = make_gallery()
    gallery.add(np.empty((0, 3)))
    empty = write_part(tmp_path / "empty", np.empty((0, 3)), pa.table({"camera": pa.nulls(0)}))
    gallery.add_shards([empty])
    gallery.add_shards([])
    assert Gallery.open(gallery.path).manifest.generation == 0


def test_shards_are_added_as_one(make_gallery: MakeGallery, tmp_path: Path) -> None:
    half = {"dtype": "float16", "root": "/crops"}
    parts = [
        write_part(tmp_path / "a", ROWS[:2], pa.table({"camera": [1, 2]}), **half),
        write_part(tmp_path / "b", ROWS[2:], pa.table({"camera": [3]}), **half),
    ]
    gallery = make_gallery()
    gallery.add(ROWS[:1])
    gallery.add_shards([str(parts[0]), parts[1]])
    assert gallery.items["camera"].to_pylist() == [None, 1, 2, 3]
    assert ids(gallery) == [0, 1, 2, 3]
    assert gallery.vectors([1, 2, 3]).tolist() == ROWS.tolist()
    assert (gallery.root_of(3), gallery.manifest.generation) == ("/crops", 2)
    assert verify_gallery(gallery) == []


def test_shards_that_do_not_fit(make_gallery: MakeGallery, tmp_path: Path) -> None:
    one, ones = pa.table({"camera": [1]}), [[1.0, 0, 0]]
    other = Fingerprint(name="external:test", version="2", height=128)
    gallery = make_gallery()
    before = contents(gallery.path)
    with pytest.raises(ExtractorMismatch, match=r"version: '2' ≠ '1'; height: 128 ≠ None"):
        gallery.add_shards([write_part(tmp_path / "other", ones, one, fingerprint=other)])
    with pytest.raises(DimensionMismatch, match="2 dimensions, the gallery 3"):
        gallery.add_shards([write_part(tmp_path / "narrow", [[1.0, 0]], one)])
    with pytest.raises(BadShard, match="for euclidean, the gallery compares by cosine"):
        gallery.add_shards([write_part(tmp_path / "far", ones, one, metric=Metric.EUCLIDEAN)])
    with pytest.raises(BadShard, match="not a shard"):
        gallery.add_shards([tmp_path])
    assert contents(gallery.path) == before


def test_create_refuses_what_is_there(make_gallery: MakeGallery, tmp_path: Path) -> None:
    make_gallery("taken")
    with pytest.raises(GalleryExists, match="a gallery already"):
        make_gallery("taken")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("mine")
    with pytest.raises(GalleryExists, match=r"other files \(holiday\.txt"):
        make_gallery("photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.txt"]
    with pytest.raises(GalleryExists, match="is a file"):
        make_gallery("photos/holiday.txt")


@pytest.mark.parametrize(
    ("properties", "words"),
    [({"dim": 0}, "at least 1"), ({"dtype": "int8"}, "int8"), ({"metric": "l1"}, "cosine, ")],
)
def test_create_refuses_wrong_properties(
    make_gallery: MakeGallery, tmp_path: Path, properties: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make_gallery(**properties)
    assert list(tmp_path.iterdir()) == []


def test_no_gallery_there(tmp_path: Path) -> None:
    with pytest.raises(GalleryNotFound, match="no such folder"):
        Gallery.open(tmp_path / "nothing")
    with pytest.raises(GalleryNotFound, match="no CURRENT file"):
        Gallery.open(tmp_path)


def test_readers_hold_their_generation(make_gallery: MakeGallery) -> None:
    writer = make_gallery()
    writer.add(ROWS[:1])
    untouched, warm = Gallery.open(writer.path), Gallery.open(writer.path)
    assert [match.item for match in warm.search(ROWS[0]).matches] == [0]
    writer.add(ROWS)
    for reader in (untouched, warm):
        result = reader.search(ROWS[0])
        assert ([match.item for match in result.matches], result.generation) == ([0], 1)
        assert len(reader) == 1
    untouched.add(ROWS[:1])
    assert ids(untouched) == [0, 1, 2, 3, 4]


def rewrite(gallery: Gallery, *, current: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Change fields of the manifest, with CURRENT's sha256 made to fit, and of CURRENT."""
    path = gallery.path / gallery.manifest.file_name
    data = {**json.loads(path.read_bytes()), **manifest}
    path.write_text(json.dumps(data))
    now = json.loads((gallery.path / "CURRENT").read_bytes())
    now["sha256"] = reid_files.sha256_file(path)
    (gallery.path / "CURRENT").write_bytes(reid_files.json_bytes({**now, **current}))


@pytest.mark.parametrize(
    ("current", "manifest", "words"),
    [
        ({"format": []}, {}, "CURRENT.*no format version"),
        ({"format": [1, 4]}, {}, r"format \[1, 6\], CURRENT \[1, 4\]"),
        ({"manifest": "../manifest-000001.json"}, {}, "CURRENT.*not a manifest"),
        ({"manifest": ".."}, {}, "CURRENT.*not a manifest"),
        ({"manifest": "manifest-000009.json"}, {}, "manifest-000009.json is gone"),
        ({"sha256": "0" * 64}, {}, "sha256"),
        ({}, {"dim": "wide"}, "manifest-000001.json.*wide"),
        ({}, {"shards": [{"folder": "/etc", "files": {}, "rows": 0}]}, "outside the gallery"),
        ({}, {"shards": [{"folder": "..", "files": {}, "rows": 0}]}, "outside the gallery"),
        ({}, {"shards": [{"folder": "shards/..", "files": {}, "rows": 0}]}, "outside"),
        ({}, {"shards": [{"folder": "shards/1", "files": {"..": {}}, "rows": 0}]}, "outside"),
        ({}, {"shards": [{"folder": "shards/1", "files": {"../x": {}}, "rows": 0}]}, "outside"),
        ({}, {"shards": [{"folder": "shards/1", "files": {"/x": {}}, "rows": 0}]}, "outside"),
    ],
)
def test_bookkeeping_that_is_refused(
    make_gallery: MakeGallery, current: dict[str, Any], manifest: dict[str, Any], words: str
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    rewrite(gallery, current=current, manifest=manifest)
    with pytest.raises(CorruptGallery, match=words) as caught:
        Gallery.open(gallery.path)
    assert isinstance(caught.value, ReidIndexError)
    assert "\n" not in str(caught.value)


def test_newer_minor_format_may_bring_fields(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    newer = {"format": [1, 5], "colour": "new"}
    rewrite(gallery, current=newer, manifest=newer)
    assert len(Gallery.open(gallery.path).search(ROWS[0]).matches) == 3
