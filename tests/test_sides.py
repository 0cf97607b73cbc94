"""The sides of an evaluation: rows picked, files of a list found, tracklets pooled, refusals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FINGERPRINT
from PIL import Image

from cli import sides
from cli.sides import Side
from reid_index import Fingerprint, Gallery, Metric
from reid_index.errors import BadItems, BadSource, ExtractorMismatch, UsageError
from reid_index.store.items import conform
from reid_index.store.shard import write_shard
from reid_index.store.vectors import ArrayStream


def side(*sources, name="side", metric=Metric.EUCLIDEAN, fingerprint=FINGERPRINT, **columns):
    """A side whose rows hold their own numbers: vector (i, 0), item 10 + i, root r0, r1 …"""
    rows = len(sources)
    table = {"item": range(10, 10 + rows), "source": pa.array(sources, pa.string()), **columns}
    vectors = np.zeros((rows, 2), np.float32)
    vectors[:, 0] = np.arange(rows)
    return Side(
        path=Path(name),
        blocks=[vectors],
        items=conform(pa.table(table)),
        roots=np.array([f"r{row}" for row in range(rows)], object),
        metric=metric,
        fingerprint=fingerprint,
    )


def listed(path, *rows, columns=("file", "split")):
    path.write_text("".join(",".join(row) + "\n" for row in (columns, *rows)))
    return path


def rows_of(found):
    return [item - 10 for item in found.items["item"].to_pylist()]


# Rows


def test_rows_come_from_every_block_in_the_order_asked_for():
    blocks = [np.full((2, 3), 1, np.float32), np.arange(6, dtype=np.float16).reshape(2, 3)]
    both = side("a", "b", "c", "d")
    whole = Side(**(vars(both) | {"blocks": blocks}))
    found = whole.matrix(np.array([3, 0, 2, 3]))
    assert found.dtype == np.float32
    assert found.tolist() == [[3, 4, 5], [1, 1, 1], [0, 1, 2], [3, 4, 5]]
    found[:] = 9
    assert blocks[0].max() == 1
    taken = whole.take(np.array([3, 1]))
    assert [block.tolist() for block in taken.blocks] == [[[3, 4, 5], [1, 1, 1]]]
    assert taken.items["source"].to_pylist() == ["d", "b"]
    assert taken.roots.tolist() == ["r3", "r1"]


def test_what_a_path_is_and_what_is_stored_in_it(make_gallery, tmp_path):
    gallery = make_gallery()
    gallery.add([[1, 0, 0], [0, 2, 0]], [{"source": "a"}, {"source": "b"}], root="/one")
    gallery.add([[0, 0, 1]], [{"source": "c"}], root="/two")
    whole = sides.stored_side(gallery.path)
    assert whole.matrix(np.arange(3)).tolist() == np.eye(3).tolist()
    assert whole.roots.tolist() == ["/one", "/one", "/two"]
    assert (whole.gallery.path, whole.metric) == (gallery.path, Metric.COSINE)
    assert whole.take(np.arange(3)).gallery is None
    shard = gallery.path / gallery.manifest.shards[0].folder
    assert [sides.kind_of(path) for path in (gallery.path, shard, tmp_path, tmp_path / "none")] == [
        "gallery",
        "shard",
        "dataset",
        "dataset",
    ]
    part = sides.stored_side(shard)
    assert (part.items["item"].to_pylist(), part.roots.tolist()) == ([0, 1], ["/one", "/one"])
    assert (part.fingerprint, part.gallery) == (FINGERPRINT, None)


def test_rows_of_a_shard_without_ids_are_told_apart_by_their_numbers(tmp_path):
    write_shard(
        tmp_path / "s",
        arrays={"global": ArrayStream.of(np.eye(3, dtype=np.float32))},
        items=[conform(pa.table({"source": ["a", "b", "c"]}))],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    assert sides.stored_side(tmp_path / "s").items["item"].to_pylist() == [0, 1, 2]


# Lists


def test_files_are_found_by_path_then_by_its_end_then_by_name(tmp_path):
    path = listed(
        tmp_path / "s.csv",
        ("b/x.jpg", "query"),
        ("other.jpg", "gallery"),
        ("day1/c/x.jpg", "query"),
        ("y.jpg", "query"),
        ("elsewhere/z.jpg", "query"),
    )
    whole = side("a/x.jpg", "b/x.jpg", "c/x.jpg", "day/b/x.jpg", "q/y.jpg", "q/z.jpg", "other.jpg")
    found = sides.apply_split(whole, path, "query")
    assert rows_of(found) == [1, 2, 4, 5]
    assert found.matrix(np.arange(4))[:, 0].tolist() == [1, 2, 4, 5]
    assert rows_of(sides.apply_split(whole, path, "gallery")) == [6]


def test_the_end_of_a_path_is_whole_names(tmp_path):
    path = listed(tmp_path / "s.csv", ("b/x.jpg", "query"))
    with pytest.raises(BadItems, match=r"s\.csv: 'b/x\.jpg' may be 2 items of side; give longer"):
        sides.apply_split(side("ab/x.jpg", "c/x.jpg"), path, "query")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("x.jpg", "query")], "'x.jpg' may be 2 items of side"),
        ([("b.jpg", "query"), ("b.jpg", "query")], "'b.jpg' and 'b.jpg' are one item of side"),
        ([("p/y.jpg", "query"), ("y.jpg", "query")], "'p/y.jpg' and 'y.jpg' are one item"),
        (
            [("b.jpg", "query"), ("c.jpg", "query"), ("d.jpg", "query")],
            r"2 of its 3 files are not in side \('c.jpg', …\)",
        ),
        ([("", "query"), ("b.jpg", "query")], "1 rows of the split 'query' name no file"),
        ([("b.jpg", "gallery")], "no row has the split 'query'"),
    ],
)
def test_a_list_that_does_not_say_which_rows_is_refused(tmp_path, rows, text):
    whole = side("p/x.jpg", "q/x.jpg", "b.jpg", "p/y.jpg", None)
    with pytest.raises((BadItems, BadSource), match=text) as error:
        sides.apply_split(whole, listed(tmp_path / "s.csv", *rows), "query")
    assert str(error.value).startswith(f"{tmp_path / 's.csv'}: ")


@pytest.mark.parametrize("columns", [("file", "part"), ("name", "split")])
def test_a_list_needs_both_columns(tmp_path, columns):
    path = listed(tmp_path / "s.csv", ("b.jpg", "query"), columns=columns)
    with pytest.raises(BadSource, match="a split is a list with the columns file and split"):
        sides.apply_split(side("b.jpg"), path, "query")


def test_what_the_list_tells_replaces_what_the_side_has_and_nothing_else_does(tmp_path):
    whole = side("a", "b", "c", person=["1", "2", None], camera=[1, 2, None], night=[True] * 3)
    rows = [("c", "query", "0009", ""), ("a", "query", "", "7")]
    path = listed(tmp_path / "s.csv", *rows, columns=("file", "split", "person", "camera"))
    found = sides.apply_split(whole, path, "query").items
    assert found["person"].to_pylist() == ["0009", "1"]
    assert found["camera"].to_pylist() == [None, 7]
    assert found["night"].to_pylist() == [True, True]
    assert found.schema == whole.items.schema
    bare = listed(tmp_path / "bare.csv", ("b", "query"))
    assert sides.apply_split(whole, bare, "query").items["person"].to_pylist() == ["2"]


def test_a_parquet_list_may_hold_numbers(tmp_path):
    table = pa.table({"file": [17, 4], "split": ["query", "query"], "person": [2, 3]})
    pq.write_table(table, tmp_path / "s.parquet")
    found = sides.apply_split(side("4", "17"), tmp_path / "s.parquet", "query")
    assert rows_of(found) == [1, 0]
    assert found.items["person"].to_pylist() == ["2", "3"]


def test_pictures_of_a_folder_that_a_list_names(tmp_path):
    names = ("a/0001_c1_f1.png", "b/0001_c1_f1.png", "b/-1_c2_f1.png", "b/0002_c1_f1.png")
    for name in names:
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 8)).save(tmp_path / "p" / name)
    rows = [(names[1], "query"), ("-1_c2_f1.png", "query"), ("none.png", "gallery")]
    path = listed(tmp_path / "s.csv", *rows)
    source = sides.split_pictures(tmp_path / "p", path, "query")
    # The path tells which of two equal names is meant; junk is not missing.
    assert [picture.source for picture in source.pictures()] == [names[2], names[1]]
    assert next(picture.people[0].columns["role"] for picture in source.pictures()) == "junk"
    assert source.count == 2
    # A path from elsewhere tells nothing but the name.
    other = listed(tmp_path / "o.csv", ("elsewhere/0001_c1_f1.png", "query"))
    assert sides.split_pictures(tmp_path / "p", other, "query").count == 2
    with pytest.raises(BadItems, match=r"s\.csv: none of its files for the split 'gallery' is in"):
        sides.split_pictures(tmp_path / "p", path, "gallery")


# Two extractors


def test_rows_of_two_galleries_are_matched_by_source_and_box():
    boxes = [[1, 2, 3, 4], [5, 6, 7, 8], None]
    first = side("a.jpg", "a.jpg", "b.jpg", box=boxes)
    other = side("b.jpg", "a.jpg", "c.jpg", "a.jpg", box=[None, boxes[1], boxes[0], boxes[0]])
    found = sides.same_rows(first, other)
    assert rows_of(found) == [3, 1, 0]
    assert found.matrix(np.arange(3))[:, 0].tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("first", "other", "text"),
    [
        (("a", None), ("a", "b"), "first: items without a source cannot be found in other"),
        (("a", ""), ("a", ""), "first: items without a source cannot be found in other"),
        (("a", "b"), ("a", "c"), "first: 1 of its 2 files are not in other"),
        (("p/a", "q/a"), ("a", "b"), "first: 'p/a' and 'q/a' are one item of other"),
        (("a",), ("a", "a"), "first: 'a' may be 2 items of other"),
    ],
)
def test_rows_that_cannot_be_matched_are_refused(first, other, text):
    with pytest.raises(BadItems, match=text):
        sides.same_rows(side(*first, name="first"), side(*other, name="other"))


def test_sides_that_cannot_be_compared():
    gallery = side("a", name="g")
    sides.check_comparable(gallery, side("b", name="q"))
    newer = Fingerprint(name="external:test", version="2", height=8)
    with pytest.raises(
        ExtractorMismatch,
        match=r"^q comes from another extractor than g \(version: '2' ≠ '1'; height: 8 ≠ None\)",
    ):
        sides.check_comparable(gallery, side("b", name="q", fingerprint=newer))
    with pytest.raises(UsageError, match="q is compared by cosine, g by euclidean: build both"):
        sides.check_comparable(gallery, side("b", name="q", metric=Metric.COSINE))


def test_pictures_cannot_be_embedded_like_vectors_made_elsewhere(make_gallery):
    with pytest.raises(UsageError, match="gallery: its vectors were made elsewhere"):
        sides.recipe_of(Gallery.open(make_gallery().path), weights=None, device="cpu")


# Tracklets


def pooled(metric):
    whole = side("a/1", "b/1", "a/2", "a/3", camera=[1] * 4, track=["t", "t", "t", None])
    vectors = np.array([[3, 0], [0, 2], [0, 5], [0, 7]], np.float32)
    given = {"blocks": [vectors], "metric": metric, "roots": roots_of("r", "s", "r", "t")}
    return sides.pooled(Side(**(vars(whole) | given)))


def roots_of(*names):
    return np.array(names, object)


def test_tracklets_are_pooled_and_of_length_1_for_cosine():
    means = np.array([[0.5, 0.5], [0, 1], [0, 1]])
    found = pooled(Metric.EUCLIDEAN)
    np.testing.assert_allclose(found.matrix(np.arange(3)), means, atol=1e-7)
    assert (rows_of(found), found.roots.tolist()) == ([0, 1, 3], ["r", "s", "t"])
    assert found.gallery is None
    found = pooled(Metric.COSINE).matrix(np.arange(3))
    np.testing.assert_allclose(found, means / [[0.5**0.5], [1], [1]], atol=1e-7)


def test_tracklets_of_one_name_below_two_roots_are_two():
    two = side("a/1", "a/2", camera=[1] * 2, track=["t"] * 2)
    two = Side(**(vars(two) | {"blocks": [np.ones((2, 2), np.float32)]}))
    assert sides.pooled(two).items.num_rows == 2
    assert sides.pooled(two).roots.tolist() == two.by_track.roots.tolist() == ["r0", "r1"]


def test_rows_by_track_have_the_item_with_the_smallest_id():
    whole = side("a/1", "b/1", "a/2", "a/3", camera=[1] * 4, track=["t", "t", "t", None])
    items = whole.items.set_column(0, "item", pa.array([9, 8, 3, 5]))
    roots = roots_of("r", "s", "r", "t")
    found = Side(**(vars(whole) | {"items": items, "roots": roots})).by_track
    assert found.items["item"].to_pylist() == [3, 8, 5]
    assert found.roots.tolist() == ["r", "s", "t"]
    assert [found.tracks.rows_of(track).tolist() for track in range(3)] == [[0, 2], [1], [3]]
    some = found.take(np.array([2, 0]))
    assert some.items["item"].to_pylist() == [5, 3]
    assert some.roots.tolist() == ["t", "r"]
    assert [some.tracks.rows_of(track).tolist() for track in range(2)] == [[3], [0, 2]]
    # What segments have stays where it is.
    assert some.matrix(np.arange(4))[:, 0].tolist() == [0, 1, 2, 3]


def test_rows_are_segments_where_they_list_their_frames():
    lists = pa.array([["a/1", "a/2"]], pa.list_(pa.string()))
    assert side("a/1", frames=lists).of_segments
    assert not side("a/1", frames=["a/1"]).of_segments
    assert not side("a/1").of_segments
