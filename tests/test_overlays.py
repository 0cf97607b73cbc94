"""Overlays: what is said of attributes later, and how it lies over what the items came with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FINGERPRINT, ROWS, contents, ids
from test_newer_formats import rewrite
from test_verify import recommit

from reid_index import Gallery, verify_gallery
from reid_index.erasure.receipt import read_receipt
from reid_index.erasure.traces import find_traces
from reid_index.errors import BadItems, CorruptGallery, FormatTooNew, UsageError
from reid_index.store import overlays
from reid_index.store.items import sound_attributes
from reid_index.store.manifest import from_json, to_json
from reid_index.store.overlays import lay_over, said_of
from reid_index.upkeep.verify import unlisted_files

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]
A, B = "model a 1 0123456789ab", "model b 2 0123456789ab"


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    """Items 0 to 5, in two shards; hats of some by a label, of one by a model."""
    made = make_gallery()
    hats = [{"attr.hat": "no"}, {"attr.hat": "no", "attr.hat.origin": A}, {"camera": 1}]
    hats[1]["attr.hat.confidence"] = 0.75  # type: ignore[assignment]
    made.add(ROWS, hats)
    made.add(ROWS, [{"camera": 2}] * 3)
    return made


def seen(gallery: Gallery, name: str = "hat") -> list[tuple[Any, Any, Any]]:
    """Value, confidence, origin of each item."""
    columns = [gallery.items[f"attr.{name}{more}"] for more in ("", ".confidence", ".origin")]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


UNKNOWN = (None, None, None)


# What is seen


def test_a_cell_comes_with_its_confidence_and_origin(gallery: Gallery) -> None:
    said = [
        {"item": 1, "attr.hat": "yes", "attr.hat.confidence": 0.5},
        {"item": 3, "attr.hat": "yes"},
        {"item": 4, "attr.hat": None, "attr.hat.confidence": 0.5},
    ]
    assert gallery.set_attributes(said, origin=B) == 2
    assert seen(gallery) == [
        ("no", None, None),
        ("yes", 0.5, B),
        UNKNOWN,
        ("yes", None, B),
        UNKNOWN,
        UNKNOWN,
    ]
    assert verify_gallery(gallery) == []


@pytest.mark.parametrize(
    ("first", "then", "wins"),
    [
        *((one, one, True) for one in ("person", "label", A)),
        *((low, high, True) for low, high in ((A, "label"), (A, "person"), ("label", "person"))),
        *((high, low, False) for low, high in ((A, "label"), (A, "person"), ("label", "person"))),
    ],
)
@pytest.mark.parametrize("compacted", [False, True])
def test_the_higher_origin_stays_and_of_equal_ones_the_later(
    gallery: Gallery, first: str, then: str, wins: bool, compacted: bool
) -> None:
    gallery.set_attributes([{"item": 5, "attr.hat": "first"}], origin=first)
    gallery.set_attributes([{"item": 5, "attr.hat": "then"}], origin=then)
    if compacted:
        gallery.compact()
        assert len(gallery.manifest.overlays) == 1
    assert seen(gallery)[5] == ("then", None, then) if wins else ("first", None, first)


def test_what_items_came_with_is_a_label_unless_it_says_otherwise(gallery: Gallery) -> None:
    both = [{"item": item, "attr.hat": "yes"} for item in (0, 1)]
    gallery.set_attributes(both, origin=B)
    assert seen(gallery)[:2] == [("no", None, None), ("yes", None, B)]
    gallery.set_attributes(both)
    assert seen(gallery)[:2] == [("yes", None, "label")] * 2


def test_it_equals_saying_cell_by_cell(make_gallery: MakeGallery, rng: np.random.Generator) -> None:
    """Against a loop: items in any order, some deleted, words and sets, all origins."""
    made = make_gallery()
    known: dict[tuple[int, str], tuple[int, Any, Any, str]] = {}
    rank = {"person": 2, "label": 1}
    made.add(rng.normal(size=(40, 3)))
    made.add(rng.normal(size=(30, 3)), [{"item": 200 - number} for number in range(30)])
    made.delete(items=[3, 4, 190])
    there = ids(made)
    for origin in ("label", A, "person", B, A, "person", "label"):
        rows = []
        for item in rng.permutation(there)[: rng.integers(1, 60)].tolist():
            row: dict[str, Any] = {"item": item}
            for name in ("hat", "color"):
                word, sure = rng.integers(4), float(np.float32(rng.random()))
                if word == 0:
                    continue
                value: Any = "abc"[word - 1]
                if name == "color":
                    value = list(rng.permutation(["x", "y", "x", value]))
                row |= {f"attr.{name}": value, f"attr.{name}.confidence": sure}
                kept = sorted(set(value)) if name == "color" else value
                if rank.get(origin, 0) >= known.get((item, name), (-1,))[0]:
                    known[item, name] = (rank.get(origin, 0), kept, sure, origin)
            rows.append(row)
        made.set_attributes(rows, origin=origin)
    for name in ("hat", "color"):
        expected = [known.get((item, name), (0, *UNKNOWN))[1:] for item in there]
        assert seen(made, name) == expected
    assert verify_gallery(made) == []
    before = made.items
    made.compact()
    assert made.items.sort_by("item").to_pylist() == before.sort_by("item").to_pylist()
    assert verify_gallery(made) == []


def test_filters_see_it_also_of_attributes_that_no_shard_has(gallery: Gallery) -> None:
    said = [{"item": 2, "attr.upper_color": ["red", "blue"]}, {"item": 4, "attr.hat": "yes"}]
    gallery.set_attributes(said)

    def found(where: str) -> set[int]:
        return {match.item for match in gallery.search(ROWS[0], where=where).matches}

    assert found("attr.upper_color = 'red'") == {2}
    assert found("attr.hat = 'yes'") == {4}
    assert found("attr.hat.origin = 'label' AND camera = 2") == {4}
    assert gallery.manifest.columns is not None
    assert gallery.manifest.columns["attr.upper_color"].startswith("list")


def test_items_are_deleted_by_what_was_said(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}, {"item": 3, "attr.hat": "yes"}])
    gallery.set_attributes([{"item": 5, "attr.coat": "yes"}])
    assert gallery.delete(where="attr.hat = 'yes'") == 2
    assert gallery.delete(where="attr.coat = 'yes' AND attr.coat.origin = 'label'") == 1
    assert ids(gallery) == [1, 2, 4]


def test_items_that_are_added_later_have_nothing_said_of_them(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 5, "attr.color": ["red"]}])
    gallery.add(ROWS[:1], [{"attr.hat": "yes"}])
    assert seen(gallery, "color")[-2:] == [(["red"], None, "label"), UNKNOWN]
    with pytest.raises(BadItems, match=r"column 'attr.color' holds dictionary.* list"):
        gallery.add(ROWS[:1], [{"attr.color": "red"}])


def test_a_reader_of_a_former_generation_keeps_seeing_it(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 5, "attr.hat": "yes"}])
    with Gallery.open(gallery.path) as reader:
        gallery.clear_attributes()
        gallery.set_attributes([{"item": 5, "attr.hat": "no"}])
        assert seen(reader)[5] == ("yes", None, "label")
        (note,) = unlisted_files(gallery)
        assert note.endswith("000003.parquet: kept for a reader of generation 3")
        gallery.compact()
        assert seen(reader)[5] == ("yes", None, "label")
        assert reader.refresh()
        assert seen(reader)[5] == ("no", None, "label")
    gallery.compact()
    assert unlisted_files(gallery) == []


def test_nothing_said_is_nothing_written(gallery: Gallery) -> None:
    before = contents(gallery.path)
    assert gallery.set_attributes([]) == 0
    assert gallery.set_attributes([{"item": 0, "attr.hat": None}]) == 0
    assert gallery.clear_attributes() == 0
    assert contents(gallery.path) == before


def test_a_table_says_the_same(gallery: Gallery) -> None:
    table = pa.table(
        {
            "item": pa.array([5, 0], pa.int32()),
            "attr.hat": pa.array(["yes", "no"]).dictionary_encode(),
            "attr.hat.confidence": [0.5, None],
            "attr.hat.origin": [None, "person"],
            "attr.color": pa.array([["b", "a"], []], pa.large_list(pa.large_string())),
        }
    )
    assert gallery.set_attributes(table, origin=A) == 3
    assert seen(gallery)[5] == ("yes", 0.5, A)
    assert seen(gallery)[0] == ("no", None, "person")
    assert seen(gallery, "color")[5] == (["a", "b"], None, A)
    assert seen(gallery, "color")[0] == UNKNOWN


# What is refused


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"attr.hat": "yes"}, "no column `item`"),
        ({"item": None, "attr.hat": "yes"}, "the id of each item"),
        ({"item": "5", "attr.hat": "yes"}, "the id of each item"),
        ({"item": 5, "hat": "yes"}, "column 'hat' is none of an attribute: name them attr.NAME"),
        ({"item": 5, "attr.hat.origin": "label"}, "goes with a value"),
        ({"item": 5, "attr.hat": 3}, "holds int64: values are words, or sets"),
        ({"item": 5, "attr.hat": True}, "holds bool: values are words, or sets"),
        ({"item": 5, "attr.hat": [3]}, "values are words, or sets"),
        ({"item": 5, "attr.hat": ""}, "an empty word"),
        ({"item": 5, "attr.x": [""]}, "an empty one"),
        ({"item": 5, "attr.x": ["a", None]}, "an empty one"),
        ({"item": 5, "attr.hat": ["yes"]}, "'attr.hat' holds sets of words, that of .* words"),
        ({"item": 5, "attr.hat": "yes", "attr.hat.confidence": 1.5}, "1.5 in row 0 .* from 0 to 1"),
        ({"item": 5, "attr.hat": "yes", "attr.hat.confidence": -0.1}, "-0.1 in row 0"),
        ({"item": 5, "attr.hat": "yes", "attr.hat.confidence": float("nan")}, "nan in row 0"),
        ({"item": 5, "attr.hat": "yes", "attr.hat.confidence": "much"}, "holds string"),
        ({"item": 5, "attr.hat": "yes", "attr.hat.origin": "rumour"}, "'rumour' is no origin"),
        ({"item": 6, "attr.hat": "yes"}, r"has no item 6 \(1 of the 1 .*nothing was changed"),
    ],
)
def test_what_cannot_be_said_is_refused(gallery: Gallery, said: dict[str, Any], words: str) -> None:
    before = contents(gallery.path)
    with pytest.raises(BadItems, match=words) as caught:
        gallery.set_attributes([said])
    assert "\n" not in str(caught.value)
    assert contents(gallery.path) == before


def test_more_that_is_refused(gallery: Gallery) -> None:
    with pytest.raises(UsageError, match="cannot be called 'Hat'"):
        gallery.set_attributes([{"item": 1, "attr.Hat": "yes"}])
    with pytest.raises(BadItems, match="'rumour' is no origin"):
        gallery.set_attributes([{"item": 1, "attr.hat": "yes"}], origin="rumour")
    with pytest.raises(BadItems, match="item 1 has two rows"):
        gallery.set_attributes([{"item": 1, "attr.hat": "yes"}] * 2)
    gallery.delete(items=[0])
    others = [{"item": item, "attr.hat": "yes"} for item in (9, 8, 7, 2, 0)]
    with pytest.raises(BadItems, match=r"has no item 0, 7, 8, … \(4 of the 5 "):
        gallery.set_attributes(others)
    with pytest.raises(UsageError, match=r"'coat' since items were added$"):
        gallery.clear_attributes(["coat"])
    with pytest.raises(UsageError, match="names are a list"):
        gallery.clear_attributes("hat")


@pytest.mark.parametrize("sure", [-0.1, 1.01, float("nan"), float("inf")])
def test_items_are_not_added_with_a_confidence_that_is_none(gallery: Gallery, sure: float) -> None:
    before = contents(gallery.path)
    with pytest.raises(BadItems, match=r"'attr.hat.confidence' holds .* from 0 to 1"):
        gallery.add(ROWS[:1], [{"attr.hat": "yes", "attr.hat.confidence": sure}])
    assert contents(gallery.path) == before


def test_sets_that_items_come_with_are_sorted_and_never_empty(gallery: Gallery) -> None:
    gallery.add(ROWS, [{"attr.c": ["b", "a", "b"]}, {"attr.c": []}, {"attr.c": None}])
    assert gallery.items["attr.c"].to_pylist()[-3:] == [["a", "b"], None, None]
    # Others of their columns are as they came.
    table = pa.table({"tags": [["b", "a", "b"], []]})
    assert sound_attributes(table).equals(table)


# Taking it back


def test_what_was_said_is_taken_back(gallery: Gallery) -> None:
    before = gallery.items
    gallery.set_attributes([{"item": 0, "attr.hat": "yes", "attr.coat": "no"}])
    gallery.set_attributes([{"item": 4, "attr.coat": "no"}, {"item": 5, "attr.hat": "yes"}])
    assert gallery.clear_attributes(["coat"]) == 2
    assert seen(gallery)[0] == ("yes", None, "label")
    assert "attr.coat" not in gallery.items.column_names
    assert [entry.attributes for entry in gallery.manifest.overlays] == [("hat",)]
    assert gallery.clear_attributes() == 2
    assert gallery.items.equals(before)
    assert gallery.manifest.overlays == ()
    assert list((gallery.path / "overlays").iterdir()) == []
    assert [past.event.what for past in gallery.history()][3:] == ["attributes"] * 4
    assert verify_gallery(gallery) == []
    # Then it may be of another type.
    assert gallery.set_attributes([{"item": 0, "attr.coat": ["no"]}]) == 1


def test_only_what_one_model_said_is_taken_back(gallery: Gallery) -> None:
    for origin, word in ((A, "a"), (B, "b"), ("label", "l")):
        said = [{"item": item, "attr.hat": word} for item in (4, 5)][
            : 1 if origin == "label" else 2
        ]
        gallery.set_attributes(said, origin=origin)
    assert gallery.clear_attributes(origin=B) == 2
    assert [word for word, _, _ in seen(gallery)[4:]] == ["l", "a"]
    assert gallery.clear_attributes(["hat"], origin=B) == 0


def test_what_a_crashed_writer_left_goes(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}])
    left = gallery.path / "overlays" / "000004.parquet"
    left.write_bytes(b"half")
    (note,) = unlisted_files(gallery)
    assert "left over from an interrupted write" in note
    gallery.set_attributes([{"item": 5, "attr.hat": "yes"}])
    assert verify_gallery(gallery) == []
    assert unlisted_files(gallery) == []


# Files


def test_readers_must_know_of_overlays(gallery: Gallery) -> None:
    def told() -> Any:
        return json.loads((gallery.path / gallery.manifest.file_name).read_bytes())

    assert told()["requires"] == []
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}])
    assert (told()["format"], told()["requires"]) == ([1, 6], ["overlays"])
    assert from_json(to_json(gallery.manifest)) == gallery.manifest
    rewrite(gallery.path, {"manifest": lambda m: m | {"requires": ["overlays", "moons"]}})
    with pytest.raises(FormatTooNew, match=r"know of \['moons'\]"):
        Gallery.open(gallery.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o[0].update(file="../000003.parquet"), "outside the gallery"),
        (lambda o: o[0].update(file="overlays/../x.parquet"), "outside the gallery"),
        (lambda o: o[0].update(rows=0), "speaks of no item"),
        (lambda o: o[0].update(rows=True), "where a count"),
        (lambda o: o[0].update(attributes=[]), "are none, or not told apart"),
        (lambda o: o[0].update(attributes="hat"), "are none, or not told apart"),
        (lambda o: o[0].update(attributes=["hat", "hat"]), "are none, or not told apart"),
        (lambda o: o[0].update(attributes=["Hat"]), "cannot be called 'Hat'"),
        (lambda o: o[0].update(attributes=["hat", "moon"]), "has attr.moon, and its columns"),
        (lambda o: o.append(o[0]), "lists an overlay twice"),
        (lambda o: o[0].update(bytes=-1), "where a count"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    gallery: Gallery, change: Callable[[Any], object], words: str
) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}])
    told: Any = to_json(gallery.manifest)
    change(told["overlays"])
    with pytest.raises(ValueError, match=words):
        from_json(told)


def test_damage_is_noticed_before_arrow_sees_it(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}])
    file = gallery.path / gallery.manifest.overlays[0].file
    sound = file.read_bytes()
    file.write_bytes(sound[:-9] + b"x" + sound[-8:])
    with pytest.raises(CorruptGallery, match=r"000003.parquet: its bytes have changed"):
        _ = Gallery.open(gallery.path).items
    assert len(verify_gallery(gallery)) == 1
    file.write_bytes(sound[:-1])
    with pytest.raises(CorruptGallery, match=r"000003.parquet has .* bytes, not"):
        Gallery.open(gallery.path)
    file.unlink()
    with pytest.raises(CorruptGallery, match=r"000003\.parquet is gone"):
        Gallery.open(gallery.path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["attr.hat.origin"]), "it has the columns item, attr.hat, "),
        (lambda t: t.append_column("more", [[1, 2]]), "it has the columns"),
        (lambda t: t.take([1, 0]), "its items are not ascending"),
        (lambda t: t.take([0, 0]), "its items are not ascending"),
        (lambda t: put(t, "item", pa.array([0.5, 1.5])), "'item' holds double"),
        (lambda t: put(t, "item", pa.array([0, None], pa.int64())), "'item' holds int64"),
        (lambda t: put(t, "attr.hat", pa.array([1, 2])), "'attr.hat' holds int64"),
        (lambda t: put(t, "attr.hat.confidence", pa.array([2.0, 1.0], pa.float32())), "from 0 to"),
        (lambda t: t.slice(1), "it has 1 rows, not 2"),
        (
            lambda t: put(t, "attr.hat", pa.array([["a"], ["b"]])),
            "attr.hat is dictionary.* here and list",
        ),
    ],
)
def test_a_file_that_says_what_it_may_not_is_refused(
    gallery: Gallery, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    """Its sums are made to fit."""
    forge(gallery, change)
    with pytest.raises(CorruptGallery, match=words):
        _ = Gallery.open(gallery.path).items
    assert verify_gallery(Gallery.open(gallery.path)) != []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: put(t, "item", pa.array([0, 99])), "of items that are not there"),
        (lambda t: without_first(t), "items of which it says nothing"),
        (
            lambda t: put(
                put(t, "attr.hat", words_of(None, "no")), "attr.coat", words_of("no", None)
            ),
            "a confidence of an unknown hat",
        ),
        (lambda t: put(t, "attr.coat.origin", words_of("label", "label")), "of an unknown one"),
        (lambda t: put(t, "attr.hat.origin", words_of("label", "rumour")), "is no origin"),
        (lambda t: put(t, "attr.color", pa.array([["b", "a"], ["a"]])), "color are not sorted"),
    ],
)
def test_verify_looks_at_what_is_said(
    gallery: Gallery, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    forge(gallery, lambda table: table)
    assert verify_gallery(Gallery.open(gallery.path)) == []
    forge(gallery, change, again=True)
    (line,) = verify_gallery(Gallery.open(gallery.path))
    assert words in line


def words_of(*words: str | None) -> pa.Array:
    return pa.array(words, pa.string()).dictionary_encode()


def without_first(table: pa.Table) -> pa.Table:
    """Nothing is known of the first item any more."""
    for name in table.column_names[1:]:
        rest = table[name].combine_chunks().slice(1)
        table = put(table, name, pa.concat_arrays([pa.nulls(1, rest.type), rest]))
    return table


def put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def forge(gallery: Gallery, change: Callable[[pa.Table], pa.Table], *, again: bool = False) -> None:
    """Say something of two items, then change the file, and the sums of it."""
    if not again:
        said = [
            {"item": 0, "attr.hat": "yes", "attr.hat.confidence": 0.5, "attr.color": ["a"]},
            {"item": 3, "attr.hat": "no", "attr.coat": "no", "attr.color": ["a", "b"]},
        ]
        gallery.set_attributes(said)
    file = gallery.path / gallery.manifest.overlays[0].file
    with pq.ParquetFile(file) as opened:
        table = opened.read()
    pq.write_table(change(table), file)

    recommit(gallery.path)


def test_more_items_than_a_group_of_rows_has(make_gallery: MakeGallery) -> None:
    """Sets of words over several groups, in shard and overlay."""
    made, rows = make_gallery(), 70_000
    colors = [["red"], ["blue", "red"], None]
    table = pa.table({"attr.c": [colors[row % 3] for row in range(rows)]})
    made.add(np.ones((rows, 3), np.float32), table)
    assert made.items["attr.c"].to_pylist() == [colors[row % 3] for row in range(rows)]
    said = pa.table({"item": range(rows), "attr.d": table["attr.c"]})
    made.set_attributes(said)
    assert made.items["attr.d"].equals(made.items["attr.c"])


# Erasure


def test_nothing_of_an_erased_item_is_left(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", dim=3, fingerprint=FINGERPRINT)
    gallery.add(ROWS, [{"source": f"{name}.jpg"} for name in ("ann", "bob", "cyd")])
    gallery.set_attributes(
        [
            {"item": 0, "attr.shirt": "a shirt of Zoë's team", "attr.c": ["light green ochre"]},
            {"item": 1, "attr.shirt": "a plain shirt"},
        ]
    )
    gallery.set_attributes([{"item": 0, "attr.shirt": "a dress that nobody has"}], origin="person")
    gallery.set_attributes([{"item": 2, "attr.shirt": "a plain shirt"}], origin="person")
    assert gallery.delete(items=[0], receipt=tmp_path / "r.json") == 1
    receipt = read_receipt(tmp_path / "r.json")
    left = find_traces(gallery.path, receipt)
    named = {line.partition(":")[0] for line in left.lines}
    assert {f"{gallery.path}/overlays/00000{n}.parquet" for n in (2, 3)} <= named
    assert f"{gallery.path}/overlays/000004.parquet" not in named
    assert (left.compact, left.items, left.strays) == (True, (), ())
    texts = [b"shirt of Zo", b"light green ochre", b"that nobody has"]
    assert all(any(text in raw for raw in contents(gallery.path).values()) for text in texts)
    with Gallery.open(gallery.path):
        done = gallery.compact()
        assert len(done.pending) == 1
        held = find_traces(gallery.path, receipt)
        assert [one.generation for one in held.held] == [5]
        assert (held.strays, held.compact) == ((), False)
    gallery.compact()
    assert find_traces(gallery.path, receipt).lines == ()
    assert not any(text in raw for raw in contents(gallery.path).values() for text in texts)
    assert [word for word, _, _ in seen(gallery, "shirt")] == ["a plain shirt"] * 2
    assert verify_gallery(gallery) == []
    # What comes again by itself is nobody's.
    gallery.set_attributes([{"item": 1, "attr.shirt": "a dress that nobody has"}], origin="person")
    assert find_traces(gallery.path, receipt).lines == ()
    # What somebody else has put there is found, by what was said or by the item.
    notes, copy = gallery.path / "notes.txt", gallery.path / "copy.parquet"
    notes.write_text("They wore a shirt of Zoë's team.")
    pq.write_table(pa.table({"item": [0], "attr.shirt": ["?"]}), copy)
    assert find_traces(gallery.path, receipt).strays == (str(copy), str(notes))
    notes.write_text("They wore a plain shirt.")  # so does one who stays
    assert find_traces(gallery.path, receipt).strays == (str(copy),)


def test_what_an_overlay_should_not_have_is_found_and_compacted_away(
    gallery: Gallery, tmp_path: Path
) -> None:
    forge(gallery, lambda table: table)
    gallery.delete(items=[0], receipt=tmp_path / "r.json")
    gallery.compact()
    receipt = read_receipt(tmp_path / "r.json")
    assert find_traces(gallery.path, receipt).lines == ()
    forge(gallery, lambda table: put(table, "item", pa.array([0])), again=True)
    (line,) = find_traces(gallery.path, receipt).lines
    assert line.endswith("000005.parquet: column 'item', row 0: an erased value")
    assert find_traces(gallery.path, receipt).compact
    gallery.close()
    with Gallery.open(gallery.path) as again:
        again.compact()
    assert find_traces(gallery.path, receipt).lines == ()


def test_a_compaction_writes_overlays_again_only_where_it_must(gallery: Gallery) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}, {"item": 5, "attr.coat": "no"}])
    first = gallery.manifest.overlays
    gallery.compact()
    assert gallery.manifest.overlays == first
    gallery.delete(items=[1])
    gallery.compact()
    assert gallery.manifest.overlays == first
    gallery.delete(items=[5])
    gallery.compact()
    assert [(one.rows, one.attributes) for one in gallery.manifest.overlays] == [(1, ("hat",))]
    assert "attr.coat" not in gallery.items.column_names
    gallery.delete(items=[0])
    gallery.compact()
    assert gallery.manifest.overlays == ()
    assert verify_gallery(gallery) == []


def test_a_rebuild_keeps_what_was_said(gallery: Gallery, tmp_path: Path) -> None:
    gallery.set_attributes([{"item": 0, "attr.hat": "yes"}, {"item": 4, "attr.coat": "no"}])
    gallery.delete(items=[1])
    folders = [gallery.path / folder for folder in gallery.manifest.folders]
    before = gallery.items.to_pylist()
    gallery.rebuild(folders, recipe={"extractor": "other"})
    assert gallery.items.to_pylist() == before
    assert verify_gallery(gallery) == []
    gallery.delete(items=[4])
    folders = [gallery.path / folder for folder in gallery.manifest.folders]
    gallery.rebuild(folders, recipe={"extractor": "other"})
    assert [one.attributes for one in gallery.manifest.overlays] == [("hat",)]
    assert verify_gallery(gallery) == []


# In parts


def test_items_that_an_overlay_says_nothing_of_stay_as_they_are() -> None:
    items = pa.table({"item": [7, 3, 5], "camera": [1, 2, 3]})
    said = said_of([{"item": 3, "attr.hat": "yes"}, {"item": 9, "attr.hat": "no"}])
    assert said["item"].to_pylist() == [3, 9]
    laid = lay_over(items, [said], of=Path("g"))
    assert laid["attr.hat"].to_pylist() == [None, "yes", None]
    assert laid["camera"].to_pylist() == [1, 2, 3]
    assert lay_over(items.slice(0, 0), [said], of=Path("g")).num_rows == 0
    assert lay_over(items, [], of=Path("g")) is items
    assert overlays.cells_in(said) == 2
