"""Protocols by name, and who is kept on the two sides of an evaluation."""

from typing import Any

import pyarrow as pa
import pytest

from reid_index.errors import BadItems, UsageError
from reid_index.evaluation.protocol import NOBODY, PROTOCOLS, UNKNOWN, get_protocol, label


def table(*rows: dict[str, Any]) -> pa.Table:
    schema = [("item", pa.int64()), ("person", pa.string()), ("camera", pa.int32())]
    return pa.Table.from_pylist(list(rows), schema=pa.schema([*schema, ("role", pa.string())]))


QUERIES = table(
    {"item": 10, "person": "0002", "camera": 1},
    {"item": 11, "person": "-1", "camera": 1},
    {"item": 12, "role": "distractor", "camera": 1},
    {"item": 13, "person": "0007", "camera": 2},
)
GALLERY = table(
    {"item": 20, "person": "0007", "camera": 3},
    {"item": 21, "role": "distractor", "camera": 4},
    {"item": 22, "role": "junk"},
    {"item": 23, "person": "0002"},
    {"item": 24, "person": "-1", "camera": 1},
    {"item": 25, "person": "0001", "camera": 1, "role": "distractor"},
    {"item": 26, "person": "0005", "camera": 6},
)


def test_the_rules_that_differ_from_market1501() -> None:
    plain = get_protocol("market1501")
    assert (plain.ap_rule, plain.unanswerable, plain.same_camera) == ("standard", "skip", True)
    assert (plain.gallery_includes_queries, plain.repeats) == (False, 0)
    unlike = {
        name: {
            field: value
            for field, value in vars(protocol).items()
            if field != "name" and value != getattr(plain, field)
        }
        for name, protocol in PROTOCOLS.items()
    }
    assert {name: rules for name, rules in unlike.items() if rules} == {
        "cuhk03-classic": {"gallery_includes_queries": True, "repeats": 10},
        "mars-official": {
            "ap_rule": "trapezoid",
            "unanswerable": "zero",
            "gallery_includes_queries": True,
        },
    }
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert len(PROTOCOLS) == 13


def test_an_unknown_protocol_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match=r"'market'; there are market1501, .*, csv$"):
        get_protocol("market")


def test_junk_goes_and_distractors_stay_in_the_gallery() -> None:
    labelled = label(QUERIES, GALLERY)
    assert labelled.persons == ("0002", "0005", "0007")
    assert labelled.query_rows.tolist() == [0, 3]
    assert labelled.query.person.tolist() == [0, 2]
    assert labelled.query.camera.tolist() == [1, 2]
    assert labelled.query.item.tolist() == [10, 13]
    assert labelled.gallery_rows.tolist() == [0, 1, 3, 5, 6]
    assert labelled.gallery.person.tolist() == [2, NOBODY, 0, NOBODY, 1]
    assert labelled.gallery.camera.tolist() == [3, 4, UNKNOWN, 1, 6]
    assert labelled.gallery.item.tolist() == [20, 21, 23, 25, 26]


def test_columns_may_be_missing() -> None:
    labelled = label(pa.table({"person": ["b"]}), pa.table({"person": ["a", "-1", "b"]}))
    assert labelled.persons == ("a", "b")
    assert labelled.query.camera.tolist() == [UNKNOWN]
    assert labelled.gallery.item.tolist() == [0, 2]  # the rows


def test_rows_without_a_person() -> None:
    queries = pa.concat_tables([QUERIES, table({"item": 14, "camera": 1})])
    gallery = pa.concat_tables([GALLERY, table({"item": 27}, {"item": 28, "camera": 2})])
    with pytest.raises(BadItems, match=r"1 of 5 queries and 2 of 9 gallery items.*--unlabelled"):
        label(queries, gallery)
    as_distractors = label(queries, gallery, unlabelled="distractor")
    assert as_distractors.query.item.tolist() == [10, 13]
    assert as_distractors.gallery.item.tolist() == [20, 21, 23, 25, 26, 27, 28]
    assert as_distractors.gallery.person.tolist() == [2, NOBODY, 0, NOBODY, 1, NOBODY, NOBODY]
    dropped = label(queries, gallery, unlabelled="drop")
    assert dropped.query.item.tolist() == [10, 13]
    assert dropped.gallery.item.tolist() == [20, 21, 23, 25, 26]
    with pytest.raises(UsageError, match=r"refuse, distractor or drop, got 'keep'"):
        label(queries, gallery, unlabelled="keep")


@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_a_side_without_rows_is_refused(side: str) -> None:
    empty = table({"person": "-1"}, {"role": "junk"})
    queries, gallery = (empty, GALLERY) if side == "queries" else (QUERIES, empty)
    with pytest.raises(UsageError, match=rf"{side}: .* of 2 rows none is left"):
        label(queries, gallery)


def test_tables_without_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="of 0 rows none is left"):
        label(QUERIES.slice(0, 0), GALLERY)
    with pytest.raises(UsageError, match="of 0 rows none is left"):
        label(QUERIES, pa.table({"person": pa.chunked_array([], pa.string())}))
